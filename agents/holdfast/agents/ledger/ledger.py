"""What one slot knows of its tasks, what may start, and what the next commit must hold.

Pure: no clock, no I/O. `now_ms` is wall time and goes into records; `at_s` is a monotonic clock's
seconds and drives the rules below.

- A task that finishes in the first commit after its start costs no journal record. One that is
  still open 20 ms after its start is accepted, and with that a commit starts.
- A commit moves the offset past the last record that it closes, accepts or drops; each earlier
  record still open is accepted in it. Else what a crash brings again could be dealt with twice:
  of a task that was forgotten, or a record that was forwarded, nothing is left to tell.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from holdfast.agents.ledger.book import Book
from holdfast.agents.ledger.closing import Closing
from holdfast.agents.ledger.drafts import Draft, Identity, Outbox
from holdfast.agents.ledger.entry import STRIKES_MAX, Ending, Entry, Incoming, Phase, StepWrite
from holdfast.agents.ledger.folded import FoldedStep
from holdfast.agents.ledger.keys import JournalBody
from holdfast.agents.ledger.markers import Markers, cancelled_failure
from holdfast.agents.ledger.restoring import Restored
from holdfast.bus.port import Position
from holdfast.bus.slot.intake import Intake
from holdfast.bus.slot.machine import COMMIT_RECORDS_MAX
from holdfast.schemas.records import (
    ControlAction,
    ControlEnvelope,
    Failure,
    FailureKind,
    Outcome,
    StepEntry,
)

__all__ = ["ACCEPT_AFTER_S", "PROBATION_S", "Ledger"]

ACCEPT_AFTER_S = 0.020
"""A started task that is not accepted yet is accepted after so long."""
PROBATION_S = 10.0
"""After an unclean end each task is accepted before its handler starts, for so long."""

_OPEN = frozenset({Phase.WAITING, Phase.STARTING, Phase.RUNNING})


class Ledger:
    """The tasks of one slot. `topic` is the slot's task topic; `busy` tells whether an older body
    of a task still runs in this process."""

    def __init__(self, identity: Identity, topic: str, busy: Callable[[str], bool]) -> None:
        self._topic = topic
        self._book = Book(busy)
        self._outbox = Outbox()
        self._closing = Closing(
            identity, self._book, self._outbox, self._finish_controls, self._take
        )
        self._markers = Markers(identity, self._outbox)
        self._restored: Restored | None = Restored()
        self._intake = Intake({})
        self._by_offset: dict[int, Entry] = {}
        self._wanting: dict[Entry, None] = {}
        self._ended: deque[Entry] = deque()
        self._uncounted: dict[Entry, None] = {}
        self._unaccepted: deque[tuple[float, Entry, int]] = deque()
        self._probation_until = float("-inf")
        self._stopped = False
        self._moved = False
        self._passed = -1

    # --- restoring -----------------------------------------------------------------------------

    def restore(self, key: str, body: JournalBody | FoldedStep | None) -> None:
        """Take one record of the journal, in the journal's order; steps need not be decoded."""
        assert self._restored is not None, "restore() after opened()"
        self._restored.take(key, body)

    def opened(
        self, positions: Mapping[str, int], *, clean: bool, now_ms: int, at_s: float
    ) -> None:
        """The journal is read. After an unclean end each open task's resume is counted first."""
        assert self._restored is not None, "opened() twice"
        restored, self._restored = self._restored, None
        self._intake = Intake(positions)
        entries, markers, leftovers = restored.settle()
        self._markers.restore(markers)
        self._closing.sweep(leftovers)
        for entry in entries:
            self._book.order.add(entry)
        for entry in entries:
            if entry.phase is Phase.FAILED:
                self._book.hold(entry)
            else:
                self._book.open(entry)
                if not clean:
                    self._count_resume(entry, now_ms)
                elif entry.alone:
                    # It ran alone when its slot was given up. Now it waits: if another one kills
                    # this process meanwhile, it must not be struck for that.
                    entry.alone = False
                    self._uncounted[entry] = None
                    self._want(entry, rewrite=True)
        if not clean:
            self._probation_until = at_s + PROBATION_S

    def _count_resume(self, entry: Entry, now_ms: int) -> None:
        entry.resumes += 1
        entry.resumes_since_step += 1
        entry.strikes += entry.alone
        entry.alone = False
        if entry.strikes >= STRIKES_MAX:
            self.end(entry, _poisoned(entry, now_ms))
        else:
            self._uncounted[entry] = None
            self._want(entry, rewrite=True)

    # --- what comes in -------------------------------------------------------------------------

    def read(self, incoming: Incoming, now_ms: int) -> Entry | None:
        """Take a task record as it was read; return a task whose handler it supersedes."""
        envelope = incoming.envelope
        name = f"{envelope.run_id}/{envelope.task_id}"
        self._intake.read(self._topic, incoming.offset)
        entry = self._book.get(name)
        if entry is not None and envelope.attempt <= entry.attempt:
            self._pass(incoming.offset)
            return None
        if self._markers.settles(name, envelope):
            self._drop_cancelled(name, entry, incoming)
            return None
        if entry is None or entry.phase is Phase.FAILED:
            self._take(entry, incoming)
            return None
        if entry.phase in (Phase.ENDED, Phase.CLOSING):
            # The end of the older attempt can be read, and answered, before we are told of it.
            if entry.successor is not None:
                self._pass(entry.successor.offset)  # nor should two come: the newest is read last
            entry.successor = incoming
            return None
        return self._supersede(entry, incoming, now_ms)

    def skip(self, topic: str, offset: int) -> None:
        """A record of which nothing is to be kept: forwarded, undecodable, or done with."""
        self._intake.read(topic, offset)
        if topic == self._topic:
            self._pass(offset)
        else:
            self._intake.finish(topic, offset)
            self._moved = True

    def cancel(self, control: ControlEnvelope, at: Position, now_ms: int) -> Entry | None:
        """Take a cancel; return a task that holds a place and must be interrupted.

        The slot's offset passes such a cancel only with the end of its attempt: it is not
        journaled, and a crash in between must bring it again.
        """
        name = f"{control.run_id}/{control.task_id}"
        entry = self._book.get(name)
        if entry is not None and entry.attempt == control.attempt and entry.phase in _OPEN:
            if control.action is ControlAction.EXPIRE and entry.begun:
                self.skip(at.topic, at.offset)  # it came too late: the handler's end is the answer
                return None
            self._intake.read(at.topic, at.offset)
            entry.controls.append((at.topic, at.offset))
            if entry.phase is not Phase.WAITING:
                return entry
            self.end(entry, _cancelled(control.reason, now_ms))
            return None
        self.skip(at.topic, at.offset)
        if entry is not None:
            self._drop_successor(entry, control.attempt)
        if entry is None or entry.attempt < control.attempt:
            self._markers.cancel(name, control, now_ms)
        # Otherwise its end is known to the coordinator, or about to be.
        return None

    def release(self, control: ControlEnvelope, at: Position) -> None:
        """Take a release: the task is closed, nothing of it is kept."""
        self.skip(at.topic, at.offset)
        name = f"{control.run_id}/{control.task_id}"
        self._markers.release(name, control.attempt)
        entry = self._book.get(name)
        if entry is None or entry.attempt > control.attempt:
            return
        entry.released = True
        if entry.phase is Phase.FAILED:
            self._closing.release(entry)

    def _drop_successor(self, entry: Entry, attempt: int) -> None:
        """A cancel of an attempt that waits for the acknowledged end of the one before."""
        successor = entry.successor
        if successor is not None and successor.envelope.attempt <= attempt:
            entry.successor = None
            self._pass(successor.offset)

    def _drop_cancelled(self, name: str, entry: Entry | None, incoming: Incoming) -> None:
        """The record of an attempt that was cancelled, and answered, before it was read."""
        self._pass(incoming.offset)
        if entry is not None and entry.phase is not Phase.FAILED:
            return  # its own end is under way; the marker goes with `release` or by age
        released = self._markers.arrived(name, incoming.envelope.attempt)
        passes = False
        if entry is None and not released:
            entry = Entry.first(incoming)
            passes = not entry.strict
            entry.phase, entry.envelope, entry.size_bytes = Phase.FAILED, None, 0
            self._book.order.add(entry)
            self._book.hold(entry)
        if entry is None:
            return
        entry.attempt = incoming.envelope.attempt
        self._closing.keep_failed(entry, passes=passes)
        if released:
            self._closing.release(entry)

    def _take(self, entry: Entry | None, incoming: Incoming) -> None:
        if entry is None:
            entry = Entry.first(incoming)
            self._book.order.add(entry)
        else:
            entry.arm(incoming)
            if entry.order_key is None and incoming.envelope.order_key is not None:
                entry.order_key = incoming.envelope.order_key
                entry.order_offset = incoming.offset
                self._book.order.add(entry)
        self._by_offset[incoming.offset] = entry
        self._book.open(entry)

    def _supersede(self, entry: Entry, incoming: Incoming, now_ms: int) -> Entry | None:
        """A newer attempt before the end of the older one: no coordinator should do this."""
        interrupted = entry if entry.phase is not Phase.WAITING else None
        self._closing.answer_superseded(entry, now_ms)
        self._finish(entry)
        self._finish_controls(entry)
        self._book.close(entry)
        self._take(entry, incoming)
        return interrupted

    # --- running -------------------------------------------------------------------------------

    def next_startable(self) -> Entry | None:
        """Return the next task that may run beside others; it is then to be started."""
        return self._book.next_startable() if self._starting() else None

    def next_suspect(self) -> Entry | None:
        """Return the next task that must run alone; it is then to be started."""
        return self._book.next_suspect() if self._starting() else None

    def has_startable(self) -> bool:
        """Tell whether an offer of places may be worth while."""
        return self._book.lined_up and self._starting()

    def has_suspects(self) -> bool:
        """Tell whether a task waits for the process to be empty."""
        return self._starting() and self._book.has_suspects()

    def _starting(self) -> bool:
        """Nothing starts before every resume after an unclean end is counted in the journal."""
        while self._uncounted:
            entry = next(iter(self._uncounted))
            if entry.phase is Phase.WAITING and entry.written != entry.wanted:
                return False
            del self._uncounted[entry]
        return not self._stopped

    def start(self, entry: Entry, at_s: float) -> bool:
        """A place is there. True: the handler may start; False: not before it is accepted."""
        if entry.suspect:
            entry.alone = True
            self._want(entry, rewrite=True)
        elif at_s < self._probation_until and not (
            entry.accepted and entry.written == entry.wanted
        ):
            self._want(entry, rewrite=not entry.accepted)
        else:
            self._run(entry, at_s)
            return True
        entry.move(Phase.STARTING)
        return False

    def accepted(self, entry: Entry, at_s: float) -> bool:
        """Tell whether a task that waited for its acceptance may start now; it then runs."""
        if entry.phase is not Phase.STARTING or entry.written != entry.wanted:
            return False
        self._run(entry, at_s)
        return True

    def _run(self, entry: Entry, at_s: float) -> None:
        entry.move(Phase.RUNNING)
        if not entry.accepted:
            self._unaccepted.append((at_s + ACCEPT_AFTER_S, entry, entry.attempt))

    def body_ended(self, name: str) -> None:
        """A body that had outlived its attempt is gone: the next attempt may start."""
        self._book.body_ended(name)

    def write_step(self, entry: Entry, name: str, key: str, step: StepEntry | None) -> StepWrite:
        """Have a step journaled (None: removed); the draft that holds it tells when it is."""
        write = StepWrite(name, key, step)
        entry.writes.append(write)
        self._want(entry, rewrite=not entry.accepted)
        return write

    def end(self, entry: Entry, ending: Ending) -> None:
        """An open attempt has ended: the next commit closes it."""
        entry.move(Phase.ENDED)
        entry.ending = ending
        self._ended.append(entry)

    def stop(self) -> None:
        """Start nothing any more."""
        self._stopped = True

    def give_back(self, entry: Entry) -> None:
        """A handler was stopped because its slot is given up: the attempt stays open."""
        if entry.phase in (Phase.STARTING, Phase.RUNNING):
            entry.move(Phase.WAITING)

    # --- what the next commit holds ------------------------------------------------------------

    def due_at_s(self) -> float | None:
        """Return when the next started task is to be accepted (monotonic seconds)."""
        queue = self._unaccepted
        while queue:
            at_s, entry, attempt = queue[0]
            if entry.phase is Phase.RUNNING and not entry.accepted and entry.attempt == attempt:
                return at_s
            queue.popleft()
        return None

    def post(self, draft: Draft) -> None:
        """Have something written that no task of the ledger is about."""
        self._outbox.add(draft)

    def expire(self, now_ms: int) -> None:
        """Forget cancels whose records have not come within 7 days."""
        self._markers.expire(now_ms)

    def pending(self) -> bool:
        """Tell whether something waits for a commit."""
        return bool(self._ended or self._wanting or self._moved or self._outbox)

    def collect(self, now_ms: int, at_s: float) -> list[Draft] | None:
        """Return what the next commit shall hold (perhaps only offsets), None for nothing.

        All of it is settled before the next call. Take `offsets` after it. Of a task that is open
        or closing there is one draft at most.
        """
        while (due := self.due_at_s()) is not None and due <= at_s:
            self._want(self._unaccepted.popleft()[1], rewrite=True)
        if not self.pending():
            return None
        drafts = self._outbox.take()
        budget = COMMIT_RECORDS_MAX - sum(draft.size for draft in drafts)
        horizon, self._passed = self._passed, -1
        while self._ended and budget > 0:
            entry = self._ended.popleft()
            if entry.phase is not Phase.ENDED:
                continue  # cancelled while the bus refused a record of it: that was its end
            horizon = max(horizon, self._finish(entry))
            self._finish_controls(entry)
            drafts.append(self._closing.close(entry, now_ms))
            budget -= drafts[-1].size
        while self._wanting and budget > 0:
            entry = next(iter(self._wanting))
            del self._wanting[entry]
            if entry.phase in _OPEN and (entry.writes or entry.drafted != entry.wanted):
                horizon = max(horizon, self._finish(entry))
                drafts.append(self._closing.keep(entry, now_ms))
                budget -= drafts[-1].size
        drafts += self._accept_before(horizon, now_ms)
        for draft in drafts:
            if draft.entry is not None and draft.entry.phase in _OPEN and draft.entry.writes:
                self._want(draft.entry, rewrite=False)  # more steps than one draft may hold
        self._moved = False
        return drafts

    def offsets(self) -> dict[str, int]:
        """Return how far the slot has dealt with each of its topics."""
        return self._intake.advance()

    def full(self) -> bool:
        """Tell whether no more task records shall be read for now."""
        return self._book.full()

    @property
    def open_tasks(self) -> int:
        """How many tasks are open."""
        return self._book.open_tasks

    def _want(self, entry: Entry, *, rewrite: bool) -> None:
        if rewrite and entry.wanted == entry.drafted:
            entry.wanted += 1
        self._wanting[entry] = None

    def _accept_before(self, horizon: int, now_ms: int) -> list[Draft]:
        if horizon < 0:
            return []
        drafts = []
        for offset in self._intake.open_before(self._topic, horizon):
            entry = self._by_offset.get(offset)
            if entry is not None:  # a successor, whose turn comes with the apply of this commit
                self._want(entry, rewrite=True)
                self._finish(entry)
                del self._wanting[entry]
                drafts.append(self._closing.keep(entry, now_ms))
        return drafts

    def _finish(self, entry: Entry) -> int:
        """Let the offset pass the record of `entry`; return its offset, -1 if it was passed."""
        if entry.consumed:
            return -1
        entry.consumed = True
        del self._by_offset[entry.input_offset]
        self._intake.finish(self._topic, entry.input_offset)
        return entry.input_offset

    def _finish_controls(self, entry: Entry) -> None:
        """The end of an attempt answers the cancels that asked for it."""
        for topic, offset in entry.controls:
            self._intake.finish(topic, offset)
            self._moved = True
        entry.controls.clear()

    def _pass(self, offset: int) -> None:
        self._intake.finish(self._topic, offset)
        self._passed = max(self._passed, offset)
        self._moved = True


def _cancelled(reason: str, now_ms: int) -> Ending:
    return Ending(Outcome.CANCELLED, None, cancelled_failure(reason), [], now_ms, now_ms)


def _poisoned(entry: Entry, now_ms: int) -> Ending:
    failure = Failure(
        FailureKind.POISON,
        "ProcessDied",
        f"its process died {entry.strikes} times while this task ran alone in it, "
        f"{entry.resumes} times in all",
        "",
        retryable=False,
    )
    return Ending(Outcome.FAILED, None, failure, [], now_ms, now_ms)
