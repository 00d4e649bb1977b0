"""An agent in a slot: between the slot's records and its handlers stands the ledger.

    receive -> ledger -> places -> runs (handlers) -> ledger -> collect -> Change -> apply

Implements `holdfast.bus.slot.SlotMachine`. All of it runs on the event loop.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from holdfast.agents.execution import Execution, Handler, Interrupt, Tools
from holdfast.agents.ledger import (
    Draft,
    Ending,
    Entry,
    Identity,
    Incoming,
    Ledger,
    Phase,
    StepWrite,
    cancelled_failure,
    fold_step,
)
from holdfast.agents.metrics import AgentMetrics
from holdfast.agents.places import Places
from holdfast.agents.runs import Run, Runs
from holdfast.agents.wire import (
    AgentTopics,
    Kept,
    RecordMaker,
    TaskHeaders,
    check_names,
    trace_of,
    undecodable,
)
from holdfast.bus.errors import Fenced, Rejected
from holdfast.bus.port import Received, Record
from holdfast.bus.slot.machine import Change, Commit, Opened, SlotControl
from holdfast.schemas import Undecodable, Unencodable, decode
from holdfast.schemas.records import (
    AgentJournal,
    ControlAction,
    ControlEnvelope,
    Failure,
    FailureKind,
    Outcome,
    StepEntry,
    TaskEnvelope,
)

__all__ = ["AgentMachine", "AgentSetup"]

PROGRESS_EVERY_S = 1.0
"""A task's progress is passed on at most so often; of what comes between the newest is kept."""
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


@dataclass(slots=True)
class _Progress:
    message: str
    fraction: float | None
    due_s: float


