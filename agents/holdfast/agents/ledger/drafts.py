"""What the ledger wants written: drafts, which the machine encodes and hands to its slot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from holdfast.agents.ledger.entry import Entry, StepWrite
from holdfast.agents.ledger.keys import JournalBody, step_key
from holdfast.bus.port import Record
from holdfast.schemas.records import (
    Failure,
    FailureKind,
    StateDeletion,
    StepEntry,
    StepKind,
    TaskResult,
)

__all__ = [
    "Answer",
    "Draft",
    "Identity",
    "Outbox",
    "Write",
    "first_that_fits",
    "tombstones",
    "too_large",
]

Write = tuple[str, JournalBody | None]
"""A journal key, and what it shall hold; None removes it."""

TOMBSTONES_MAX = 200
"""How many keys one draft removes at most; the rest goes with the following commits."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who works here, as results say it."""

    instance: str
    build_id: str


@dataclass(slots=True)
class Answer:
    """A result on its way to the coordinator, under the key that it asked for."""

    run_id: str
    reply_key: str
    result: TaskResult


@dataclass(slots=True, eq=False)
class Draft:
    """Writes that stand or fall together: one change of the next commit.

    `apply` is called once all of it is acknowledged. `refuse`, called with what the bus says
    against one of its records, returns the draft that takes its place and settles the same input.
    `deleted`: what was deleted of the state of an order key, for the audit trail.
    """

    apply: Callable[[], None]
    refuse: Callable[[str], Draft]
    writes: list[Write] = field(default_factory=list)
    entry: Entry | None = None
    steps: list[StepWrite] = field(default_factory=list)
    answer: Answer | None = None
    records: Sequence[Record] = ()
    deleted: StateDeletion | None = None

    def shrink(self, key: bytes | None, reason: str) -> bool:
        """Put a failure in the place of an answer that the journal does not take under `key`.

        To the handler that is what became of its ask. The answer itself would come again with each
        restart, and be refused again. False: there is none under `key`, or it is small already.
        """
        for name, body in self.writes:
            answers = isinstance(body, StepEntry) and body.kind is StepKind.ANSWER
            if answers and name.encode() == key:
                assert isinstance(body, StepEntry)
                if body.failure is not None and body.failure.kind is FailureKind.TOO_LARGE:
                    return False
                body.result = None
                body.failure = too_large(reason)
                return True
        return False

    @property
    def size(self) -> int:
        """How many records it makes."""
        told = (self.answer is not None) + (self.deleted is not None)
        return len(self.writes) + len(self.records) + told


def tombstones(entry: Entry) -> list[Write]:
    """Return the writes that remove all keys of a task which exist; `<task>` first.

    First, because keys of steps without their `<task>` are known to be left over.
    """
    found: list[Write] = [(entry.name, None)] if entry.journaled else []
    found += [(step_key(entry.name, name, key), None) for name, key in entry.steps]
    return found


class Outbox:
    """Drafts that are ready for the next commit, in order."""

    def __init__(self) -> None:
        self._drafts: list[Draft] = []

    def __bool__(self) -> bool:
        return bool(self._drafts)

    def add(self, draft: Draft) -> None:
        """Put a draft behind the others."""
        self._drafts.append(draft)

    def put(self, writes: Sequence[Write], answer: Answer | None = None) -> None:
        """Put writes of which nothing further follows; none of them is ever too large."""
        self.add(Draft(apply=_nothing, refuse=_refuse_nothing, writes=list(writes), answer=answer))

    def take(self) -> list[Draft]:
        """Return all drafts, once."""
        drafts, self._drafts = self._drafts, []
        return drafts


def too_large(reason: str) -> Failure:
    """Return the failure that stands for what the bus does not take."""
    return Failure(FailureKind.TOO_LARGE, "Rejected", reason, "", retryable=False)


def first_that_fits(choices: Sequence[Sequence[Record]]) -> Draft:
    """Return a draft of the first choice of records; of the next, where the bus refuses it."""

    def refuse(reason: str) -> Draft:
        if len(choices) == 1:
            raise RuntimeError(f"the bus refuses a record that cannot be left out: {reason}")
        return first_that_fits(choices[1:])

    return Draft(_nothing, refuse, records=choices[0])


def _nothing() -> None:
    """Nothing follows."""


def _refuse_nothing(reason: str) -> Draft:
    raise RuntimeError(f"the bus refuses a record of a few bytes: {reason}")
