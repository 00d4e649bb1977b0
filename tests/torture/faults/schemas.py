"""Agents whose types break their readers, and a registry that is away, slow or wrong."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

from tests.torture.faults.base import Fault, Injection
from tests.torture.points import RegistryMode

if TYPE_CHECKING:
    from tests.torture.arena import Arena

__all__ = ["BadSchemas"]

INCOMPATIBLE = "incompatible"
WRONG_AGENTS = "tests.torture.wrong_agents"
EXIT_BAD_INPUT, EXIT_TIMEOUT, EXIT_RESTART = 2, 3, 75
HOLD_MIN_S, HOLD_MAX_S = 0.5, 3.0
BETWEEN_S = 0.2


class BadSchemas(Fault):
    """An agent with incompatible types must be refused at its start, and hurt nobody; one whose
    registry is away, slow or wrong comes back once that is right again.

    Recovery counts from the refusal, and from when the registry is right.
    """

    name = "schemas"
    points = (INCOMPATIBLE, *(mode.value for mode in RegistryMode if mode is not RegistryMode.OK))
    exits = frozenset({EXIT_BAD_INPUT, EXIT_TIMEOUT, EXIT_RESTART})
    """Whatever a start ends with that has no registry."""

    def victims(self, arena: Arena) -> list[str]:
        """See `Fault`."""
        return ["alpha-1", "beta-1", "gamma-1", "c1"]

    async def inject(self, arena: Arena, victim: str, chance: random.Random) -> Injection | None:
        """See `Fault`."""
        await asyncio.sleep(BETWEEN_S)
        point = chance.choice(self.points)
        if victim == "c1" and point in (INCOMPATIBLE, RegistryMode.WRONG.value):
            return None  # it registers nothing; and a run whose schema "is not known" has to fail
        if point == INCOMPATIBLE:
            return await self._refused(arena, victim)
        member = arena.fleet.members[victim]
        member.control.set_registry(RegistryMode(point))
        arena.fleet.kill(victim)
        await asyncio.sleep(chance.uniform(HOLD_MIN_S, HOLD_MAX_S))
        member.control.set_registry(RegistryMode.OK)
        return Injection(victim, point, {point: arena.watch.return_of(victim, time.monotonic())})

    async def _refused(self, arena: Arena, victim: str) -> Injection:
        agent = victim[:-2]
        name = f"{agent}-wrong"
        code = await arena.fleet.once(name, "agent", f"{WRONG_AGENTS}:{agent}")
        if code != EXIT_BAD_INPUT:
            arena.fleet.unexplained.append(f"{name} ended with {code}: it was not refused")
        slots = arena.watch.slots_of(agent)
        return Injection(
            victim, INCOMPATIBLE, {INCOMPATIBLE: arena.watch.progress(slots, time.monotonic())}
        )

    async def over(self, arena: Arena) -> None:
        """See `Fault`."""
        for member in arena.fleet.members.values():
            member.control.set_registry(RegistryMode.OK)