class AgentMachine:
    """One slot of an agent; see `SlotMachine` for what each method promises."""

    def __init__(self, setup: AgentSetup, control: SlotControl) -> None:
        self._setup = setup
        self._control = control
        self._environment = setup.tools.environment
        self._ledger = Ledger(setup.identity, setup.topics.tasks, setup.places.busy)
        self._records = RecordMaker(
            setup.topics, setup.agent, setup.identity.build_id, control.journal
        )
        self._runs = Runs(setup.places, self._report)
        self._waiters: dict[StepWrite, asyncio.Future[None]] = {}
        self._progress: dict[Run, _Progress] = {}
        self._expire_at_ms = 0
        self._lost = False
        self._paused = False

    # --- SlotMachine ---------------------------------------------------------------------------

    def restore(self, key: str, value: bytes | None) -> None:
        """See `SlotMachine`. Raises `Undecodable` for a journal that this build cannot read."""
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
            self._setup.metrics.resumes.inc(self._ledger.open_tasks)
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
                self._post([forward])
            elif received.topic == self._setup.topics.tasks:
                self._read_task(received, now_ms)
            else:
                self._read_control(received, now_ms)
        self._offer()

    def due(self, now_ms: int) -> int | None:
        """See `SlotMachine`."""
        if now_ms >= self._expire_at_ms:
            self._expire_at_ms = now_ms + EXPIRE_EVERY_MS
            self._ledger.expire(now_ms)
        moments = [progress.due_s for progress in self._progress.values()]
        accept_s = self._ledger.due_at_s()
        if accept_s is not None:
            moments.append(accept_s)
        if not moments:
            return self._expire_at_ms
        wait_ms = math.ceil(max(0.0, min(moments) - self._now_s()) * 1000)
        return min(self._expire_at_ms, now_ms + wait_ms)

    def collect(self, now_ms: int) -> Commit | None:
        """See `SlotMachine`."""
        at_s = self._now_s()
        if self._progress:
            self._post_progress(now_ms, at_s)
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

    def abandon(self) -> None:
        """See `SlotMachine`."""
        self._ledger.stop()
        self._setup.places.leave(self)
        self._progress.clear()
        self._runs.stop_all()

    def lost(self) -> None:
        """See `SlotMachine`."""
        self._lost = True
        self.abandon()
        if self._paused:
            self._setup.metrics.paused.dec()
            self._paused = False
        for waiter in self._waiters.values():
            waiter.cancel()
        self._waiters.clear()

    # --- Claimant ------------------------------------------------------------------------------

    def take_place(self) -> bool:
        """Start the next task that may run beside others."""
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

    # --- records -------------------------------------------------------------------------------

    def _read_task(self, received: Received, now_ms: int) -> None:
        value = received.value
        try:
            if value is None:
                raise Undecodable("a task record without a value")
            envelope = decode(TaskEnvelope, value)
            check_names(
                envelope.run_id,
                envelope.task_id,
                envelope.attempt,
                envelope.reply_key,
                envelope.order_key,
            )
        except Undecodable as error:
            self._bury(received, undecodable(error), now_ms)
            return
        if envelope.attempt > 1:
            self._setup.metrics.retries.inc()
        trace = trace_of(received.headers) if received.headers else None
        incoming = Incoming(envelope, received.offset, len(value or b""), trace)
        superseded = self._ledger.read(incoming, now_ms)
        if superseded is not None:
            self._runs.drop(superseded, _interrupt_for("superseded by a newer attempt"))

    def _read_control(self, received: Received, now_ms: int) -> None:
        try:
            control = decode(ControlEnvelope, received.value or b"")
            check_names(control.run_id, control.task_id, control.attempt, control.reply_key)
        except Undecodable as error:
            self._bury(received, undecodable(error), now_ms)
            return
        if control.action is ControlAction.RELEASE:
            self._ledger.release(control, received.position)
            return
        entry = self._ledger.cancel(control, received.position, now_ms)
        run = None if entry is None else self._runs.get(entry)
        if run is not None:
            self._runs.interrupt(run, _interrupt_for(control.reason))

    def _bury(self, received: Received, failure: Failure, now_ms: int) -> None:
        """Keep a record that nobody can read, and tell the coordinator if its headers allow."""
        self._setup.metrics.undecodable.inc()
        self._ledger.skip(received.topic, received.offset)
        instance = self._setup.identity.instance
        answers: list[Record] = []
        about = TaskHeaders.of(received.headers)
        if about is not None and received.topic == self._setup.topics.tasks:
            answer = self._records.undecodable_answer(received, about, failure, now_ms, instance)
            answers.append(answer)
        self._post(
            *(
                [self._records.dead_letter(received, failure, now_ms, kept), *answers]
                for kept in Kept
            )
        )

    def _post(self, *choices: Sequence[Record]) -> None:
        """Have the first choice written; the next, where the bus does not take it."""
        self._ledger.post(_choice(choices))

    def _post_progress(self, now_ms: int, at_s: float) -> None:
        for run, progress in list(self._progress.items()):
            if not run.live or run.entry.phase is not Phase.RUNNING:
                del self._progress[run]
            elif progress.due_s <= at_s:
                del self._progress[run]
                run.progressed_s = at_s
                record = self._records.progress(
                    run.entry, progress.message, progress.fraction, now_ms
                )
                self._post([record], ())

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
        instead = draft.refuse(str(error))
        if draft.entry is not None:
            self._runs.drop(draft.entry, _interrupt_for(str(error)))
        return self._change(instead)

    def _apply(self, draft: Draft) -> None:
        draft.apply()
        for write in draft.steps:
            waiter = self._waiters.pop(write, None)
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        entry = draft.entry
        if _is_poison(draft):
            self._setup.metrics.poison.inc()
        if entry is not None:
            self._setup.metrics.steps.inc(len(draft.steps))
            run = self._runs.get(entry)
            if run is not None and run.execution is None:
                if self._ledger.accepted(entry, self._now_s()):
                    self._launch(run)
            elif run is not None and run.seat.alone and not entry.alone:
                self._setup.places.share(run.seat)
        if self._ledger.has_startable():
            self._offer()

    # --- handlers ------------------------------------------------------------------------------

    def _offer(self) -> None:
        self._setup.places.offer()

    def _start(self, entry: Entry, *, alone: bool) -> bool:
        """Give `entry` a place; False if it ended instead."""
        envelope = entry.envelope
        assert envelope is not None
        if envelope.task not in self._setup.handlers:
            self._ledger.end(entry, self._unknown_task(envelope.task))
            self._control.wake()
            return False
        seat = self._setup.places.sit(entry.name, alone=alone)
        run = self._runs.add(entry, seat)
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
            self._setup.handlers[envelope.task],
            envelope,
            _RunJournal(self, run),
            self._setup.tools,
            partial(self._take_progress, run),
        )
        self._runs.launch(run, execution, envelope.timeout_ms)

    def _report(self, run: Run, ending: Ending | None) -> None:
        entry = run.entry
        if self._lost or entry.attempt != run.attempt:
            return
        if ending is None:
            self._ledger.give_back(entry)
        elif entry.phase in (Phase.RUNNING, Phase.STARTING):
            if not ending.finished_ms:
                ending.started_ms = ending.finished_ms = self._environment.now_ms()
            self._ledger.end(entry, ending)
            assert entry.envelope is not None
            series = self._setup.metrics.of(entry.envelope.task)
            series.outcomes[ending.outcome].inc()
            series.handler_seconds.observe((ending.finished_ms - ending.started_ms) / 1000)
        self._control.wake()

    def _unknown_task(self, task: str) -> Ending:
        now_ms = self._environment.now_ms()
        known = ", ".join(sorted(self._setup.handlers)) or "none"
        failure = Failure(
            FailureKind.UNKNOWN_TASK,
            "UnknownTask",
            f"agent {self._setup.agent!r} has no task {task!r}; it has: {known}",
            "",
            retryable=False,
        )
        return Ending(Outcome.FAILED, None, failure, [], now_ms, now_ms)

    def _take_progress(self, run: Run, message: str, fraction: float | None) -> None:
        if run.live and not self._lost:
            due_s = max(self._now_s(), run.progressed_s + PROGRESS_EVERY_S)
            self._progress[run] = _Progress(message, fraction, due_s)
            self._control.wake()

    def _now_s(self) -> float:
        return self._environment.monotonic()

    # --- what a run may ask --------------------------------------------------------------------

    async def write_step(self, run: Run, name: str, key: str, entry: StepEntry | None) -> None:
        """Return once a step is committed."""
        if not run.live or self._lost or run.entry.phase is not Phase.RUNNING:
            raise asyncio.CancelledError
        write = self._ledger.write_step(run.entry, name, key, entry)
        waiter = self._waiters[write] = asyncio.get_running_loop().create_future()
        self._control.wake()
        try:
            await waiter
        finally:
            self._waiters.pop(write, None)

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


