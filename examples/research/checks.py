"""What the critic knows for certain: whether quotes stand where they say, are many and various
enough, and have the words of the question. No opinion, so no thinker: it holds for a model's too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .library import Refused, open_document
from .models import Problem, Quote, ReviewRequest
from .words import content_words

__all__ = ["DOCUMENTS_WANTED", "QUOTES_WANTED", "check", "misquoted"]

QUOTES_WANTED = 3
"""For each part, where so many are to be had."""
DOCUMENTS_WANTED = 2


def check(request: ReviewRequest) -> list[Problem]:
    """Return what is wrong with a draft, the worst first."""
    folder = Path(request.folder)
    return [*_wrong(folder, request), *_twice(request), *_few(request), *_uncovered(request)]


def misquoted(folder: Path, quote: Quote) -> str:
    """Return why a quote does not stand where it says; empty if it does, letter by letter."""
    try:
        lines = open_document(folder, quote.path).lines
    except Refused as refused:
        return f"the file cannot be read: {refused}"
    if quote.line < 1 or quote.last_line > len(lines):
        return f"the file ends at line {len(lines)}"
    if lines[quote.line - 1 : quote.last_line] != quote.text.split("\n"):
        return "other words stand there"
    return ""


def _wrong(folder: Path, request: ReviewRequest) -> Iterator[Problem]:
    for quote in request.draft.quotes:
        if why := misquoted(folder, quote):
            yield Problem(kind="wrong", subject=quote.place, text=f"{quote.place}: {why}")


def _twice(request: ReviewRequest) -> Iterator[Problem]:
    seen: dict[str, Quote] = {}
    for quote in request.draft.quotes:
        words = " ".join(quote.text.split())
        if (twin := seen.setdefault(words, quote)) is not quote:
            told = f"{quote.place} says the same as {twin.place}"
            yield Problem(kind="twice", subject=quote.place, text=told)


def _few(request: ReviewRequest) -> Iterator[Problem]:
    quotes, known = request.draft.quotes, request.known
    to_be_had = len({" ".join(quote.text.split()) for quote in known})
    if len(quotes) < QUOTES_WANTED:
        told = f"{len(quotes)} of {QUOTES_WANTED} quotes that are wanted"
        mendable = to_be_had > len(quotes) or bool(request.unread)
        yield Problem(kind="few", subject="", text=told, mendable=mendable)
    documents = {quote.path for quote in quotes}
    if 0 < len(documents) < DOCUMENTS_WANTED:
        (only,) = documents
        told = f"all quotes are from {only}; a second document is wanted"
        mendable = any(quote.path != only for quote in known) or bool(request.unread)
        yield Problem(kind="one-sided", subject=only, text=told, mendable=mendable)


def _uncovered(request: ReviewRequest) -> Iterator[Problem]:
    # Looked up in the words themselves: what a quote says of itself may be wrong.
    covered, known = _stems(request.draft.quotes), _stems(request.known)
    for term in request.part.terms:
        if term.stem not in covered:
            where = "no quote" if term.weight > 0 else "no document"
            mendable = term.stem in known or (term.weight > 0 and bool(request.unread))
            yield Problem(
                kind="uncovered",
                subject=term.stem,
                text=f"{where} has {term.word!r}",
                mendable=mendable,
            )


def _stems(quotes: list[Quote]) -> set[str]:
    return {stem for quote in quotes for stem, _ in content_words(quote.text)}
