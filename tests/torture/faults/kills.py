"""`kill -9`: at named points, at any time, two at once, and again while the first is recovering."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tests.torture.faults.base import Fault, Injection
from tests.torture.points import RESTORE_POINTS, Point

if TYPE_CHECKING:
    from tests.torture.arena import Arena

__all__ = ["KillAtPoint", "KillPair", "KillRandom", "KillRecovering", "kill_now"]

PASSINGS_MAX = 4
"""Not always the first time that a process comes by."""
MISS_S = 6.0
"""A process that does not come by a point for so long is told to live on."""
LOOK_S = 0.005
PAUSE_MAX_S = 0.4
"""Before a kill at a random time."""
AGAIN_MAX_S = 0.4
"""The second kill comes at most so long after the first: opening, restoring, or just at work."""


class KillAtPoint(Fault):
    """Has processes of one role kill themselves at each of the role's points in turn."""

    def __init__(
        self, name: str, role: str, points: tuple[Point, ...], bound_s: float | None = None
    ) -> None:
        self.name = name
        self.points = tuple(point.value for point in points)
        self.bound_s = bound_s
        self._role = role
        self._points = points
        self._taken: Counter[Point] = Counter()
        self._missed: Counter[tuple[str, Point]] = Counter()

    def restrict(self, names: Sequence[str]) -> None:
        """Strike at these points only; raises `KeyError` for one that it has not."""
        if unknown := set(names) - set(self.points):
            raise KeyError(f"no point {min(unknown)!r}; there are {', '.join(self.points)}")
        self._points = tuple(point for point in self._points if point.value in names)
        self.points = tuple(point.value for point in self._points)

    def victims(self, arena: Arena) -> list[str]:
        """See `Fault`."""
        return arena.of_role(self._role)

    async def inject(self, arena: Arena, victim: str, chance: random.Random) -> Injection | None:
        """See `Fault`."""
        point = min(self._points, key=lambda p: (self._taken[p], self._missed[victim, p]))
        self._taken[point] += 1  # the next lane draws another one
        control = arena.fleet.members[victim].control
        before = len(arena.hits.all())
        if point in RESTORE_POINTS:
            control.arm(point)
            kill_now(arena, victim)
        else:
            control.arm(point, chance.randint(1, PASSINGS_MAX))
        deadline = time.monotonic() + MISS_S
        while (hit := arena.hits.of(victim, before)) is None:
            if time.monotonic() > deadline:
                control.disarm()
                self._taken[point] -= 1
                self._missed[victim, point] += 1
                return None
            await asyncio.sleep(LOOK_S)
        at = hit.at_ns / 1e9
        return Injection(victim, point.value, {point.value: arena.watch.recovering(victim, at)})


class KillRandom(Fault):
    """Kills a service whenever it comes to mind."""

    name = "kill-random"

    def victims(self, arena: Arena) -> list[str]:
        """See `Fault`."""
        return list(arena.fleet.members)

    async def inject(self, arena: Arena, victim: str, chance: random.Random) -> Injection | None:
        """See `Fault`."""
        await asyncio.sleep(chance.uniform(0, PAUSE_MAX_S))
        return kill_now(arena, victim)


class KillPair(Fault):
    """Kills two services in the same moment."""

    name = "kill-pair"

    def victims(self, arena: Arena) -> list[str]:
        """The first of each pair; the other one is any."""
        return list(arena.fleet.members)[::2]

    async def inject(self, arena: Arena, victim: str, chance: random.Random) -> Injection | None:
        """See `Fault`. Counted as one."""
        await asyncio.sleep(chance.uniform(0, PAUSE_MAX_S))
        other = chance.choice([name for name in arena.fleet.members if name != victim])
        second, first = kill_now(arena, other), kill_now(arena, victim)
        if first is None or second is None:
            return None
        return Injection(victim, "", {"": first.awaited[""], "second": second.awaited[""]})


class KillRecovering(Fault):
    """Kills a service, and its next process while that opens and restores."""

    name = "kill-recovering"

    def victims(self, arena: Arena) -> list[str]:
        """See `Fault`."""
        return list(arena.fleet.members)

    async def inject(self, arena: Arena, victim: str, chance: random.Random) -> Injection | None:
        """See `Fault`. Recovery counts from the second kill."""
        member = arena.fleet.members[victim]
        starts = member.starts
        if kill_now(arena, victim) is None:
            return None
        async with asyncio.timeout(MISS_S):
            while member.starts == starts or member.pid is None:
                await asyncio.sleep(LOOK_S)
        await asyncio.sleep(chance.uniform(0, AGAIN_MAX_S))
        return kill_now(arena, victim)


def kill_now(arena: Arena, victim: str) -> Injection | None:
    """Kill the process of a service; None if it has none right now."""
    at = time.monotonic()
    if not arena.fleet.kill(victim):
        return None
    return Injection(victim, "", {"": arena.watch.recovering(victim, at)})
