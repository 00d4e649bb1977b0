"""Tasks that hurt the process that works them, among many that do not."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

from holdfast.schemas import Plan
from holdfast.testing import PoisonSent, Submission
from tests.torture.faults.base import Fault, Injection
from tests.torture.hostile_agent import KILLING, POISONS
from tests.torture.service import MEMORY

if TYPE_CHECKING:
    from tests.torture.arena import Arena, ArenaSettings

__all__ = ["Poison"]

WIDTH = 50
"""Doses of a run; one of them is poison."""
KILLING_SHARE = 0.1
MEMORY_BYTES = 1_500 * 1024**2
"""Of the address space of the agent that is fed: less than one poison asks for."""
EXIT_POISON = 9
LANES = 16
PROCESSES = 4
"""Of the agent that is fed: what kills one of them holds up a quarter of the others' runs."""
HOSTILE = ("agent", "tests.torture.hostile_agent:hostile")


class Poison(Fault):
    """Runs of 50 doses, one of which raises, hangs, recurses, allocates or exits.

    The victim is a lane. Recovery is the time from the submission until the run has ended, with
    49 good doses and one dead letter.
    """

    name = "poison"
    points = tuple(POISONS)
    exits = frozenset({EXIT_POISON})

    def __init__(self) -> None:
        self._numbers = count()

    def arrange(self, settings: ArenaSettings) -> ArenaSettings:
        """Processes of the agent that is fed, beside all others."""
        bound = {MEMORY: str(MEMORY_BYTES)}
        beside = {f"hostile-{n}": (HOSTILE, bound) for n in range(1, PROCESSES + 1)}
        return replace(settings, beside={**settings.beside, **beside})

    def victims(self, arena: Arena) -> list[str]:
        """See `Fault`."""
        return [f"lane-{n}" for n in range(LANES)]

    async def inject(self, arena: Arena, victim: str, chance: random.Random) -> Injection | None:
        """See `Fault`."""
        harmless = [kind for kind in POISONS if kind not in KILLING]
        killing = chance.random() < KILLING_SHARE
        kind = chance.choice(sorted(KILLING) if killing else harmless)
        at = chance.randrange(WIDTH)
        doses = [{"n": n, "kind": kind if n == at else "none"} for n in range(WIDTH)]
        run_id = f"poison-{next(self._numbers)}"
        began = time.monotonic()
        arena.evidence.add(Submission(run_id, False, "doses"))
        arena.evidence.add(PoisonSent(kind, "", run_id=run_id, task_id=f"swallow.{at}"))
        await arena.client.submit(doses_plan(), {"doses": doses}, run_id=run_id)
        arena.evidence.add(Submission(run_id, True, "doses"))
        return Injection(victim, kind, {kind: arena.watch.end_of(run_id, began)})


def doses_plan() -> Plan:
    """Return a map over doses that outlives those that fail."""
    plan = Plan("doses")
    plan.map("swallow", "hostile.swallow", over=plan.input("doses"), on_failure="collect")
    return plan
