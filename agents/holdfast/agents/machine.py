"""An agent in a slot: between the slot's records and its handlers stands the ledger.

    receive -> ledger -> places -> runs (handlers) -> ledger -> collect -> Change -> apply

Implements `holdfast.bus.slot.SlotMachine`. All of it runs on the event loop.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from holdfast.agents.admission import Admission
from holdfast.agents.breaker import Breaker
from holdfast.agents.circuits import Circuits
from holdfast.agents.committing import StepCommits
from holdfast.agents.execution import Execution, Handler, Tools
from holdfast.agents.interrupts import interrupt_for
from holdfast.agents.ledger import (
    Draft,
    Ending,
    Entry,
    Identity,
    Ledger,
    Phase,
    StepWrite,
    first_that_fits,
    fold_step,
    unknown_task,
)
from holdfast.agents.metrics import AgentMetrics, PauseShare, SleepShare, StateShare
from holdfast.agents.places import Places
from holdfast.agents.progress import Progress
from holdfast.agents.reading import Reading
from holdfast.agents.resting import SLEEP_AFTER_S, Resting
from holdfast.agents.run_journal import RunJournal
from holdfast.agents.runs import Run, Runs
from holdfast.agents.wire import AgentTopics, RecordMaker
from holdfast.bus.errors import Fenced, Rejected
from holdfast.bus.port import Received, Record
from holdfast.bus.slot.machine import Change, Commit, Opened, SlotControl
from holdfast.schemas import Undecodable, Unencodable, decode
from holdfast.schemas.records import (
    AgentJournal,
    Ask,
    AskBody,
    FailureKind,
    Outcome,
    StepEntry,
)
from holdfast.schemas.state_keys import order_record_key

__all__ = ["AgentMachine", "AgentSetup"]

EXPIRE_EVERY_MS = 3_600_000
"""How often old cancels are looked for."""

_NO_TOPICS: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class AgentSetup:
    """What all slots of one agent process share."""

    agent: str
    identity: Identity
    topics: AgentTopics
    handlers: Mapping[str, Handler]
    tools: Tools
    places: Places
    metrics: AgentMetrics
    circuits: Circuits
    breaker: Breaker | None = None
    sleep_after_s: float = SLEEP_AFTER_S


class AgentMachine:
    """One slot of an agent; see `SlotMachine` for what each method promises."""

    def __init__(self, setup: AgentSetup, control: SlotControl) -> None:
        self._setup = setup
        self._control = control
        self._environment = setup.tools.environment
        self._ledger = Ledger(setup.identity, setup.topics.tasks, setup.places.busy)
        self.state = self._ledger.state
        self._share = StateShare(setup.metrics)
        self._asleep = SleepShare(setup.metrics)
        self._ledger.pauses.changed = PauseShare(setup.metrics).measure
        self._records = RecordMaker(
            setup.topics, setup.agent, setup.identity.build_id, control.journal
        )
        self._runs = Runs(setup.places, self._report)
        self._reading = Reading(
            setup.topics, setup.identity, self._ledger, self._records, self._runs, setup.metrics
        )
        self.resting = Resting(setup.places, self._runs, setup.sleep_after_s, self._take_progress)
        self.circuits = setup.circuits
        self._admission = Admission(
            setup.circuits, setup.breaker, setup.handlers, self._ledger.line_up
        )
        self._commits = StepCommits(self._ledger, control.wake)
        self._progress = Progress()
        self._expire_at_ms = 0
        self._lost = False
        self._paused = False

    # --- SlotMachine ---------------------------------------------------------------------------

    def restore(self, key: str, value: bytes | None) -> None:
        """See `SlotMachine`. Raises `Undecodable` for a journal that this build cannot read."""
        if key.startswith("/"):
            self.state.restore(key, value)
            self._ledger.pauses.restore(key, value)
            return
        if value is None:
            self._ledger.restore(key, None)
            return
        step = fold_step(key, value)
        self._ledger.restore(key, step or decode(AgentJournal, value).body)

    def opened(self, opened: Opened) -> None:
        """See `SlotMachine`."""
        self._ledger.opened(
            opened.positions, clean=opened.clean, now_ms=opened.now_ms, at_s=self._now_s()
        )
        if not opened.clean:
            self._setup.metrics.resumes.inc(self._ledger.book.open_tasks)
        self._measure()
        self._setup.places.join(self)
        self._offer()
        self._control.wake()

    def receive(self, records: Sequence[Received]) -> None:
        """See `SlotMachine`."""
        now_ms = self._environment.now_ms()
        for received in records:
            forward = self._control.misplaced(received)
            if forward is not None:
                self._ledger.skip(received.topic, received.offset)
                self._ledger.post(first_that_fits([[forward]]))
            else:
                self._reading.read(received, now_ms)
        self._offer()

    def due(self, now_ms: int) -> int | None:
        """See `SlotMachine`."""
        if now_ms >= self._expire_at_ms:
            self._expire_at_ms = now_ms + EXPIRE_EVERY_MS
            self._ledger.expire(now_ms)
        sources = (self._progress.due_at_s(), self._ledger.due_at_s())
        moments = [moment for moment in sources if moment is not None]
        if not moments:
            return self._expire_at_ms
        wait_ms = math.ceil(max(0.0, min(moments) - self._now_s()) * 1000)
        return min(self._expire_at_ms, now_ms + wait_ms)

    def collect(self, now_ms: int) -> Commit | None:
        """See `SlotMachine`."""
        at_s = self._now_s()
        for run, said in self._progress.due(at_s):
            word = self._records.progress(run.entry, said.message, said.fraction, now_ms)
            self._ledger.post(first_that_fits([[word], []]))
        drafts = self._ledger.collect(now_ms, at_s)
        if drafts is None:
            return None
        return Commit([self._change(draft) for draft in drafts], self._ledger.offsets())

    def congested(self) -> frozenset[str]:
        """See `SlotMachine`. Control is never paused: a cancel waits behind no backlog."""
        full = self._ledger.full()
        if full is not self._paused:
            self._paused = full
            self._setup.metrics.paused.inc(1 if full else -1)
        return frozenset((self._setup.topics.tasks,)) if full else _NO_TOPICS

    def idle(self) -> bool:
        """See `SlotMachine`."""
        return not len(self._runs) and not self._ledger.pending()

    def quiesce(self) -> None:
        """See `SlotMachine`."""
        self._ledger.stop()
        self.resting.quiesce()

    def abandon(self) -> None:
        """See `SlotMachine`."""
        self._ledger.stop()
        self._setup.places.leave(self)
        self._admission.clear()
        self._progress.clear()
        self._runs.stop_all()

    def lost(self) -> None:
        """See `SlotMachine`."""
        self._lost = True
        self.abandon()
        self._share.measure(0, 0)
        self._asleep.measure(0, 0)
        self._ledger.pauses.forget()
        if self._paused:
            self._setup.metrics.paused.dec()
            self._paused = False
        self._commits.close()

    # --- Claimant ------------------------------------------------------------------------------

    def take_place(self) -> bool:
        """Let the next run go on that has its answer, or the next task start."""
        if self.resting.take_place():
            return True
        self._admission.look_again()
        while (entry := self._ledger.next_startable()) is not None:
            if self._start(entry, alone=False):
                return True
        if self._ledger.has_suspects():
            self._setup.places.want_alone(self)
        return False

    def take_alone(self) -> bool:
        """Start the next task that must run alone."""
        while (entry := self._ledger.next_suspect()) is not None:
            if self._start(entry, alone=True):
                return True
        return False

    def body_ended(self, task: str) -> None:
        """A body of `task` that kept its next attempt from starting is gone."""
        self._ledger.body_ended(task)

    # --- changes -------------------------------------------------------------------------------

    def _change(self, draft: Draft) -> Change:
        try:
            records = self._records.of(draft, self._environment.now_ms())
            for record in records:
                self._control.check(record)
        except (Rejected, Unencodable) as error:
            return self._replace(draft, error)
        return Change(records, partial(self._apply, draft), partial(self._replace, draft))

    def _replace(self, draft: Draft, error: Rejected | Unencodable) -> Change:
        """The bus does not take one of the records: what is written instead, always small."""
        if isinstance(error, Rejected) and draft.shrink(error.record.key, str(error)):
            return self._change(draft)
        instead = draft.refuse(str(error))
        if draft.entry is not None:
            self._runs.drop(draft.entry, interrupt_for(str(error)))
        return self._change(instead)

    def _apply(self, draft: Draft) -> None:
        draft.apply()
        self._measure()
        for write in draft.steps:
            self._commits.settled(write)
            self._answered(draft, write)
        entry = draft.entry
        if _is_poison(draft):
            self._setup.metrics.poison.inc()
        if entry is not None:
            self._setup.metrics.steps.inc(len(draft.steps))
            run = self._runs.get(entry)
            if run is not None and run.execution is None:
                if self._ledger.accepted(entry, self._now_s()):
                    self._launch(run)
            elif run is not None and run.seat and run.seat.alone and not entry.alone:
                self._setup.places.share(run.seat)
        if self._ledger.has_startable():
            self._offer()

    def _measure(self) -> None:
        book = self._ledger.book
        self._share.measure(self.state.values, self.state.size_bytes)
        self._asleep.measure(book.asleep, book.asleep_bytes)

    def _answered(self, draft: Draft, write: StepWrite) -> None:
        run = None if draft.entry is None else self._runs.get(draft.entry)
        if run is not None:
            run.moved(f"step {write.name!r} (key {write.key!r})")
        if write.control is not None and run is not None:
            answer = run.waits.get((write.name, write.key))
            if answer is not None and not answer.done():
                answer.set_result(None)

    # --- handlers ------------------------------------------------------------------------------

    def _offer(self) -> None:
        self._setup.places.offer()

    def _start(self, entry: Entry, *, alone: bool) -> bool:
        """Give `entry` a place; False if it ended instead, or is kept back by a breaker."""
        envelope = entry.envelope
        assert envelope is not None
        if envelope.task not in self._setup.handlers:
            ending = unknown_task(
                self._setup.agent, envelope.task, self._setup.handlers, self._environment.now_ms()
            )
            self._ledger.end(entry, ending)
            self._control.wake()
            return False
        passages = self._admission.admit(entry)
        if passages is None:
            return False
        seat = self._setup.places.sit(entry.name, alone=alone)
        run = self._runs.add(entry, seat, passages)
        if self._ledger.start(entry, self._now_s()):
            self._launch(run)
        self._control.wake()
        return True

    def _launch(self, run: Run) -> None:
        envelope = run.entry.envelope
        assert envelope is not None
        waited_s = max(0.0, (self._environment.now_ms() - envelope.sent_ms) / 1000)
        self._setup.metrics.of(envelope.task).queue_seconds.observe(waited_s)
        execution = Execution(
            self._setup.handlers[envelope.task].for_journal(RunJournal(self, run).all),
            envelope,
            RunJournal(self, run),
            self._setup.tools,
            partial(self._take_progress, run),
        )
        self._runs.launch(run, execution)

    def _report(self, run: Run, ending: Ending | None) -> None:
        entry = run.entry
        if self._lost or entry.attempt != run.attempt:
            return
        if ending is None and run.slept_on is not None:
            self._ledger.fall_asleep(entry, run.slept_on)
            self._offer()
        elif ending is None:
            self._ledger.give_back(entry)
        elif entry.phase in (Phase.RUNNING, Phase.STARTING):
            if not ending.finished_ms:
                ending.started_ms = ending.finished_ms = self._environment.now_ms()
            self._admission.settle(run, ending)
            self._ledger.end(entry, ending)
            assert entry.envelope is not None
            if ending.outcome is Outcome.FAILED and ending.failure is not None:
                self._setup.metrics.failed(ending.failure.error_class)
            series = self._setup.metrics.of(entry.envelope.task)
            series.outcomes[ending.outcome].inc()
            series.handler_seconds.observe((ending.finished_ms - ending.started_ms) / 1000)
        self._control.wake()

    def _take_progress(self, run: Run, message: str, fraction: float | None) -> None:
        if run.live and not self._lost:
            self._progress.take(run, message, fraction, self._now_s())
            run.moved(f"the word {message!r}")
            self._control.wake()

    def _now_s(self) -> float:
        return self._environment.monotonic()

    # --- what a run may ask --------------------------------------------------------------------

    async def ask(self, run: Run, entry: StepEntry, what: AskBody) -> None:
        """Return once an ask is committed, here and for the coordinator."""
        ask = Ask(run.entry.task_id, run.attempt, entry.name, entry.key, what)
        record = self._records.ask(run.entry, ask, self._environment.now_ms())
        await self.write_step(run, entry.name, entry.key, entry, record)

    async def write_step(
        self,
        run: Run,
        name: str,
        key: str,
        entry: StepEntry | None,
        record: Record | None = None,
    ) -> None:
        """Return once a step is committed, and `record` with it."""
        await self._commits.write(run, name, key, entry, record)

    def owns(self, order_key: str) -> bool:
        """Tell whether the slot is an order key's."""
        return self._control.owns(order_record_key(order_key))

    @contextmanager
    def readable(self, run: Run) -> Iterator[None]:
        """A damaged step ends the process, as it would have, had it been decoded on restore.

        Nobody else may judge it: to the handler an error would be one of its own steps', and
        a step that is taken for missing would run twice.
        """
        try:
            yield
        except Undecodable as error:
            slot = self._control.slot
            self._environment.die(
                f"slot {slot.group}/{slot.partition}: the journal of task {run.entry.name} cannot "
                f"be read: {error}"
            )

    async def confirm(self, run: Run) -> None:
        """See `SlotControl.confirm`; an attempt that is over gets no further."""
        await self._allowed(run, self._control.confirm())

    async def prove(self, run: Run) -> None:
        """See `SlotControl.prove`; an attempt that is over gets no further."""
        await self._allowed(run, self._control.prove())

    async def _allowed(self, run: Run, word: Awaitable[None]) -> None:
        try:
            await word
        except Fenced:
            raise asyncio.CancelledError from None
        if not run.live or self._lost:
            raise asyncio.CancelledError


def _is_poison(draft: Draft) -> bool:
    failure = draft.answer.result.failure if draft.answer is not None else None
    return failure is not None and failure.kind is FailureKind.POISON