class _RunJournal:
    """The steps of one run; implements `StepJournal`."""

    def __init__(self, machine: AgentMachine, run: Run) -> None:
        self._machine = machine
        self._run = run

    def find(self, name: str, key: str) -> StepEntry | None:
        with self._machine.readable(self._run):
            return self._run.entry.steps.get((name, key))

    def all(self) -> Collection[StepEntry]:
        with self._machine.readable(self._run):
            return list(self._run.entry.steps.values())

    async def write(self, name: str, key: str, entry: StepEntry | None) -> None:
        await self._machine.write_step(self._run, name, key, entry)

    async def confirm(self) -> None:
        await self._machine.confirm(self._run)

    async def prove(self) -> None:
        await self._machine.prove(self._run)


def _interrupt_for(reason: str) -> Interrupt:
    return Interrupt(Outcome.CANCELLED, cancelled_failure(reason))


def _is_poison(draft: Draft) -> bool:
    failure = draft.answer.result.failure if draft.answer is not None else None
    return failure is not None and failure.kind is FailureKind.POISON


def _nothing() -> None:
    """Nothing follows."""


def _choice(choices: Sequence[Sequence[Record]]) -> Draft:
    def refuse(reason: str) -> Draft:
        if len(choices) == 1:
            raise RuntimeError(f"the bus refuses a record that cannot be left out: {reason}")
        return _choice(choices[1:])

    return Draft(_nothing, refuse, records=choices[0])
