"""The time that a slot's engine is told: never backwards, and never far ahead of what really
passed.

Wall clocks jump: an operator corrects one, a virtual machine was moved. All timers of all runs
hang on it, so a jump against the monotonic clock is held: time goes on from where it was, at the
monotonic clock's pace, until the wall agrees again or the slot is opened anew. Small differences
are followed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from holdfast.coordinator import metrics

__all__ = ["HELD_JUMP_MS", "SteadyClock"]

logger = logging.getLogger(__name__)

HELD_JUMP_MS = 60_000
"""A jump of the wall clock by more than this is held."""


class SteadyClock:
    """One slot's time, in milliseconds since the epoch.

    `floor_ms` is the newest time that was committed: nothing is told before it.
    """

    def __init__(
        self, wall_ms: Callable[[], int], monotonic_s: Callable[[], float], floor_ms: int
    ) -> None:
        self._wall_ms = wall_ms
        self._monotonic_s = monotonic_s
        self._told_ms = floor_ms
        self._wall_before_ms = wall_ms()
        self._monotonic_before_s = monotonic_s()
        self._held = False

    def now_ms(self) -> int:
        """Return the time; the same or later than the last answer."""
        wall_ms, monotonic_s = self._wall_ms(), self._monotonic_s()
        passed_ms = round((monotonic_s - self._monotonic_before_s) * 1_000)
        expected_ms = self._wall_before_ms + passed_ms
        jump_ms = wall_ms - expected_ms
        if abs(jump_ms) > HELD_JUMP_MS:
            self._hold(jump_ms)
            wall_ms = expected_ms
        else:
            self._held = False
            metrics.CLOCK_HELD_SECONDS.set(0)
            self._wall_before_ms, self._monotonic_before_s = wall_ms, monotonic_s
        self._told_ms = max(self._told_ms, wall_ms)
        return self._told_ms

    def wall_of(self, at_ms: int) -> int:
        """Return what the wall clock will show when this clock tells `at_ms`."""
        return self._wall_ms() + at_ms - self.now_ms()

    def _hold(self, jump_ms: int) -> None:
        metrics.CLOCK_HELD_SECONDS.set(jump_ms / 1_000)
        if not self._held:
            self._held = True
            logger.error(
                "the wall clock jumped by %.0f s against the monotonic clock: held; timers go on as"
                " if it had not. If the new time is right, restart the coordinator",
                jump_ms / 1_000,
            )
