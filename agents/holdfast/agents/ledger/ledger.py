"""What one slot knows of its tasks, and what may start; `next_commit` holds what is to be written.

Pure: no clock, no I/O. `now_ms` is wall time and goes into records; `at_s` is a monotonic clock's
seconds and drives the rules of acceptance (see `next_commit`) and of probation (below).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from holdfast.agents.ledger.answers import answered, asked, waits_for
from holdfast.agents.ledger.book import Book
from holdfast.agents.ledger.closing import Closing
from holdfast.agents.ledger.drafts import Draft, Identity, Outbox
from holdfast.agents.ledger.endings import cancelled, poisoned
from holdfast.agents.ledger.entry import (
    OPEN_PHASES,
    STRIKES_MAX,
    Ending,
    Entry,
    Incoming,
    Phase,
    StepWrite,
)
from holdfast.agents.ledger.folded import FoldedStep
from holdfast.agents.ledger.inbox import Inbox
from holdfast.agents.ledger.keys import JournalBody
from holdfast.agents.ledger.markers import Markers
from holdfast.agents.ledger.next_commit import NextCommit
from holdfast.agents.ledger.pausing import Pauses
from holdfast.agents.ledger.restoring import Restored
from holdfast.agents.ledger.state import KeyedState
from holdfast.bus.port import Position, Record
from holdfast.schemas.records import ControlAction, ControlEnvelope, StepEntry, StepKind

__all__ = ["PROBATION_S", "Ledger"]

PROBATION_S = 10.0
"""After an unclean end each task is accepted before its handler starts, for so long."""

_IDLE = frozenset({Phase.WAITING, Phase.ASLEEP})


class Ledger:
    """The tasks of one slot. `topic` is the slot's task topic; `busy` tells whether an older body
    of a task still runs in this process."""

    def __init__(self, identity: Identity, topic: str, busy: Callable[[str], bool]) -> None:
        self._topic = topic
        self._book = self.book = Book(busy)
        """The tasks, to be looked at; nobody else changes them."""
        self._outbox = Outbox()
        self.state = KeyedState(self._book.order, self._outbox, self._book.consider)
        self._book.passed = self.state.passed
        self.pauses = Pauses(self._book.order, self._outbox, self._book.consider)
        self._inbox = Inbox(topic)
        self._closing = Closing(
            identity, self._book, self._outbox, self.state, self._inbox, self._take
        )
        self._commit = NextCommit(self._inbox, self._outbox, self._closing)
        self._markers = Markers(identity, self._outbox)
        self._restored: Restored | None = Restored()
        self._uncounted: dict[Entry, None] = {}
        self._probation_until = float("-inf")
        self._stopped = False

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
        self._inbox.opened(positions)
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
                if entry.phase is Phase.ASLEEP:
                    self._book.sleep(entry)  # it was in no process: none can have died of it
                elif not clean:
                    self._count_resume(entry, now_ms)
                elif entry.alone:
                    # It ran alone when its slot was given up. Now it waits: if another one kills
                    # this process meanwhile, it must not be struck for that.
                    entry.alone = False
                    self._uncounted[entry] = None
                    self._commit.want(entry, rewrite=True)
        self.state.opened()
        if not clean:
            self._probation_until = at_s + PROBATION_S

    def _count_resume(self, entry: Entry, now_ms: int) -> None:
        entry.resumes += 1
        entry.resumes_since_step += 1
        entry.strikes += entry.alone
        entry.alone = False
        if entry.strikes >= STRIKES_MAX:
            self.end(entry, poisoned(entry, now_ms))
        else:
            self._uncounted[entry] = None
            self._commit.want(entry, rewrite=True)

    # --- what comes in -------------------------------------------------------------------------

    def read(self, incoming: Incoming, now_ms: int) -> Entry | None:
        """Take a task record as it was read; return a task whose handler it supersedes."""
        envelope = incoming.envelope
        name = f"{envelope.run_id}/{envelope.task_id}"
        self._inbox.read(self._topic, incoming.offset)
        entry = self._book.get(name)
        if entry is not None and envelope.attempt <= entry.attempt:
            self._inbox.pass_task(incoming.offset)
            return None
        if self._markers.settles(name, envelope):
            self._drop_cancelled(name, entry, incoming)
            return None
        if entry is None or entry.phase is Phase.FAILED:
            self._take(entry, incoming)
            return None
        if entry.phase in (Phase.ENDED, Phase.CLOSING):
            # The end of the older attempt can be read, and answered, before we are told of it.
            if entry.successor is not None:  # nor should two come: the newest is read last
                self._inbox.pass_task(entry.successor.offset)
            entry.successor = incoming
            return None
        return self._supersede(entry, incoming, now_ms)

    def skip(self, topic: str, offset: int) -> None:
        """A record of which nothing is to be kept: forwarded, undecodable, or done with."""
        self._inbox.skip(topic, offset)

    def cancel(self, control: ControlEnvelope, at: Position, now_ms: int) -> Entry | None:
        """Take a cancel; return a task that holds a place and must be interrupted.

        The slot's offset passes such a cancel only with the end of its attempt: it is not
        journaled, and a crash in between must bring it again.
        """
        name = f"{control.run_id}/{control.task_id}"
        entry = self._book.get(name)
        if entry is not None and entry.attempt == control.attempt and entry.phase in OPEN_PHASES:
            if control.action is ControlAction.EXPIRE and entry.begun:
                self.skip(at.topic, at.offset)  # it came too late: the handler's end is the answer
                return None
            self._inbox.read(at.topic, at.offset)
            entry.controls.append((at.topic, at.offset))
            if entry.phase not in _IDLE:
                return entry
            self.end(entry, cancelled(control.reason, now_ms))
            return None
        self.skip(at.topic, at.offset)
        if entry is not None:
            self._drop_successor(entry, control.attempt)
        if entry is None or entry.attempt < control.attempt:
            self._markers.cancel(name, control, now_ms)
        # Otherwise its end is known to the coordinator, or about to be.
        return None

    def reply(self, control: ControlEnvelope, at: Position, now_ms: int) -> None:
        """Take the answer to an ask: journaled in the commit that passes it."""
        entry = self._book.get(f"{control.run_id}/{control.task_id}")
        reply = control.reply
        found = None if reply is None or entry is None else asked(entry, reply)
        if entry is None or reply is None or not waits_for(found, control):
            self.skip(at.topic, at.offset)  # the task is closed, or nobody asked
            return
        assert found is not None
        if entry.leaving:  # its keys are being removed, and would come back
            self.skip(at.topic, at.offset)
            return
        self._inbox.read(at.topic, at.offset)
        step = answered(found, reply, now_ms)
        if entry.phase in (Phase.CLOSING, Phase.FAILED):
            write = StepWrite(reply.name, reply.key, step, control=(at.topic, at.offset))
            self._closing.between_attempts(entry, [write])
            return
        write = self.write_step(entry, reply.name, reply.key, step)
        write.control = (at.topic, at.offset)
        if entry.phase is Phase.ASLEEP:
            entry.roused = True
            self._commit.want(entry, rewrite=True)

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
            self._inbox.pass_task(successor.offset)

    def _drop_cancelled(self, name: str, entry: Entry | None, incoming: Incoming) -> None:
        """The record of an attempt that was cancelled, and answered, before it was read."""
        self._inbox.pass_task(incoming.offset)
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
        self._closing.begin_anew(entry)
        self._inbox.hold(entry)
        self._book.open(entry)

    def _supersede(self, entry: Entry, incoming: Incoming, now_ms: int) -> Entry | None:
        """A newer attempt before the end of the older one: no coordinator should do this."""
        interrupted = entry if entry.phase is not Phase.WAITING else None
        self._closing.answer_superseded(entry, now_ms)
        self._inbox.finish(entry)
        self._inbox.finish_controls(entry)
        self._closing.between_attempts(entry, [w for w in entry.writes if w.control is not None])
        if entry.phase is Phase.ASLEEP:
            self._book.wake(entry)
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
        return not self._stopped and not self.pauses.whole

    def line_up(self, entry: Entry) -> None:
        """A task that `next_startable` returned, and that was not started, may start after all."""
        self._book.consider(entry)

    def start(self, entry: Entry, at_s: float) -> bool:
        """A place is there. True: the handler may start; False: not before it is accepted."""
        if entry.suspect:
            entry.alone = True
            self._commit.want(entry, rewrite=True)
        elif at_s < self._probation_until and not (
            entry.accepted and entry.written == entry.wanted
        ):
            self._commit.want(entry, rewrite=not entry.accepted)
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
        self._commit.started(entry, at_s)

    def body_ended(self, name: str) -> None:
        """A body that had outlived its attempt is gone: the next attempt may start."""
        self._book.body_ended(name)

    def write_step(
        self,
        entry: Entry,
        name: str,
        key: str,
        step: StepEntry | None,
        record: Record | None = None,
    ) -> StepWrite:
        """Have a step journaled (None: removed), and `record` written with it; the draft that
        holds it tells when it is."""
        write = StepWrite(name, key, step, record=record)
        entry.writes.append(write)
        if record is not None and step is not None:
            entry.asking[name, key] = step
        self._commit.want(entry, rewrite=not entry.accepted)
        return write

    def end(self, entry: Entry, ending: Ending) -> None:
        """An open attempt has ended: the next commit closes it."""
        if entry.phase is Phase.ASLEEP:
            self._book.wake(entry)
        entry.move(Phase.ENDED)
        entry.ending = ending
        self._commit.close(entry)

    def stop(self) -> None:
        """Start nothing any more."""
        self._stopped = True

    def fall_asleep(self, entry: Entry, waits: Collection[tuple[str, str]]) -> None:
        """The body of a handler that only waits was dropped; `waits`: the asks it waits for."""
        if entry.phase is not Phase.RUNNING:
            return
        # The answer came while the body ended; or a step that it had begun, and left behind, is on
        # its way: what that wakes up to do nobody knows but the handler.
        if entry.unsettled or any(entry.steps[step].kind is StepKind.ANSWER for step in waits):
            entry.move(Phase.WAITING)
            self._book.consider(entry)
            return
        entry.move(Phase.ASLEEP)
        self._book.sleep(entry)
        self._commit.want(entry, rewrite=True)

    def give_back(self, entry: Entry) -> None:
        """A handler was stopped because its slot is given up: the attempt stays open."""
        if entry.phase in (Phase.STARTING, Phase.RUNNING):
            entry.move(Phase.WAITING)

    # --- what the next commit holds ------------------------------------------------------------

    def due_at_s(self) -> float | None:
        """Return when the next started task is to be accepted (monotonic seconds)."""
        return self._commit.due_at_s()

    def post(self, draft: Draft) -> None:
        """Have something written that no task of the ledger is about."""
        self._outbox.add(draft)

    def expire(self, now_ms: int) -> None:
        """Forget cancels whose records have not come within 7 days."""
        self._markers.expire(now_ms)

    def pending(self) -> bool:
        """Tell whether something waits for a commit."""
        return self._commit.pending()

    def collect(self, now_ms: int, at_s: float) -> list[Draft] | None:
        """Return what the next commit shall hold (perhaps only offsets), None for nothing.

        All of it is settled before the next call. Take `offsets` after it. Of a task that is open
        or closing there is one draft at most.
        """
        return self._commit.collect(now_ms, at_s)

    def offsets(self) -> dict[str, int]:
        """Return how far the slot has dealt with each of its topics."""
        return self._inbox.offsets()

    def full(self) -> bool:
        """Tell whether no more task records shall be read for now."""
        return self._book.full()
