"""One run of one handler: from an attempt's envelope to how it ended.

Knows nothing of slots: what it wants journaled it asks of a `StepJournal`. Synchronous handlers and
step functions run in threads (`Environment.run_blocking`) that no one can stop: they are asked to
end at their next `ctx` call, and the execution counts as running until they have.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from holdfast.agents.context import Context, Publication, SyncContext, TaskInfo
from holdfast.agents.doing import AskCall, EffectCall, StepCall
from holdfast.agents.errors import EffectNotApplied
from holdfast.agents.failures import failure_of, text_of
from holdfast.agents.guarding import Guard
from holdfast.agents.handlers import Handler
from holdfast.agents.interrupts import Interrupt
from holdfast.agents.keyed_state import StateTypes, StateUse
from holdfast.agents.ledger import Ending
from holdfast.agents.payloads import Payloads
from holdfast.agents.published import PublishedTopics
from holdfast.agents.step_results import is_async
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


@dataclass(frozen=True, slots=True)
class Body:
    """A user's function to be called, where it may block."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    extra: dict[str, Any] = field(default_factory=dict)

    def call(self) -> Any:
        """Call it."""
        return self.function(*self.arguments, **self.extra)


Procedure = Generator[Body | Coroutine[Any, Any, Any], Any, Any]
"""What a step does, written once: bodies to call and coroutines to wait for, which an asynchronous
handler carries out on the loop and a synchronous one from its thread."""


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
        self._guard = Guard(journal, self._steps.prove)
        self._on_progress = on_progress
        self._publications: list[Publication] = []
        self._journal = journal
        self._state: StateUse | None = None
        self._interrupt: Interrupt | None = None
        self._task: asyncio.Task[Any] | None = None
        self._loop = asyncio.get_running_loop()
        self._procedures: set[Procedure] = set()
        self._threads: set[asyncio.Future[Any]] = set()
        self._requests: set[concurrent.futures.Future[Any]] = set()
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
        return len(self._procedures)

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
        for request in list(self._requests):
            request.cancel()
        if self._task is not None:
            self._task.cancel()

    def end_of_interrupt(self) -> Ending | None:
        """Return how the attempt ends by what it was interrupted for; None: it does not."""
        return None if self._interrupt is None else self._ending_of_interrupt(self._interrupt)

    def when_threads_end(self, callback: Callable[[], None]) -> None:
        """Call back once no thread works for this execution any more; at once if none does."""
        if not self._threads:
            callback()
            return
        waiting = asyncio.gather(*self._threads, return_exceptions=True)
        waiting.add_done_callback(lambda _: self.when_threads_end(callback))

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
        result = await self._call(value)
        if self._interrupt is not None:
            raise asyncio.CancelledError
        if self._steps.parked is not None:
            raise self._steps.parked
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
        return await self._blocking(lambda: task.call(sync_context, value))

    async def _blocking(self, call: Callable[[], T]) -> T:
        """Run `call` in a thread; when cancelled, the thread is left to end by itself."""
        thread = asyncio.ensure_future(self._tools.environment.run_blocking(_guarded(call)))
        self._threads.add(thread)
        thread.add_done_callback(self._thread_ended)
        return await asyncio.shield(thread)

    def _thread_ended(self, thread: asyncio.Future[Any]) -> None:
        self._threads.discard(thread)
        if not thread.cancelled():
            thread.exception()  # whoever waited for it may be gone: it counts as seen

    def on_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """From a handler's thread: run `coroutine` on the loop and wait for it.

        Raises `asyncio.CancelledError`, which `except Exception` does not catch, once the attempt
        is over.
        """
        if self._interrupt is not None:
            coroutine.close()
            raise asyncio.CancelledError
        request = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        self._requests.add(request)
        try:
            if self._interrupt is not None:
                request.cancel()
            return request.result()
        except concurrent.futures.CancelledError:
            raise asyncio.CancelledError from None
        finally:
            self._requests.discard(request)

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

    async def drive(self, procedure: Procedure) -> Any:
        """Carry out a procedure on the loop."""
        self._procedures.add(procedure)
        try:
            return await self._drive(procedure)
        finally:
            self._procedures.discard(procedure)
            self._steps.ended()

    async def _drive(self, procedure: Procedure) -> Any:
        value, error = None, None
        while True:
            try:
                operation = procedure.throw(error) if error else procedure.send(value)
            except StopIteration as stop:
                return stop.value
            value, error = None, None
            try:
                if isinstance(operation, Body):
                    value = await self._body(operation)
                else:
                    value = await operation
            except BaseException as raised:  # noqa: BLE001 it is the procedure's to deal with
                error = raised

    def drive_in_thread(self, procedure: Procedure) -> Any:
        """Carry out a procedure from a handler's thread.

        Synchronous bodies run in this very thread: for a second one it might wait for ever, where
        all threads are held by handlers that wait likewise.
        """
        self._procedures.add(procedure)
        try:
            return self._drive_in_thread(procedure)
        finally:
            self._procedures.discard(procedure)
            if self._procedures:  # another thread of the handler waits, perhaps
                self._loop.call_soon_threadsafe(self._steps.ended)

    def _drive_in_thread(self, procedure: Procedure) -> Any:
        value, error = None, None
        while True:
            try:
                operation = procedure.throw(error) if error else procedure.send(value)
            except StopIteration as stop:
                return stop.value
            value, error = None, None
            try:
                if isinstance(operation, Body):
                    value = self._body_in_thread(operation)
                else:
                    value = self.on_loop(operation)
            except BaseException as raised:  # noqa: BLE001 it is the procedure's to deal with
                error = raised

    def _body_in_thread(self, body: Body) -> Any:
        value = body.call()
        return self.on_loop(_await(value)) if inspect.isawaitable(value) else value

    def _begin(self, call: StepCall | EffectCall) -> Begun:
        self._go_on()
        begun = self._steps.begin(call.name, call.key, call.function, call.arguments)
        self._steps.can_be_undone(begun, call.undo)
        return begun

    async def _body(self, body: Body) -> Any:
        await self._steps.rise()
        if is_async(body.function):
            return await body.call()
        value = await self._blocking(body.call)
        return await value if inspect.isawaitable(value) else value

    # --- endings -------------------------------------------------------------------------------

    def publish(self, publication: Publication) -> None:
        """See `Context.publish`."""
        self._publications.append(publication)

    def progress(self, message: str, fraction: float | None) -> None:
        """See `Context.progress`; may be called from any thread."""
        self._loop.call_soon_threadsafe(self._on_progress, message, fraction)

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


def _guarded(call: Callable[[], T]) -> Callable[[], T]:
    """Return `call` without the one exception that a future refuses, and would wait on for ever."""

    def guarded() -> T:
        try:
            return call()
        except StopIteration as error:
            raise RuntimeError("a synchronous function raised StopIteration") from error

    return guarded


async def _await(value: Awaitable[T]) -> T:
    return await value
