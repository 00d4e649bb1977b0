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
from typing import Any, TypeVar

from holdfast.agents.agent import AgentTask
from holdfast.agents.context import Context, Publication, SyncContext, TaskInfo
from holdfast.agents.errors import EffectNotApplied
from holdfast.agents.failures import failure_of, text_of
from holdfast.agents.ledger import Ending
from holdfast.agents.payloads import Payloads, TypeCodec
from holdfast.agents.published import PublishedTopics
from holdfast.agents.step_results import is_async
from holdfast.agents.steps import Begun, StepJournal, Steps, idempotency_key
from holdfast.bus.port import Environment
from holdfast.schemas import DoesNotFit, Undecodable, Unencodable, UnknownSchema
from holdfast.schemas.records import Failure, FailureKind, Outcome, StepKind, TaskEnvelope

__all__ = ["EffectCall", "Execution", "Handler", "Interrupt", "Tools"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Handler:
    """A task with the codecs of its types."""

    task: AgentTask[Any, Any]
    input: TypeCodec
    output: TypeCodec


@dataclass(frozen=True, slots=True)
class Tools:
    """What all executions of a process share."""

    environment: Environment
    payloads: Payloads
    published: PublishedTopics


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Why a handler is stopped; `failure` None: nothing is to be told of it (the slot is lost)."""

    outcome: Outcome = Outcome.CANCELLED
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Body:
    """A user's function to be called, where it may block."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    extra: dict[str, Any] = field(default_factory=dict)

    def call(self) -> Any:
        """Call it."""
        return self.function(*self.arguments, **self.extra)


@dataclass(frozen=True, slots=True)
class EffectCall:
    """An effect as the handler asks for it."""

    name: str
    key: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    reconcile: Callable[..., Any] | None
    idempotent: bool


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
        self._steps = Steps(envelope, journal, tools.payloads, tools.environment.now_ms)
        self._on_progress = on_progress
        self._publications: list[Publication] = []
        self._interrupt: Interrupt | None = None
        self._task: asyncio.Task[Any] | None = None
        self._loop = asyncio.get_running_loop()
        self._threads: set[asyncio.Future[Any]] = set()
        self._requests: set[concurrent.futures.Future[Any]] = set()
        self._started_ms = tools.environment.now_ms()

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
        if self._interrupt is None or interrupt.failure is None:
            self._interrupt = interrupt
        for request in list(self._requests):
            request.cancel()
        if self._task is not None:
            self._task.cancel()

    def stuck(self) -> Ending | None:
        """Return the ending of an interrupted attempt whose body does not end."""
        assert self._interrupt is not None
        return self._ending_of_interrupt(self._interrupt)

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
        await self._steps.confirm()
        result = await self._call(value)
        if self._interrupt is not None:
            raise asyncio.CancelledError
        if self._steps.parked is not None:
            raise self._steps.parked
        self._steps.check_all_asked()
        if self._publications:
            await self._tools.published.require({p.topic for p in self._publications})
        try:
            data = handler.output.encode(result)
        except Unencodable as error:
            return self._unreadable(error, FailureKind.SCHEMA)
        output = await self._tools.payloads.pack(envelope.run_id, data)
        ending = self._ending(Outcome.SUCCEEDED)
        ending.output = output
        ending.published = [publication.record() for publication in self._publications]
        return ending

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

    def ask(self, coroutine: Coroutine[Any, Any, T]) -> T:
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

    def step(
        self, name: str, key: str, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> Procedure:
        """See `Context.step`."""
        begun = self._begin(name, key, function, arguments)
        if begun.found is not None:
            return (yield self._steps.replay(begun))
        yield self._steps.prove()
        started_ms = self._tools.environment.now_ms()
        value = yield Body(function, arguments)
        return (yield self._steps.commit(begun, StepKind.STEP, value, started_ms))

    def effect(self, call: EffectCall) -> Procedure:
        """See `Context.effect`."""
        begun = self._begin(call.name, call.key, call.function, call.arguments)
        found = begun.found
        if found is not None and found.kind is not StepKind.INTENT:
            return (yield self._steps.replay(begun))
        started_ms = self._tools.environment.now_ms()
        idempotency = {"idempotency_key": idempotency_key(self._envelope, begun)}
        if found is None:
            yield self._steps.intend(begun)
        elif call.reconcile is not None:
            yield self._steps.prove()
            try:
                value = yield Body(call.reconcile, call.arguments, idempotency)
            except EffectNotApplied:
                pass  # so it is called below, for the first time as far as the world goes
            else:
                return (yield self._steps.commit(begun, StepKind.EFFECT, value, started_ms))
        elif not call.idempotent:
            raise self._steps.unknown(begun)
        yield self._steps.prove()
        try:
            value = yield Body(call.function, call.arguments, idempotency)
        except EffectNotApplied:
            yield self._steps.take_back(begun)
            raise
        return (yield self._steps.commit(begun, StepKind.EFFECT, value, started_ms))

    async def drive(self, procedure: Procedure) -> Any:
        """Carry out a procedure on the loop."""
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
        value, error = None, None
        while True:
            try:
                operation = procedure.throw(error) if error else procedure.send(value)
            except StopIteration as stop:
                return stop.value
            value, error = None, None
            try:
                if isinstance(operation, Body):
                    value = operation.call()
                    if inspect.isawaitable(value):
                        value = self.ask(_await(value))
                else:
                    value = self.ask(operation)
            except BaseException as raised:  # noqa: BLE001 it is the procedure's to deal with
                error = raised

    def _begin(
        self, name: str, key: str, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> Begun:
        if self._interrupt is not None:
            raise asyncio.CancelledError  # it was caught once; the attempt is over all the same
        return self._steps.begin(name, key, function, arguments)

    async def _body(self, body: Body) -> Any:
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
        ending.failure = failure_of(error, self._handler.task.non_retryable)
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
