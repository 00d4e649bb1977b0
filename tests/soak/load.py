"""The load of a soak: as many runs a second, whatever becomes of them."""

from __future__ import annotations

import asyncio
import random
import time

from holdfast.schemas import Plan
from tests.torture.plans import Work, draw
from tests.torture.workload import REPEATED_SHARE, Workload

__all__ = ["PacedLoad", "draw_mixed"]

REFUSED_EVERY = 100
"""So often a run ends with a dead letter."""
OPEN_MAX = 400
"""While the bus or an agent is away no more than so many runs pile up."""
LOOK_S = 0.05


def refused() -> Plan:
    """Return a chain whose second task fails for good."""
    plan = Plan("refused")
    begun = plan.task("begin", "alpha.begin", text=plan.input("text"), n=plan.input("n"))
    plan.task("refuse", "beta.refuse", text=begun["text"], n=begun["n"])
    return plan


def draw_mixed(chance: random.Random, number: int) -> Work:
    """Draw the plan of run `number`: what the torture has, and a dead letter now and then."""
    if number % REFUSED_EVERY == REFUSED_EVERY - 1:
        return Work(refused(), {"text": f"t{number}", "n": number})
    return draw(chance, number)


class PacedLoad(Workload):
    """Submits `rate_per_s` runs a second until stopped; their ids begin with `prefix`.

    `held_s`: how long it waited because too many runs were open.
    """

    prefix: str = "run"
    held_s: float = 0.0

    async def pace(self, rate_per_s: float) -> None:
        """Submit until stopped."""
        number, next_at = 0, time.monotonic()
        while not self._stopped:
            now = time.monotonic()
            if now < next_at:
                await asyncio.sleep(min(LOOK_S, next_at - now))
                continue
            if len(self.submitted) - len(self._watch.ended) >= OPEN_MAX:
                self.held_s += LOOK_S
                await asyncio.sleep(LOOK_S)
                next_at = max(next_at, time.monotonic())  # what was held back is not made up for
                continue
            next_at = max(next_at + 1 / rate_per_s, now - 1.0)
            await self._one(number)
            number += 1

    async def _one(self, number: int) -> None:
        work = self._draw(self._chance, number)
        run_id = f"{self.prefix}-{number}"
        await self._submit(work, run_id)
        if self._chance.random() < REPEATED_SHARE:
            await self._submit(work, run_id)
