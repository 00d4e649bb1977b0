"""The time that a slot's engine is told: never backwards, and never far ahead of what really
passed.

Wall clocks jump: an operator corrects one, a virtual machine was moved. All timers of all runs
hang on it, so a jump against the monotonic clock is held: time goes on from where it was, at the
monotonic clock's pace, until the wall agrees again or the slot is opened anew. Small differences
are followed.

Time that is ahead of the wall (a clock that was an hour fast was put right, and the coordinator
restarted) goes on at half its pace until the wall has caught up: to wait for the wall would make
every retry of the slot wait for that hour.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from holdfast.coordinator import metrics

__all__ = ["HELD_JUMP_MS", "SteadyClock"]

logger = logging.getLogger(__name__)

HELD_JUMP_MS = 60_000
"""A jump of the wall clock by more than this is held."""
CATCHING_UP = 0.5
"""The pace of a time that is ahead of the wall."""


class SteadyClock:
    """One slot's time, in milliseconds since the epoch.

    `floor_ms` is the newest time that was committed: nothing is told before it.
    """

    def __init__(
        self, wall_ms: Callable[[], int], monotonic_s: Callable[[], float], floor_ms: int
    ) -> None:
        self._wall_ms = wall_ms
        self._monotonic_s = monotonic_s
        self._told_ms = float(floor_ms)
        self._wall_before_ms = wall_ms()
        self._monotonic_before_s = self._told_at_s = monotonic_s()
        self._held = False
        self._steady_ms = self._wall_before_ms
        """The wall's time when it was asked last, without the jump that is held."""

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
        since_ms = (monotonic_s - self._told_at_s) * 1_000
        self._told_at_s = monotonic_s
        self._steady_ms = wall_ms
        self._told_ms = max(self._told_ms + since_ms * CATCHING_UP, wall_ms)
        return int(self._told_ms)

    def wall_of(self, at_ms: int) -> int:
        """Return what the wall clock will show when this clock tells `at_ms`."""
        ahead_ms = at_ms - self.now_ms()
        slowly_ms = math.ceil(ahead_ms / CATCHING_UP)
        # Whichever comes first: this clock at its slower pace, or the wall.
        return self._wall_ms() + min(slowly_ms, at_ms - self._steady_ms)

    def _hold(self, jump_ms: int) -> None:
        metrics.CLOCK_HELD_SECONDS.set(jump_ms / 1_000)
        if not self._held:
            self._held = True
            logger.error(
                "the wall clock jumped by %.0f s against the monotonic clock: held; timers go on as"
                " if it had not. If the new time is right, restart the coordinator",
                jump_ms / 1_000,
            )
