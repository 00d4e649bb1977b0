"""Threads for synchronous handlers and step functions: an adapter, as threads are nowhere else.

The event loop's own pool is too small for it (5 threads on one core, shared with whatever else uses
it): handlers that hold all of them while they wait for steps would wait for ever.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["HandlerThreads"]

T = TypeVar("T")

EXTRA_THREADS = 16
"""Beside one for each place: for synchronous steps of asynchronous handlers."""


class HandlerThreads:
    """Runs blocking calls; implements `RunBlocking`."""

    def __init__(self, name: str, concurrency: int) -> None:
        self._pool = ThreadPoolExecutor(concurrency + EXTRA_THREADS, f"holdfast-{name}")

    def __call__(self, call: Callable[[], T], /) -> Awaitable[T]:
        """Return what `call` returns; it sees the caller's context variables."""
        context = contextvars.copy_context()
        return asyncio.get_running_loop().run_in_executor(self._pool, context.run, call)

    def close(self) -> None:
        """Start nothing more; what runs is left to end by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)
