"""An event loop without a clock of its own and without threads: one for each simulated process.

The world steps it, one callback at a time, so that any two callbacks of one process may lie on
either side of a crash. The order within a process is asyncio's: first in, first out.
"""

# ruff: noqa: SLF001 what a loop does to handles and to the running loop is asyncio's inside

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

__all__ = ["Clock", "SimLoop"]

T = TypeVar("T")


class Clock:
    """The world's time, in seconds, and everything that waits for a moment of it."""

    def __init__(self) -> None:
        self.now = 0.0
        self._timers: list[tuple[float, int, asyncio.TimerHandle | asyncio.Handle, SimLoop]] = []
        self._sequence = itertools.count()

    def at(self, when: float, handle: asyncio.Handle, loop: SimLoop) -> None:
        """Make `handle` ready on `loop` at `when`."""
        heapq.heappush(self._timers, (when, next(self._sequence), handle, loop))

    def advance(self, limit: float) -> bool:
        """Go to the next moment that something waits for, not beyond `limit`; False if none."""
        timers = self._timers
        while timers and (timers[0][2].cancelled() or timers[0][3].dead):
            heapq.heappop(timers)
        if not timers or timers[0][0] > limit:
            self.now = max(self.now, limit)
            return False
        self.now = max(self.now, timers[0][0])
        while timers and timers[0][0] <= self.now:
            _, _, handle, loop = heapq.heappop(timers)
            if not handle.cancelled():
                loop.make_ready(handle)
        return True


class SimLoop(asyncio.AbstractEventLoop):
    """What asyncio's own primitives need of a loop, and nothing of a real machine.

    `on_error` hears what no one else would: exceptions of callbacks and of tasks never awaited.
    A `dead` loop takes nothing any more and runs nothing: what unwinds in it reaches nobody.
    """

    def __init__(
        self,
        clock: Clock,
        ready: Callable[[SimLoop], None],
        on_error: Callable[[dict[str, Any]], None],
    ) -> None:
        self._clock = clock
        self._announce = ready
        self._on_error = on_error
        self._ready: deque[asyncio.Handle] = deque()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.dead = False

    # --- for the world -------------------------------------------------------------------------

    def make_ready(self, handle: asyncio.Handle) -> None:
        """Run `handle` when its turn comes."""
        if self.dead:
            return
        if not self._ready:
            self._announce(self)
        self._ready.append(handle)

    def step(self) -> bool:
        """Run one callback; tell whether another is ready."""
        handle = self._ready.popleft()
        if not handle.cancelled():
            previous = events._get_running_loop()
            events._set_running_loop(self)
            try:
                handle._run()
            finally:
                events._set_running_loop(previous)
        return bool(self._ready)

    @property
    def has_ready(self) -> bool:
        """Whether a callback is ready to run."""
        return bool(self._ready)

    def drop(self) -> None:
        """Die: from now on nothing runs here and nothing is taken.

        What was under way is kept as it stands: were it let go, the interpreter would unwind it at
        a moment of its own choice, in the middle of somebody else's callback.
        """
        self.dead = True

    def unwind(self) -> None:
        """Close what was under way when the loop died; its `finally`s find this dead loop."""
        assert self.dead
        tasks, self._tasks = self._tasks, set()
        self._ready.clear()
        previous = events._get_running_loop()
        events._set_running_loop(self)
        try:
            for task in tasks:
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                # Whatever it raises, it raises in a dead process.
                with suppress(BaseException):
                    task.get_coro().close()
        finally:
            events._set_running_loop(previous)

    # --- what asyncio calls --------------------------------------------------------------------

    def time(self) -> float:
        """Return the world's time in seconds."""
        return self._clock.now

    def call_soon(  # type: ignore[override]
        self,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """See asyncio."""
        handle = asyncio.Handle(callback, args, self, context)
        self.make_ready(handle)
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """See asyncio; there is one thread at a time, so it is `call_soon`."""
        return self.call_soon(callback, *args, context=context)

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """See asyncio."""
        return self.call_at(self._clock.now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """See asyncio."""
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        if not self.dead:
            self._clock.at(when, handle, self)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Nothing to do: the clock skips cancelled handles."""

    def create_future(self) -> asyncio.Future[Any]:
        """See asyncio."""
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[T]:
        """See asyncio."""
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        if self.dead:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            coro.close()
            return task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def get_debug(self) -> bool:
        """See asyncio."""
        return False

    def is_running(self) -> bool:
        """See asyncio."""
        return not self.dead

    def is_closed(self) -> bool:
        """See asyncio."""
        return self.dead

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """See asyncio."""
        if not self.dead:
            self._on_error(context)
