"""The inverted index of a folder, as far as one question goes: which document has which words."""

from __future__ import annotations

import math
from pathlib import Path

from .answer_markdown import ANSWER_NAME
from .library import Counted, check_folder, count_words
from .models import Document, LeftOut, Question, Survey, Term
from .words import FILE_NAME, content_words

__all__ = ["KEPT_MAX", "survey"]

KEPT_MAX = 100
"""Documents that are handed on: a planner that chooses from more chooses from noise."""


def survey(question: Question) -> Survey:
    """Count the question's words in every document. Raises `BadFolder`."""
    folder = check_folder(question.folder)
    stems: dict[str, str] = {}
    for stem, word in content_words(FILE_NAME.sub(" ", question.text)):
        stems.setdefault(stem, word)
    own = Path(question.out).absolute() / ANSWER_NAME
    left_out: list[LeftOut] = []
    counted = [one for one in count_words(folder, left_out) if folder / one.path != own]
    total_words = sum(one.words.total() for one in counted)
    terms = [Term(stem=stem, word=stems[stem], weight=_weight(stem, counted)) for stem in stems]
    weights = {term.stem: term.weight for term in terms}
    found = [one for one in counted if any(stem in one.words for stem in stems)]
    # The rarest words count: a document that has many common ones is not what is looked for.
    found.sort(key=lambda one: (-sum(weights[s] for s in stems if s in one.words), one.path))
    return Survey(
        total=len(counted),
        mean_words=total_words / max(1, len(counted)),
        terms=terms,
        documents=[_document(one, list(stems)) for one in found[:KEPT_MAX]],
        left_out=left_out,
    )


def _weight(stem: str, counted: list[Counted]) -> float:
    """BM25's inverse document frequency; 0 for a word that no document has."""
    having = sum(stem in one.words for one in counted)
    if not having:
        return 0.0
    return round(math.log(1 + (len(counted) - having + 0.5) / (having + 0.5)), 4)


def _document(one: Counted, stems: list[str]) -> Document:
    return Document(
        path=one.path,
        title=one.title,
        words=one.words.total(),
        counts={stem: one.words[stem] for stem in stems if stem in one.words},
    )
