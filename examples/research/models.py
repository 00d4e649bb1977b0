"""What the agents hand to each other: plain data, nothing that acts.

A path is relative to the folder and uses ``/``; lines count from 1, as editors and ``grep -n`` do.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

__all__ = [
    "Answer",
    "AnswerRequest",
    "Document",
    "Draft",
    "LeftOut",
    "Part",
    "Problem",
    "Question",
    "Quote",
    "ReadRequest",
    "Reading",
    "ReplanRequest",
    "Report",
    "ReviewRequest",
    "SentBack",
    "SplitRequest",
    "Survey",
    "Term",
    "Verdict",
    "WriteRequest",
]


class Question(BaseModel):
    """What is asked, of which folder, and where the answer goes (a folder too)."""

    text: str
    folder: str
    out: str


class Term(BaseModel):
    """A word of the question as it is compared (``words.stem``), and how telling it is here.

    ``weight``: the fewer documents have it, the higher; 0 if none does.
    """

    stem: str
    word: str
    weight: float


class Document(BaseModel):
    """A document that has words of the question: ``counts`` by stem, ``words`` in all."""

    path: str
    title: str
    words: int
    counts: dict[str, int]


class LeftOut(BaseModel):
    """A file that is no source, and why."""

    path: str
    reason: str


class Survey(BaseModel):
    """The inverted index of a folder, as far as the question goes: its terms, the best documents.

    ``total``: documents in the folder. ``mean_words``: of a document.
    """

    total: int
    mean_words: float
    terms: list[Term]
    documents: list[Document]
    left_out: list[LeftOut]


class SplitRequest(BaseModel):
    """What the planner is asked first."""

    question: Question
    survey: Survey


class Part(BaseModel):
    """A part of the question. ``sources`` are to be read; ``spares`` stand in, best first."""

    number: int
    text: str
    terms: list[Term]
    sources: list[str]
    spares: list[str] = []


class ReadRequest(BaseModel):
    """What a reader is asked: search one document for a part of the question."""

    folder: str
    path: str
    part: Part


class Quote(BaseModel):
    """Whole lines of a document, word for word. ``stems``: the terms that stand in them."""

    path: str
    line: int
    text: str
    stems: list[str]
    score: float

    @property
    def last_line(self) -> int:
        """The number of its last line."""
        return self.line + self.text.count("\n")

    @property
    def place(self) -> str:
        """``file:line``, or ``file:first-last``."""
        lines = f"{self.line}-{self.last_line}" if self.last_line > self.line else f"{self.line}"
        return f"{self.path}:{lines}"


class Reading(BaseModel):
    """What a reader found, best first. ``problem``: why there is no such source; else empty."""

    path: str
    digest: str = ""
    problem: str = ""
    quotes: list[Quote] = []


class ReplanRequest(BaseModel):
    """What the planner is asked when readers have come back.

    ``maps``: the ids of all tasks that read for this part; ``readings`` are the last one's.
    """

    folder: str
    part: Part
    maps: list[str]
    readings: list[Reading]


class AnswerRequest(BaseModel):
    """What the writer is asked: answer one part. ``readings``: of each map that read for it."""

    folder: str
    part: Part
    readings: list[list[Reading]]


class Draft(BaseModel):
    """The quotes that are to answer a part."""

    quotes: list[Quote]


class Problem(BaseModel):
    """What the critic found. ``subject``: the place or the stem that it is about.

    ``mendable``: something that is known, or can still be read, might help.
    """

    kind: Literal["wrong", "twice", "few", "one-sided", "uncovered"]
    subject: str
    text: str
    mendable: bool = True


class ReviewRequest(BaseModel):
    """What the critic is asked. ``known``: the quotes that the writer could have chosen from;
    ``unread``: documents that may say more.
    """

    folder: str
    part: Part
    draft: Draft
    known: list[Quote]
    unread: list[str]


class Verdict(BaseModel):
    """What the critic says. If it is not accepted: why, and which documents to read besides."""

    accepted: bool
    problems: list[Problem]
    read_more: list[str] = []


class SentBack(BaseModel):
    """A draft that the critic sent back."""

    round: int
    problems: list[Problem]


class Answer(BaseModel):
    """A part that is answered. ``open``: what was left to complain of after the last round."""

    part: Part
    quotes: list[Quote]
    rounds: int
    sent_back: list[SentBack]
    missing: list[LeftOut]
    open: list[Problem]


class WriteRequest(BaseModel):
    """What the writer is asked at the end."""

    question: Question
    survey: Survey
    answers: list[Answer]


class Report(BaseModel):
    """What a run answers: the answer as text, where it was written, and what is in it."""

    path: str
    text: str
    documents: int
    quotes: int
    sent_back: int
    missing: int
    answers: list[Answer]
