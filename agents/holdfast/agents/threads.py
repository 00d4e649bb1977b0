"""Threads for synchronous handlers and step functions: an adapter, as threads are nowhere else.

The event loop's own pool is too small for it (5 threads on one core, shared with whatever else uses
it): handlers that hold all of them while they wait for steps would wait for ever. The standard
library's pool is joined when the interpreter ends: a process that has given up its slots, and is to
be started again, would wait for the longest of its handlers. These threads are left behind.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

__all__ = ["HandlerThreads"]

T = TypeVar("T")

EXTRA_THREADS = 16
"""Beside one for each place: for synchronous steps of asynchronous handlers."""


class HandlerThreads:
    """Runs blocking calls; implements `RunBlocking`. Used from the event loop alone."""

    def __init__(self, name: str, concurrency: int) -> None:
        self._name = f"holdfast-{name}"
        self._threads_max = concurrency + EXTRA_THREADS
        self._threads = 0
        self._idle = threading.Semaphore(0)
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = (
            queue.SimpleQueue()
        )
        self._closed = False

    def __call__(self, call: Callable[[], T], /) -> Awaitable[T]:
        """Return what `call` returns; it sees the caller's context variables."""
        if self._closed:
            raise RuntimeError(f"the threads of {self._name} are closed")
        future: Future[T] = Future()
        self._calls.put((future, partial(contextvars.copy_context().run, call)))
        if not self._idle.acquire(blocking=False) and self._threads < self._threads_max:
            self._threads += 1
            name = f"{self._name}-{self._threads}"
            threading.Thread(target=self._work, name=name, daemon=True).start()
        return asyncio.wrap_future(future)

    def close(self) -> None:
        """Start nothing more; what runs is left to end by itself."""
        self._closed = True
        with suppress(queue.Empty):
            while (waiting := self._calls.get_nowait()) is not None:
                waiting[0].cancel()
        for _ in range(self._threads):
            self._calls.put(None)

    def _work(self) -> None:
        while (taken := self._calls.get()) is not None:
            _run(*taken)
            del taken  # it holds what the call holds, until the next one comes
            self._idle.release()


def _run(future: Future[Any], call: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 belongs to whoever waits for it
        future.set_exception(error)
    else:
        future.set_result(result)
