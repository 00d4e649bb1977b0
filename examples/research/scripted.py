"""The scripted thinker: an inverted index, BM25 and a few rules. The same input, the same output.

It does what such agents do, on a small scale and without a model: its first draft takes whatever
ranks highest, which gives the critic something to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from .models import Answer, Document, Draft, Part, Problem, Question, Quote, Survey, Term, Verdict
from .passages import Passage, passages
from .words import FILE_NAME, content_words

__all__ = ["PARTS_MAX", "ScriptedThinker"]

PARTS_MAX = 8
SOURCES = 4
"""Documents that are read for each part at first."""
SPARES = 6
QUOTES_FIRST = 3
QUOTES_MAX = 6
FOUND_MAX = 12
"""Quotes that a reader hands on from one document."""
MORE = 2
"""Documents that the critic has read besides, each time."""

_K1, _B = 1.2, 0.75
"""BM25, as everybody sets it."""
_PASSAGE_WORDS = 20
_HEADING_SHARE = 0.5
_EVERYWHERE = 0.25
"""The weight of a term that four of five documents have: it does not tell them apart."""
_CROWDED = 4

_JOINTS = re.compile(
    r"[;?!]|\.\s|,?\s+(?:and|but|or|versus|vs|whereas|while)\s+|,\s+", re.IGNORECASE
)


class ScriptedThinker:
    """See `thinker.Thinker`."""

    def split(self, question: Question, survey: Survey) -> list[Part]:
        """At conjunctions and commas; and where no document has all terms of what is left."""
        terms = {term.stem: term for term in survey.terms}
        parts: list[Part] = []
        for text, named in _clauses(question.text):
            known = [terms[stem] for stem in _stems(text) if stem in terms]
            for group in _groups(known, survey.documents):
                told = text if len(group) == len(known) else f"{text} ({_listed(group)})"
                parts.append(_part(len(parts) + 1, told, group, named, survey))
        return parts[:PARTS_MAX]

    def stand_ins(self, part: Part, missing: list[str]) -> list[str]:
        """One spare for each."""
        return [path for path in part.spares if path not in missing][: len(missing)]

    def search(self, part: Part, path: str, lines: list[str]) -> list[Quote]:
        """The passages with the terms of the part, by BM25."""
        weights = {term.stem: term.weight for term in part.terms}
        quotes = [_quote(path, passage, weights) for passage in passages(lines)]
        found = [quote for quote in quotes if quote.score > 0]
        return sorted(found, key=_rank)[:FOUND_MAX]

    def choose(self, part: Part, known: list[Quote], verdict: Verdict | None) -> Draft:
        """At first what ranks highest; sent back, what the critic has missed before all else."""
        best = sorted(known, key=_rank)
        if verdict is None:
            return Draft(quotes=best[:QUOTES_FIRST])
        refused = {p.subject for p in verdict.problems if p.kind in ("wrong", "twice")}
        usable = _without_twins(quote for quote in best if quote.place not in refused)
        wanted = [p.subject for p in verdict.problems if p.kind == "uncovered"]
        chosen = [_first(quote for quote in usable if stem in quote.stems) for stem in wanted]
        if usable and len({quote.path for quote in usable}) > 1:
            chosen += [usable[0], _first(q for q in usable if q.path != usable[0].path)]
        picked = list({quote.place: quote for quote in chosen if quote is not None}.values())
        for quote in usable:
            if len(picked) >= QUOTES_FIRST:
                break
            if quote not in picked:
                picked.append(quote)
        return Draft(quotes=sorted(picked[:QUOTES_MAX], key=_rank))

    def judge(self, part: Part, problems: list[Problem], unread: list[str]) -> Verdict:
        """Send back whatever can be mended; have more read where a term or a voice is missing."""
        mendable = [problem for problem in problems if problem.mendable]
        more = any(problem.kind in ("few", "one-sided", "uncovered") for problem in mendable)
        return Verdict(
            accepted=not mendable, problems=problems, read_more=unread[:MORE] if more else []
        )

    def conclude(self, question: Question, answers: list[Answer]) -> str:
        """Which parts have an answer, and where the best of it stands."""
        told = []
        for answer in answers:
            if answer.quotes:
                best = min(answer.quotes, key=_rank)
                told.append(f"{answer.part.text}: see {best.place}")
            else:
                told.append(f"{answer.part.text}: no document says anything")
        return "; ".join(told) + "."


def _clauses(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (text, files it names); a clause that says nothing by itself joins the one before."""
    found: list[tuple[str, list[str]]] = []
    names = FILE_NAME.findall(text)
    # A dot inside a file's name ends no sentence, and its parts are no terms.
    marked = FILE_NAME.sub(lambda name: f"\x00{names.index(name[0])}\x00", text)
    for clause in _JOINTS.split(marked):
        named = [names[int(number)] for number in re.findall("\x00(\\d+)\x00", clause)]
        plain = re.sub("\x00(\\d+)\x00", lambda m: names[int(m[1])], clause).strip(" .,:")
        if _stems(re.sub("\x00\\d+\x00", " ", clause)) or not found:
            found.append((plain, named))
        elif plain and named:
            before, earlier = found[-1]
            found[-1] = (f"{before}, {plain}", earlier + named)
    told = [(plain, named) for plain, named in found if plain]
    yield from told or [(text.strip(), [])]


