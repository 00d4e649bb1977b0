"""Drafts about one task: what keeps it, what closes it, what forgets it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from holdfast.agents.ledger.book import Book
from holdfast.agents.ledger.drafts import (
    TOMBSTONES_MAX,
    Answer,
    Draft,
    Identity,
    Outbox,
    Write,
    tombstones,
    too_large,
)
from holdfast.agents.ledger.entry import Ending, Entry, Incoming, Phase, StepWrite
from holdfast.agents.ledger.inbox import Inbox
from holdfast.agents.ledger.keys import step_key
from holdfast.agents.ledger.markers import cancelled_failure
from holdfast.agents.ledger.state import KeyedState
from holdfast.schemas.records import Failed, Outcome, StepKind, TaskResult

__all__ = ["STEPS_BYTES_MAX", "STEPS_MAX", "Closing"]

STEPS_MAX = 200
STEPS_BYTES_MAX = 4 * 1024 * 1024
"""One draft writes so many steps of a task, of so many bytes, and one more; the rest comes with
the next commit."""


class Closing:
    """Makes drafts, and does to the book what follows from each.

    `take` takes up a new attempt.
    """

    def __init__(
        self,
        identity: Identity,
        book: Book,
        outbox: Outbox,
        state: KeyedState,
        inbox: Inbox,
        take: Callable[[Entry | None, Incoming], None],
    ) -> None:
        self._identity = identity
        self._book = book
        self._outbox = outbox
        self._state = state
        self._inbox = inbox
        self._take = take

    def keep(self, entry: Entry, now_ms: int) -> Draft:
        """Draft what an open task needs in the journal: its acceptance, its steps.

        Steps that are too many for one draft stay in `entry.writes`.
        """
        writes: list[Write] = []
        wanted = entry.wanted
        if entry.drafted != wanted:
            entry.drafted = wanted
            entry.accepted = entry.journaled = True
            writes.append((entry.name, entry.as_accepted()))
        steps = entry.writing = _take_steps(entry)
        writes += [(step_key(entry.name, step.name, step.key), step.entry) for step in steps]

        def apply() -> None:
            entry.written = max(entry.written, wanted)
            self._steps_written(entry, draft)

        asked = [step.record for step in steps if step.record is not None]
        refuse = partial(self._refused, entry, now_ms, steps)
        draft = Draft(apply, refuse, writes, entry, steps, records=asked)
        return draft

    def close(self, entry: Entry, now_ms: int) -> Draft:
        """Draft the end of an attempt."""
        ending = entry.ending
        assert ending is not None
        entry.move(Phase.CLOSING)
        if ending.outcome is Outcome.SUCCEEDED or entry.released:
            # One that is released was given up, and its end counts for nobody.
            state = {} if entry.released else ending.state
            writes, rest = _split(tombstones(entry))
            answers = _take_answers(entry)  # not written: passed, once all is removed
            return Draft(
                partial(self._finished, entry, state, rest, answers),
                partial(self._refused, entry, now_ms, answers),
                self._state.writes(entry, state, now_ms) + writes,
                entry,
                answer=self._answer(entry, ending),
                records=() if entry.released else ending.published,
            )
        return self._fail(entry, ending, now_ms)

    def release(self, entry: Entry) -> None:
        """Draft the end of a task whose last attempt has ended."""
        entry.move(Phase.CLOSING)
        entry.size_bytes = 0
        writes, rest = _split(tombstones(entry))
        self._outbox.add(Draft(partial(self._forget, entry, rest), _never, writes, entry))

    def keep_failed(self, entry: Entry, *, passes: bool) -> None:
        """Draft the end of an attempt that was answered before its record came.

        `passes`: once it is committed the next task of its order key may begin; not before, since
        who owns the slot next may read the record before the cancel, and begin it after all.
        """
        entry.journaled = True
        key = None if passes else entry.order_key

        def apply() -> None:
            if passes:
                self._leave_order(entry)

        failed = Failed(entry.attempt, key, entry.order_offset)
        self._outbox.add(Draft(apply, _never, [(entry.name, failed)]))

    def begin_anew(self, entry: Entry) -> None:
        """Drop what a restarted task has journaled before, if its new attempt says so.

        Ahead of all that the attempt will write: a tombstone that came later could meet a new step
        under an old one's key. A crash in between is made good when the journal is restored.
        """
        envelope = entry.envelope
        assert envelope is not None
        if envelope.journal_from <= 0 or not entry.steps:
            return
        stale = entry.steps.drop_before(envelope.journal_from, envelope.attempt)
        self.sweep([step_key(entry.name, name, key) for name, key in stale])

    def between_attempts(self, entry: Entry, answers: Sequence[StepWrite]) -> None:
        """Keep answers for the next attempt, which finds them."""
        left = list(answers)
        while left:
            taken, left = _bounded(left)
            writes: list[Write] = []
            for step in taken:
                assert step.entry is not None, "no answer removes a step"
                entry.steps[step.name, step.key] = step.entry
                writes.append((step_key(entry.name, step.name, step.key), step.entry))
            self._outbox.add(Draft(_kept, _never, writes, steps=taken))

    def answer_superseded(self, entry: Entry, now_ms: int) -> None:
        """Draft the answer for an attempt that a newer one replaces."""
        failure = cancelled_failure("superseded by a newer attempt")
        ending = Ending(Outcome.CANCELLED, None, failure, [], now_ms, now_ms)
        self._outbox.put([], self._answer(entry, ending))

    def sweep(self, keys: Sequence[str]) -> None:
        """Remove keys that nothing needs any more, a bounded number at a time."""
        for start in range(0, len(keys), TOMBSTONES_MAX):
            self._outbox.put([(key, None) for key in keys[start : start + TOMBSTONES_MAX]])

    def _fail(self, entry: Entry, ending: Ending, now_ms: int) -> Draft:
        # A step that is not committed runs again, and what was not asked yet is asked again; an
        # answer would not come again.
        answers = _take_answers(entry)
        entry.writes = [step for step in entry.writes if not _asks(step)]
        entry.asking.clear()
        steps, rest = _bounded(answers + entry.writes)
        entry.writes, entry.writing = [], steps
        self.between_attempts(entry, [step for step in rest if step.control is not None])
        writes: list[Write] = [
            (step_key(entry.name, step.name, step.key), step.entry) for step in steps
        ]
        entry.journaled = True
        writes.append((entry.name, entry.as_failed()))

        def apply() -> None:
            self._steps_written(entry, draft)
            self._failed(entry)

        answer = self._answer(entry, ending)
        refuse = partial(self._refused, entry, now_ms, steps)
        undone = [step.record for step in steps if step.record is not None]
        draft = Draft(apply, refuse, writes, entry, steps, answer, undone)
        return draft

    def _refused(self, entry: Entry, now_ms: int, steps: Sequence[StepWrite], reason: str) -> Draft:
        """The bus does not take one of the task's records: the attempt fails instead."""
        if entry.phase is Phase.ASLEEP:
            self._book.wake(entry)
        if entry.phase is not Phase.CLOSING:
            entry.move(Phase.CLOSING)
        old = entry.ending
        started_ms = old.started_ms if old is not None else now_ms
        # Answers are kept, also those that the refused draft held: they would not come again.
        entry.writes = [step for step in (*steps, *entry.writes) if step.control is not None]
        entry.ending = Ending(Outcome.FAILED, None, too_large(reason), [], started_ms, now_ms)
        draft = self._fail(entry, entry.ending, now_ms)
        draft.refuse = _never
        for step in draft.steps:
            self._inbox.deal(step)  # those that the refused draft did not hold
        return draft

    def _answer(self, entry: Entry, ending: Ending) -> Answer:
        envelope = entry.envelope
        assert envelope is not None
        result = TaskResult(
            envelope.task_id,
            entry.attempt,
            ending.outcome,
            ending.output,
            ending.failure,
            ending.steps,
            ending.started_ms,
            ending.finished_ms,
            entry.resumes,
            self._identity.instance,
            self._identity.build_id,
        )
        return Answer(envelope.run_id, envelope.reply_key, result)

    def _steps_written(self, entry: Entry, draft: Draft) -> None:
        entry.writing = []
        for step in draft.steps:
            step.settled = True
            if step.record is not None:
                entry.asking.pop((step.name, step.key), None)
            if step.entry is None:
                entry.steps.pop((step.name, step.key), None)
            else:
                entry.steps[step.name, step.key] = step.entry
                entry.resumes_since_step, entry.alone = 0, False
        answered = any(step.control is not None for step in draft.steps)
        if answered and entry.phase is Phase.ASLEEP:
            entry.roused = False
            entry.move(Phase.WAITING)
            self._book.wake(entry)
        elif draft.steps:
            self._book.consider(entry)  # it may have waited for this

    def _failed(self, entry: Entry) -> None:
        strict = entry.strict
        self._inbox.finish_controls(entry)
        entry.move(Phase.FAILED)
        self._book.close(entry)
        if not strict:
            self._leave_order(entry)
        entry.envelope = entry.ending = None
        successor, entry.successor = entry.successor, None
        if successor is not None:
            self._take(entry, successor)
        elif entry.released:
            self.release(entry)

    def _leave_order(self, entry: Entry) -> None:
        """Let the next of its order key come, though the entry is kept."""
        self._book.pass_order(entry)
        entry.order_key = None

    def _finished(
        self,
        entry: Entry,
        state: Mapping[str, bytes | None],
        rest: Sequence[Write],
        answers: Sequence[StepWrite],
    ) -> None:
        for step in answers:
            self._inbox.deal(step)
        if entry.order_key is not None:
            self._state.apply(entry.order_key, state)  # before the next of the key comes
        self._forget(entry, rest)

    def _forget(self, entry: Entry, rest: Sequence[Write]) -> None:
        self._inbox.finish_controls(entry)
        if entry.envelope is not None:  # None: a failed one that is released counted no longer
            self._book.close(entry)
        self._book.forget(entry)
        self.sweep([key for key, _ in rest])
        if entry.successor is not None:
            self._take(None, entry.successor)


def _asks(step: StepWrite) -> bool:
    return step.entry is not None and step.entry.kind is StepKind.ASK


def _take_answers(entry: Entry) -> list[StepWrite]:
    answers = [step for step in entry.writes if step.control is not None]
    entry.writes = [step for step in entry.writes if step.control is None]
    return answers


def _take_steps(entry: Entry) -> list[StepWrite]:
    taken, entry.writes = _bounded(entry.writes)
    return taken


def _bounded(steps: list[StepWrite]) -> tuple[list[StepWrite], list[StepWrite]]:
    """Return what one draft may hold of these, and the rest."""
    count, size = 0, 0
    for step in steps[:STEPS_MAX]:
        count += 1
        result = step.entry.result if step.entry is not None else None
        size += len(result) if isinstance(result, bytes) else 0
        if size >= STEPS_BYTES_MAX:
            break
    return steps[:count], steps[count:]


def _split(writes: list[Write]) -> tuple[list[Write], list[Write]]:
    return writes[:TOMBSTONES_MAX], writes[TOMBSTONES_MAX:]


def _kept() -> None:
    """They are found from the moment on at which they were read."""


def _never(reason: str) -> Draft:
    raise RuntimeError(f"the bus refuses a record of a few hundred bytes: {reason}")
