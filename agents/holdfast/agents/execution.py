"""One run of one handler: from an attempt's envelope to how it ended.

Knows nothing of slots: what it wants journaled it asks of a `StepJournal`. Synchronous handlers and
step functions run in threads (`Environment.run_blocking`) that no one can stop: they are asked to
end at their next `ctx` call, and the execution counts as running until they have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from holdfast.agents.batches import Batch
from holdfast.agents.context import Context, Publication, SyncContext, TaskInfo
from holdfast.agents.doing import AskCall, EffectCall, StepCall
from holdfast.agents.emitting import Emissions
from holdfast.agents.errors import DefinitionError, EffectNotApplied
from holdfast.agents.failures import failure_of, text_of
from holdfast.agents.guarding import Guard
from holdfast.agents.handlers import Handler
from holdfast.agents.interrupts import Interrupt
from holdfast.agents.keyed_state import StateTypes, StateUse
from holdfast.agents.ledger import Ending
from holdfast.agents.payloads import Payloads
from holdfast.agents.procedures import Body, Driver, Procedure
from holdfast.agents.published import PublishedTopics
from holdfast.agents.steps import Begun, StepJournal, Steps, Worker, idempotency_key
from holdfast.bus.port import Environment
from holdfast.bus.registry import Registry
from holdfast.schemas import DoesNotFit, Undecodable, Unencodable, UnknownSchema
from holdfast.schemas.plan_change import PlanVersion
from holdfast.schemas.records import (
    Failure,
    FailureKind,
    Outcome,
    StepKind,
    TaskEnvelope,
)

if TYPE_CHECKING:
    from holdfast.agents.asking import Asking

__all__ = ["AskCall", "EffectCall", "Execution", "Handler", "Interrupt", "Tools"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tools:
    """What all executions of a process share."""

    environment: Environment
    payloads: Payloads
    published: PublishedTopics
    registry: Registry
    state: StateTypes
    worker: Worker = field(default_factory=Worker)


class Execution:
    """Runs one handler. `run` is called once; `interrupt` may be called at any time."""

    def __init__(
        self,
        handler: Handler,
        envelope: TaskEnvelope,
        journal: StepJournal,
        tools: Tools,
        on_progress: Callable[[str, float | None], None],
    ) -> None:
        self._handler = handler
        self._envelope = envelope
        self._tools = tools
        now_ms = tools.environment.now_ms
        self._steps = Steps(envelope, journal, tools.payloads, now_ms, tools.worker)
        self._driver = Driver(tools.environment, self._steps)
        self._guard = Guard(journal, self._steps.prove)
        self._emissions = Emissions(self._steps, tools.payloads, envelope.run_id)
        self._on_progress = on_progress
        self._publications: list[Publication] = []
        self._journal = journal
        self._state: StateUse | None = None
        self._interrupt: Interrupt | None = None
        self._task: asyncio.Task[Any] | None = None
        self._started_ms = tools.environment.now_ms()

    @property
    def asking(self) -> Asking:
        """Makes what this execution may ask for."""
        from holdfast.agents.asking import Asking

        tools = self._tools
        return Asking(self._envelope.run_id, tools.payloads, tools.registry)

    @property
    def state_use(self) -> StateUse:
        """What is kept under the task's order key; raises `DefinitionError` if it has none."""
        if self._state is None:
            self._state = StateUse(
                self._envelope,
                self._journal.state,
                self._tools.state,
                self._go_on,
                self._steps.park,
            )
        return self._state

    def _go_on(self) -> None:
        if self._interrupt is not None:
            raise asyncio.CancelledError  # it was caught once; the attempt is over all the same

    @property
    def under_way(self) -> int:
        """How many steps, effects, asks and uses of `ctx.state` are under way: whether a function
        of them runs, or their commit is awaited, or an answer."""
        return len(self._driver)

    @property
    def interrupted(self) -> bool:
        """Whether it was asked to end."""
        return self._interrupt is not None

    @property
    def keeps_place(self) -> bool:
        """Whether it cannot give up its place while it waits: a thread is held by it."""
        return not self._handler.task.is_async

    @property
    def timeout_s(self) -> float:
        """How long the attempt may hold a place; 0: no limit."""
        return (self._envelope.timeout_ms or 0) / 1000

    @property
    def progress_timeout_s(self) -> float:
        """How long it may make no progress in its place; 0: no limit."""
        return (self._envelope.progress_timeout_ms or 0) / 1000

    async def run(self) -> Ending | None:
        """Return how the attempt ended; None when there is nothing to be told."""
        self._task = asyncio.current_task()
        try:
            return await self._run()
        except asyncio.CancelledError as error:
            if self._interrupt is not None:
                return self._ending_of_interrupt(self._interrupt)
            if self._task is not None and self._task.cancelling():
                raise  # the whole process stops
            return self._failed(error)  # the handler cancelled something of its own
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 a handler may raise anything
            if self._interrupt is not None:
                return self._ending_of_interrupt(self._interrupt)
            return self._failed(self._steps.parked or error)

    def interrupt(self, interrupt: Interrupt) -> None:
        """End the handler; the first reason counts, but a lost slot is told of nothing."""
        if interrupt.replaces(self._interrupt):
            self._interrupt = interrupt
        self._driver.stop()
        if self._task is not None:
            self._task.cancel()

    def end_of_interrupt(self) -> Ending | None:
        """Return how the attempt ends by what it was interrupted for; None: it does not."""
        return None if self._interrupt is None else self._ending_of_interrupt(self._interrupt)

    def when_threads_end(self, callback: Callable[[], None]) -> None:
        """See `Driver.when_threads_end`."""
        self._driver.when_threads_end(callback)

    # --- the handler ---------------------------------------------------------------------------

    async def _run(self) -> Ending:
        if self._interrupt is not None:
            raise asyncio.CancelledError
        envelope, handler = self._envelope, self._handler
        try:
            value = None
            if handler.task.input_type is not None:
                value = await self._tools.payloads.decode(handler.input, envelope.input)
        except DoesNotFit as error:
            return self._unreadable(error, FailureKind.SCHEMA)
        except (Undecodable, UnknownSchema) as error:
            return self._unreadable(error, FailureKind.UNDECODABLE)
        await self._steps.confirm()
        result = await self._call(value)
        if self._interrupt is not None:
            raise asyncio.CancelledError
        if self._steps.parked is not None:
            raise self._steps.parked
        if self._emissions.under_way:
            raise DefinitionError("it returned while items were on their way: await each emit")
        try:
            if handler.task.returns_plan:
                result = await self._apply(result)
            self._steps.check_all_asked()
            if self._publications:
                await self._tools.published.require({p.topic for p in self._publications})
            data = handler.output.encode(result)
        except Unencodable as error:
            return self._unreadable(error, FailureKind.SCHEMA)
        output = await self._tools.payloads.pack(envelope.run_id, data)
        state = {} if self._state is None else await self._state.close()
        ending = self._ending(Outcome.SUCCEEDED)
        ending.output = output
        ending.state = state
        ending.published = [publication.record() for publication in self._publications]
        return ending

    async def _apply(self, change: Any) -> PlanVersion:
        """Change the run's plan by what the handler returned; that is its output."""
        from holdfast.agents.asking import RETURNED_PLAN

        made = self._steps.named(RETURNED_PLAN)
        call = self.asking.returned_plan(change, made, self._envelope.attempt)
        return PlanVersion(version=await self.drive(self.ask(call)))

    async def _call(self, value: Any) -> Any:
        task = self._handler.task
        info = TaskInfo.of(self._envelope, self._handler.task.agent)
        if task.is_async:
            context = Context(self, info)
            return await task.call(context, value)
        sync_context = SyncContext(self, info)
        return await self._driver.block(lambda: task.call(sync_context, value))

    # --- steps and effects ---------------------------------------------------------------------

    def step(self, call: StepCall) -> Procedure:
        """See `Context.step`."""
        begun = self._begin(call)
        if begun.found is not None:
            return (yield self._steps.replay(begun))
        passage = yield self._guard.enter(call.breaker)
        started_ms = self._tools.environment.now_ms()
        value = yield from self._guard.call(passage, Body(call.function, call.arguments))
        return (yield self._steps.commit(begun, StepKind.STEP, value, started_ms))

    def effect(self, call: EffectCall) -> Procedure:
        """See `Context.effect`."""
        begun = self._begin(call)
        found = begun.found
        if found is not None and found.kind is not StepKind.INTENT:
            return (yield self._steps.replay(begun))
        passage = yield self._guard.enter(call.breaker)  # before the intent: it may take hours
        started_ms = self._tools.environment.now_ms()
        idempotency = {"idempotency_key": idempotency_key(self._envelope, begun)}
        if found is None:
            yield self._steps.intend(begun)
        elif call.reconcile is not None:
            try:
                body = Body(call.reconcile, call.arguments, idempotency)
                value = yield from self._guard.call(passage, body)
            except EffectNotApplied:
                # So it is called below, for the first time as far as the world goes.
                passage = yield self._guard.enter(call.breaker)
            else:
                return (yield self._steps.commit(begun, StepKind.EFFECT, value, started_ms))
        elif not call.idempotent:
            raise self._steps.unknown(begun)
        try:
            body = Body(call.function, call.arguments, idempotency)
            value = yield from self._guard.call(passage, body)
        except EffectNotApplied:
            yield self._steps.take_back(begun)
            raise
        return (yield self._steps.commit(begun, StepKind.EFFECT, value, started_ms))

    def ask(self, call: AskCall) -> Procedure:
        """Ask the coordinator for something, once; return or raise the answer."""
        self._go_on()
        begun = self._steps.begin_ask(call.name, call.key, call.arguments)
        found = begun.found
        if found is None:
            what = yield call.what()
            yield self._steps.ask(begun, what)
        if found is None or found.kind is not StepKind.ANSWER:
            found = yield self._steps.answer(begun)
        if found.failure is not None:
            raise call.failed(found.failure)
        return (yield call.decode(self._tools.payloads, found.result))

    def emit(self, batch: Batch) -> Procedure:
        """See `Context.emit_many`."""
        self._go_on()
        yield from self._emissions.emit(batch)

    def patched(self, name: str) -> Procedure:
        """See `Context.patched`."""
        self._go_on()
        new = self._steps.patched(name)
        if new:
            yield self._steps.mark(name)
        return new

    def kept(self, name: str, kind: Any, default: Any) -> Procedure:
        """See `State.get`."""
        return (yield self.state_use.get(name, kind, default))

    def drive(self, procedure: Procedure) -> Coroutine[Any, Any, Any]:
        """See `Driver.drive`."""
        return self._driver.drive(procedure)

    def drive_in_thread(self, procedure: Procedure) -> Any:
        """See `Driver.drive_in_thread`."""
        return self._driver.drive_in_thread(procedure)

    def on_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """See `Driver.on_loop`."""
        return self._driver.on_loop(coroutine)

    def _begin(self, call: StepCall | EffectCall) -> Begun:
        self._go_on()
        begun = self._steps.begin(call.name, call.key, call.function, call.arguments)
        self._steps.can_be_undone(begun, call.undo)
        return begun

    # --- endings -------------------------------------------------------------------------------

    def publish(self, publication: Publication) -> None:
        """See `Context.publish`."""
        self._publications.append(publication)

    def progress(self, message: str, fraction: float | None) -> None:
        """See `Context.progress`; may be called from any thread."""
        self._driver.soon(self._on_progress, message, fraction)

    def _failed(self, error: BaseException) -> Ending:
        ending = self._ending(Outcome.FAILED)
        failure = failure_of(error, self._handler.task.policy)
        ending.failure = self._guard.blame(failure, error)
        return ending

    def _unreadable(self, error: BaseException, kind: FailureKind) -> Ending:
        """The input or output is not of its type: another attempt would find the same."""
        ending = self._ending(Outcome.FAILED)
        what = type(error).__qualname__
        ending.failure = Failure(kind, what, text_of(error), "", retryable=False)
        return ending

    def _ending_of_interrupt(self, interrupt: Interrupt) -> Ending | None:
        if interrupt.failure is None:
            return None
        ending = self._ending(interrupt.outcome)
        ending.failure = interrupt.failure
        return ending

    def _ending(self, outcome: Outcome) -> Ending:
        return Ending(
            outcome,
            steps=self._steps.summaries,
            started_ms=self._started_ms,
            finished_ms=self._tools.environment.now_ms(),
        )
