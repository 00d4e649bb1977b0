"""Processes that stand still, members that come and go, clocks that jump."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING

from holdfast.bus.topics import COORDINATOR_GROUP
from holdfast.testing import Excused
from tests.torture.faults.base import Fault, Injection
from tests.torture.faults.kills import kill_now
from tests.torture.watch import Recovery

if TYPE_CHECKING:
    from tests.torture.arena import Arena

__all__ = ["ClockJump", "Freeze", "Storm"]

SESSION_S = 6.0
"""How long a silent member keeps its slots, on either bus."""
EXIT_RESTART = 75
WOKEN, TAKEOVER = "woken", "takeover"
HOUR_MS = 3_600_000
STORM_S = 2.0
"""So often a member joins or leaves."""
BESIDE = "9"


class Freeze(Fault):
    """SIGSTOP for longer than the session time-out, then SIGCONT: the zombie tries to commit.

    Told by name: `takeover`, from the stop until another process works in its slots (where there is
    another); `woken`, from SIGCONT until its instance commits again. One at a time: where two of
    the agents of a chain stand still nothing comes to the third, and without work none commits.
    """

    name = "freeze"
    exits = frozenset({EXIT_RESTART})
    """Who wakes after too long ends itself: restart and restore is the one recovery path."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    def victims(self, arena: Arena) -> list[str]:
        """One of each group, so that the others can take over."""
        return ["alpha-1", "beta-1", "gamma-1", "c1"]

    async def inject(self, arena: Arena, victim: str, chance: random.Random) -> Injection | None:
        """See `Fault`."""
        async with self._turn:
            injection = await self._freeze(arena, victim, chance)
            if injection is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(SESSION_S):
                        await injection.awaited[WOKEN].done.wait()
        return injection

    async def _freeze(self, arena: Arena, victim: str, chance: random.Random) -> Injection | None:
        member = arena.fleet.members[victim]
        pid = member.pid
        if pid is None:
            return None
        shared = any(o != victim and o[:-1] == victim[:-1] for o in arena.fleet.members)
        at, from_ms = time.monotonic(), _now_ms()
        takeover = arena.watch.recovering(victim, at)
        arena.fleet.send(victim, signal.SIGSTOP)
        await asyncio.sleep(SESSION_S + chance.uniform(0.5, 3.0))
        awaited: dict[str, Recovery] = {TAKEOVER: takeover} if shared else {}
        awaited[WOKEN] = arena.watch.return_of(victim, time.monotonic())
        arena.evidence.add(
            Excused(f"{victim}:{pid}", "was stopped by SIGSTOP", from_ms, _now_ms() + 1_000)
        )
        member.expected = True
        arena.fleet.send(victim, signal.SIGCONT)
        return Injection(victim, "", awaited)

    async def recovered(self, arena: Arena, injection: Injection) -> dict[str, float]:
        """See `Fault`. If it lives on, its next end is not explained by this any more."""
        found = await super().recovered(arena, injection)
        arena.fleet.members[injection.victim].expected = False
        return found


class Storm(Fault):
    """A member of each group joins or leaves every 2 s, mostly gracefully.

    Told by name: `joined` and `left`, until every slot of the group was committed to again;
    `stopped`, how long the graceful stop took.
    """

    name = "storm"
    KILLED_SHARE = 0.2

    def __init__(self) -> None:
        self._stopped: Counter[str] = Counter()

    def victims(self, arena: Arena) -> list[str]:
        """One member of each group, which another joins beside."""
        return ["alpha-1", "beta-1", "gamma-1", "c1"]

    async def inject(self, arena: Arena, victim: str, chance: random.Random) -> Injection | None:
        """See `Fault`."""
        began = time.monotonic()
        beside = victim[:-1] + BESIDE
        group = COORDINATOR_GROUP if victim.startswith("c") else victim[:-2]
        slots = arena.watch.slots_of(group)
        if beside not in arena.fleet.members:
            arena.fleet.add(beside, *arena.fleet.members[victim].arguments[:-2])
            awaited = {"joined": arena.watch.progress(slots, began)}
        elif chance.random() < self.KILLED_SHARE:
            await arena.fleet.retire(beside, signal.SIGKILL)
            awaited = {}
        else:
            seconds = await arena.fleet.retire(beside)
            stopped = Recovery(began, {}, 1, beside, began + seconds)
            stopped.done.set()
            awaited = {"left": arena.watch.progress(slots, began), "stopped": stopped}
        await asyncio.sleep(max(0.0, began + STORM_S - time.monotonic()))
        return Injection(victim, "", awaited)

    async def over(self, arena: Arena) -> None:
        """See `Fault`."""
        for name in [n for n in arena.fleet.members if n.endswith(BESIDE)]:
            await arena.fleet.retire(name)


class ClockJump(Fault):
    """The wall clock of one process jumps by an hour, either way, and sometimes back."""

    name = "clock"
    unjudged = MappingProxyType(
        {"I13": "it is judged by the times that agents tell, whose clocks jump here"}
    )
    OFFSETS_MS = (-HOUR_MS, 0, HOUR_MS)
    KILLED_SHARE = 0.3

    def __init__(self) -> None:
        self._offset_ms: Counter[str] = Counter()

    def victims(self, arena: Arena) -> list[str]:
        """See `Fault`."""
        return list(arena.fleet.members)

    async def inject(self, arena: Arena, victim: str, chance: random.Random) -> Injection | None:
        """See `Fault`. Some are killed as well, so that another clock meets the journal."""
        await asyncio.sleep(chance.uniform(0.2, 1.0))
        offset_ms = chance.choice([o for o in self.OFFSETS_MS if o != self._offset_ms[victim]])
        self._offset_ms[victim] = offset_ms
        arena.fleet.members[victim].control.set_clock(offset_ms)
        if chance.random() < self.KILLED_SHARE:
            return kill_now(arena, victim)
        slots = [slot for slot, owner in arena.watch.owners.items() if owner.instance == victim]
        return Injection(victim, "", {"": arena.watch.progress(slots, time.monotonic())})

    async def over(self, arena: Arena) -> None:
        """See `Fault`: all clocks are right again."""
        for member in arena.fleet.members.values():
            member.control.set_clock(0)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
