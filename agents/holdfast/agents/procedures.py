"""What a step or an ask does, as a procedure, and who carries it out.

A procedure is written once, for asynchronous and synchronous handlers: a generator of bodies to
call and coroutines to wait for. `Driver` carries it out on the loop, or from the handler's thread.
Nobody can stop a thread: it is asked to end at its next `ctx` call.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from holdfast.agents.step_results import is_async
from holdfast.bus.port import Environment

__all__ = ["Body", "Driver", "DriverSteps", "Procedure"]

T = TypeVar("T")


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


class DriverSteps(Protocol):
    """What driving asks of the steps of an execution."""

    async def rise(self) -> None:
        """Return once the execution has a place: a body is to be called."""
        ...

    def ended(self) -> None:
        """One procedure fewer is under way."""
        ...


class Driver:
    """Carries out the procedures of one execution. Made on the loop that they use."""

    def __init__(self, environment: Environment, steps: DriverSteps) -> None:
        self._environment = environment
        self._steps = steps
        self._loop = asyncio.get_running_loop()
        self._stopped = False
        self._procedures: set[Procedure] = set()
        self._threads: set[asyncio.Future[Any]] = set()
        self._requests: set[concurrent.futures.Future[Any]] = set()

    def __len__(self) -> int:
        return len(self._procedures)

    def stop(self) -> None:
        """Let threads get no further than to what they ask of the loop now, or ask for next."""
        self._stopped = True
        for request in list(self._requests):
            request.cancel()

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

    async def _body(self, body: Body) -> Any:
        await self._steps.rise()
        if is_async(body.function):
            return await body.call()
        value = await self.block(body.call)
        return await value if inspect.isawaitable(value) else value

    # --- threads -------------------------------------------------------------------------------

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

    def on_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """From a handler's thread: run `coroutine` on the loop and wait for it.

        Raises `asyncio.CancelledError`, which `except Exception` does not catch, once the attempt
        is over.
        """
        if self._stopped:
            coroutine.close()
            raise asyncio.CancelledError
        request = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        self._requests.add(request)
        try:
            if self._stopped:
                request.cancel()
            return request.result()
        except concurrent.futures.CancelledError:
            raise asyncio.CancelledError from None
        finally:
            self._requests.discard(request)

    def soon(self, call: Callable[..., None], *arguments: Any) -> None:
        """From any thread: have something called on the loop, and do not wait for it."""
        self._loop.call_soon_threadsafe(call, *arguments)

    async def block(self, call: Callable[[], T]) -> T:
        """Run `call` in a thread; when cancelled, the thread is left to end by itself."""
        thread = asyncio.ensure_future(self._environment.run_blocking(_guarded(call)))
        self._threads.add(thread)
        thread.add_done_callback(self._thread_ended)
        return await asyncio.shield(thread)

    def _thread_ended(self, thread: asyncio.Future[Any]) -> None:
        self._threads.discard(thread)
        if not thread.cancelled():
            thread.exception()  # whoever waited for it may be gone: it counts as seen

    def when_threads_end(self, callback: Callable[[], None]) -> None:
        """Call back once no thread works for this execution any more; at once if none does."""
        if not self._threads:
            callback()
            return
        waiting = asyncio.gather(*self._threads, return_exceptions=True)
        waiting.add_done_callback(lambda _: self.when_threads_end(callback))


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
