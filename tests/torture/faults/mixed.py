"""Several faults at once: each lane draws another one each time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tests.torture.faults.base import Fault, Injection

if TYPE_CHECKING:
    from tests.torture.arena import Arena

__all__ = ["Mixed"]


class Mixed(Fault):
    """Draws for each victim among the faults that can hurt it. Recoveries are told by fault."""

    name = "mixed"

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._faults = tuple(faults)
        self.points = ("",)
        self.exits = frozenset().union(*(fault.exits for fault in faults))
        self.unjudged = {name: why for f in faults for name, why in f.unjudged.items()}

    def victims(self, arena: Arena) -> list[str]:
        """See `Fault`."""
        return sorted({victim for fault in self._faults for victim in fault.victims(arena)})

    async def inject(self, arena: Arena, victim: str, chance: random.Random) -> Injection | None:
        """See `Fault`."""
        able = [fault for fault in self._faults if victim in fault.victims(arena)]
        fault = chance.choice(able)
        injection = await fault.inject(arena, victim, chance)
        if injection is None:
            return None
        awaited = {
            f"{fault.name} {name}".strip(): recovery for name, recovery in injection.awaited.items()
        }
        return Injection(victim, fault.name, awaited, injection.count)

    async def over(self, arena: Arena) -> None:
        """See `Fault`."""
        for fault in self._faults:
            await fault.over(arena)
