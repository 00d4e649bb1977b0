"""Threads that a virtual clock can bear: one runs at a time, and the world waits while it does.

Synchronous handlers and steps run in threads and call back to their loop. Here a thread holds the
baton from where it begins, or its answer came, to where it ends, or waits for an answer of its
loop (`asyncio.run_coroutine_threadsafe(...).result()`, which is how a `SyncContext` asks). Then
the baton is the world's again. So no two things ever happen at once, and a seed stays a history.

What a thread waits for otherwise (a lock, a socket) takes real time, in which the world's clock
stands still; `BATON_S` bounds it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from types import CellType
from typing import Any, NoReturn, TypeVar

from holdfast.testing.sim.loop import SimLoop

__all__ = [
    "BATON_S",
    "BatonHeld",
    "BatonThreads",
    "ThreadDropped",
    "ThreadedLoop",
    "halt_thread",
    "sleep_in_thread",
]

T = TypeVar("T")

BATON_S = 60.0
"""Real seconds for which one thread may hold the baton."""
UNWIND_S = 1.0
"""Real seconds for which the end of the world waits for a thread to unwind."""


class BatonHeld(AssertionError):
    """A synchronous function neither returned nor asked its context for anything."""


class ThreadDropped(BaseException):
    """Raised in threads that are left when their world ends; never before."""


class _Here(threading.local):
    worker: _Worker | None = None


_here = _Here()


class _Worker:
    """One blocking call and its thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], Any]) -> None:
        self.answer: asyncio.Future[Any] = loop.create_future()
        self.ended = False
        self._loop = loop
        self._call: Callable[[], Any] | None = partial(contextvars.copy_context().run, call)
        self._dropped = False
        self._result: Any = None
        self._error: BaseException | None = None
        self._go = threading.Semaphore(0)
        self._back = threading.Semaphore(0)
        self.thread = threading.Thread(target=self._work, name="holdfast-sim", daemon=True)

    # --- in the world ----------------------------------------------------------------------------

    def start(self) -> None:
        """Give the baton to the new thread."""
        if self.answer.cancelled():
            self.ended = True  # as a pool does with a call that waits
            return
        self.thread.start()
        self._await_baton()

    def go_on(self) -> None:
        """Give it the baton again."""
        if not self.ended:
            self._go.release()
            self._await_baton()

    def drop(self) -> None:
        """Unwind the thread where it stands: its world has ended."""
        if self.ended or not self.thread.is_alive():
            return
        self._dropped = True
        self._go.release()
        self.thread.join(UNWIND_S)

    def _await_baton(self) -> None:
        if not self._back.acquire(timeout=BATON_S):
            frame = sys._current_frames().get(self.thread.ident or 0)  # noqa: SLF001
            stack = "".join(traceback.format_stack(frame)[-6:]) if frame else ""
            raise BatonHeld(
                f"a synchronous handler or step has run for {BATON_S:g} s of real time without "
                "returning or asking its context for anything. What really blocks (a socket, a "
                f"lock of another thread) is not skipped. It stands here:\n{stack}"
            )
        if not self.ended or self.answer.done():
            return
        if self._error is not None:
            self.answer.set_exception(self._error)
        else:
            self.answer.set_result(self._result)

    # --- in the thread ---------------------------------------------------------------------------

    def watch(self, future: concurrent.futures.Future[Any]) -> None:
        """Hand the baton over when this thread asks for the future's result."""
        future.result = partial(self._result_of, future)  # type: ignore[method-assign]

    def park(self) -> None:
        """Hand the baton to the world, until it comes back."""
        if not self._dropped:
            self._back.release()
            self._go.acquire()
        if self._dropped:
            raise ThreadDropped

    def sleep(self, seconds: float) -> None:
        """Let virtual time pass."""
        self._loop.call_later(max(0.0, seconds), self.go_on)
        self.park()

    def _result_of(
        self, future: concurrent.futures.Future[Any], timeout: float | None = None
    ) -> Any:
        if not future.done():
            # Both are called by the world, in its own thread, while this one is parked.
            resume = self._loop.call_soon
            future.add_done_callback(lambda _: resume(self.go_on))
            if timeout is not None:
                self._loop.call_later(timeout, self._time_out, future)
            self.park()
        return concurrent.futures.Future.result(future, 0)

    def _time_out(self, future: concurrent.futures.Future[Any]) -> None:
        if not future.done():
            self.go_on()

    def _work(self) -> None:
        _here.worker = self
        call, self._call = self._call, None
        assert call is not None
        try:
            self._result = call()
        except BaseException as error:  # noqa: BLE001 belongs to whoever waits for it
            self._error = error
        self.ended = True
        self._back.release()


class BatonThreads:
    """Runs the blocking calls of one process; implements `RunBlocking`."""

    def __init__(self) -> None:
        self._workers: set[_Worker] = set()

    def __call__(self, call: Callable[[], T], /) -> Awaitable[T]:
        """Return what `call` returns; it sees the caller's context variables."""
        loop = asyncio.get_running_loop()
        self._workers = {worker for worker in self._workers if not worker.ended}
        worker = _Worker(loop, call)
        self._workers.add(worker)
        loop.call_soon(worker.start)
        return worker.answer

    def drop(self) -> None:
        """Unwind every thread that has not ended; call it when its loop is dead."""
        workers, self._workers = self._workers, set()
        for worker in workers:
            worker.drop()


class ThreadedLoop(SimLoop):
    """A loop that its threads may call; each is one of `BatonThreads`."""

    def call_soon_threadsafe(  # type: ignore[override]
        self,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """See asyncio."""
        worker = _here.worker
        if worker is not None and (future := _future_of(callback)) is not None:
            worker.watch(future)
        return self.call_soon(callback, *args, context=context)


def halt_thread() -> NoReturn:
    """From a thread: stand still for ever, as a thread of a killed process."""
    worker = _here.worker
    if worker is None:
        raise ThreadDropped
    while True:
        worker.park()


def sleep_in_thread(seconds: float) -> bool:
    """Let virtual time pass, if this is a thread of a world; tell whether it is."""
    worker = _here.worker
    if worker is not None:
        worker.sleep(seconds)
    return worker is not None


def _future_of(callback: Callable[..., Any]) -> concurrent.futures.Future[Any] | None:
    """The future that `run_coroutine_threadsafe` is about to return: what its callback closes
    over is the one place to learn of it before the thread waits for it."""
    cells: tuple[CellType, ...] = getattr(callback, "__closure__", None) or ()
    for cell in cells:
        if isinstance(cell.cell_contents, concurrent.futures.Future):
            return cell.cell_contents
    return None
