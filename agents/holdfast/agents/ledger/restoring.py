"""A slot's journal, read back."""

from __future__ import annotations

from holdfast.agents.ledger.entry import Entry, Phase
from holdfast.agents.ledger.folded import FoldedStep
from holdfast.agents.ledger.keys import JournalBody, parse_key
from holdfast.schemas.records import Accepted, Cancelled, Failed, StepEntry

__all__ = ["Restored"]


class Restored:
    """Collects journal records, the newest of each key, and makes entries of them.

    The order of the newest records matters: a step that was written after its task's `Accepted`
    ends the count of resumes since the last step.
    """

    def __init__(self) -> None:
        self._newest: dict[str, JournalBody | FoldedStep] = {}

    def take(self, key: str, body: JournalBody | FoldedStep | None) -> None:
        """Take one record; the newest of a key stands last."""
        self._newest.pop(key, None)
        if body is not None:
            self._newest[key] = body

    def settle(self) -> tuple[list[Entry], dict[str, Cancelled], list[str]]:
        """Return the tasks by input offset, the markers, and keys that nothing needs any more."""
        entries: dict[str, Entry] = {}
        markers: dict[str, Cancelled] = {}
        accepted_at: dict[str, int] = {}
        for at, (key, body) in enumerate(self._newest.items()):
            if isinstance(body, (StepEntry, FoldedStep)):
                continue
            place = parse_key(key)
            if place is None:
                continue
            if isinstance(body, Cancelled):
                markers[place.task] = body
            elif isinstance(body, Accepted | Failed):
                entries[place.task] = _entry(place.task, body)
                accepted_at[place.task] = at
        leftovers = []
        for at, (key, body) in enumerate(self._newest.items()):
            if isinstance(body, (StepEntry, FoldedStep)):
                task = body.task if isinstance(body, FoldedStep) else _task_of(key)
                owner = entries.get(task)
                if owner is None:
                    leftovers.append(key)  # the rest of a long list of tombstones
                    continue
                if owner.envelope is not None and _is_older(body, owner.envelope.journal_from):
                    leftovers.append(key)  # of before its restart
                    continue
                owner.steps[body.name, body.key] = body
                if not (owner.resumes_since_step or owner.alone):
                    continue  # nothing to take back: no need to decode the step
                if at > accepted_at[owner.name] and body.attempt == owner.attempt:
                    owner.resumes_since_step, owner.alone = 0, False
        return sorted(entries.values(), key=lambda e: e.input_offset), markers, leftovers


def _is_older(step: StepEntry | FoldedStep, journal_from: int) -> bool:
    return journal_from > 0 and step.attempt < journal_from


def _task_of(key: str) -> str:
    place = parse_key(key)
    assert place is not None, key
    return place.task


def _entry(task: str, body: Accepted | Failed) -> Entry:
    if isinstance(body, Failed):
        entry = Entry(task, Phase.FAILED, body.attempt, None, -1)
        entry.order_key, entry.order_offset = body.order_key, body.order_offset
    else:
        envelope = body.envelope
        phase = Phase.ASLEEP if body.asleep else Phase.WAITING
        entry = Entry(task, phase, envelope.attempt, envelope, body.input_offset)
        entry.order_key, entry.order_offset = envelope.order_key, body.order_offset
        entry.resumes = body.resumes
        entry.resumes_since_step = body.resumes_since_step
        entry.strikes, entry.alone = body.strikes, body.alone
        entry.accepted = True
        input_ = envelope.input
        entry.size_bytes = len(input_) if isinstance(input_, bytes) else 0
    entry.consumed = entry.journaled = True
    return entry