def _stems(text: str) -> list[str]:
    plain = FILE_NAME.sub(" ", text)
    return list(dict.fromkeys(stem for stem, _ in content_words(plain)))


def _listed(terms: list[Term]) -> str:
    return ", ".join(term.word for term in terms)


def _groups(terms: list[Term], documents: list[Document]) -> list[list[Term]]:
    """Split terms of which no document has all: those that are found together stay together."""
    known = [term for term in terms if term.weight > 0]
    if len(known) < _CROWDED or _share_a_document(known, documents):
        return [terms]
    groups: list[list[Term]] = []
    for term in sorted(known, key=lambda term: (-term.weight, term.stem)):
        for group in groups:
            if _share_a_document([*group, term], documents):
                group.append(term)
                break
        else:
            groups.append([term])
    groups[0] += [term for term in terms if term.weight == 0]
    asked = [sorted(group, key=terms.index) for group in groups]
    return sorted(asked, key=lambda group: terms.index(group[0]))


def _share_a_document(terms: list[Term], documents: list[Document]) -> bool:
    return any(all(term.stem in found.counts for term in terms) for found in documents)


def _part(number: int, text: str, terms: list[Term], named: list[str], survey: Survey) -> Part:
    telling = [term for term in terms if term.weight > _EVERYWHERE or term.weight == 0]
    kept = telling if any(term.weight > 0 for term in telling) else terms
    ranked = [document.path for document in _ranked(kept, survey)]
    wanted = [_resolved(name, survey.documents) for name in named]
    others = [path for path in ranked if path not in wanted]
    free = max(0, SOURCES - len(wanted))
    return Part(
        number=number,
        text=text,
        terms=kept,
        sources=list(dict.fromkeys([*wanted, *others[:free]])),
        spares=others[free : free + SPARES],
    )


def _resolved(name: str, documents: list[Document]) -> str:
    """Return the path of a file that the question names; the name itself if there is none such."""
    paths = [document.path for document in documents]
    fits = [path for path in paths if PurePosixPath(path).name == PurePosixPath(name).name]
    return name if name in paths or len(fits) != 1 else fits[0]


def _ranked(terms: list[Term], survey: Survey) -> list[Document]:
    weights = {term.stem: term.weight for term in terms}

    def score(document: Document) -> float:
        length = document.words / max(1.0, survey.mean_words)
        return sum(
            weights[s] * _saturated(n, length) for s, n in document.counts.items() if s in weights
        )

    scored = [(score(document), document) for document in survey.documents]
    return [d for s, d in sorted(scored, key=lambda pair: (-pair[0], pair[1].path)) if s > 0]


def _saturated(count: float, length: float) -> float:
    """BM25: the tenth occurrence says less than the second, and less in a long text."""
    return count * (_K1 + 1) / (count + _K1 * (1 - _B + _B * length))


def _quote(path: str, passage: Passage, weights: dict[str, float]) -> Quote:
    stems = [stem for stem, weight in weights.items() if weight > 0 and stem in passage.words]
    length = passage.words.total() / _PASSAGE_WORDS
    score = sum(
        weights[stem]
        * _saturated(passage.words[stem] + _HEADING_SHARE * (stem in passage.heading), length)
        for stem in stems
    )
    # Two words of the question side by side say more than one of them twice.
    score *= sum(weights[stem] for stem in stems) / max(1e-9, sum(weights.values()))
    return Quote(
        path=path, line=passage.line, text=passage.text, stems=stems, score=round(score, 4)
    )


def _rank(quote: Quote) -> tuple[float, str, int]:
    return -quote.score, quote.path, quote.line


def _without_twins(quotes: Iterable[Quote]) -> list[Quote]:
    return list({" ".join(quote.text.split()): quote for quote in quotes}.values())


def _first(quotes: Iterator[Quote]) -> Quote | None:
    return next(quotes, None)
