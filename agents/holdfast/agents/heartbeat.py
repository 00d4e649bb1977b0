"""Heartbeats: whether a handler that holds a place still gets on with its work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Heartbeat"]


class Heartbeat:
    """Calls `stalled` with a message once nothing has `moved` for `limit_s`; stands still while
    the handler has no place."""

    def __init__(self, limit_s: float, stalled: Callable[[str], None]) -> None:
        self._limit_s = limit_s
        self._stalled = stalled
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()
        self._last = "it has done nothing since it began"
        self._timer: asyncio.TimerHandle | None = None

    def moved(self, what: str) -> None:
        """A step was committed, or the handler said how far it is."""
        after_s = self._loop.time() - self._began_s
        self._last = f"the last was {what}, {after_s:.3g} s after it began"
        if self._timer is not None:
            self.stop()
            self.start()

    def start(self) -> None:
        """It has a place (again): the time counts anew."""
        if self._timer is None:
            self._timer = self._loop.call_later(self._limit_s, self._stall)

    def stop(self) -> None:
        """It has no place any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stall(self) -> None:
        self._timer = None
        self._stalled(f"the handler made no progress for {self._limit_s:g} s; {self._last}")
