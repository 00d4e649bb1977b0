"""The faults of a soak: one after the other, now and then, each awaited until it is overcome."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import defaultdict
from dataclasses import dataclass, field

from tests.torture.arena import Arena
from tests.torture.faults.base import Fault, Injection, NotRecovered
from tests.torture.faults.kills import KillRandom
from tests.torture.faults.stops import Freeze, Storm
from tests.torture.stage import Stage

__all__ = ["SPARED", "Struck", "Trouble"]

SPARED = ("beta-2", "c2")
"""Never hurt: what grows shows only in a process that lives. Broker restarts reach them too."""
BROKER_BOUND_S = 10.0
RESTART_BOUND_S = 2.0
STOPPED_S = 30.0


class KillSome(KillRandom):
    """`kill -9` of any service that is not spared."""

    def victims(self, arena: Arena) -> list[str]:
        """See `Fault`."""
        return [name for name in arena.fleet.members if name not in SPARED]


class Restart(KillSome):
    """SIGTERM, a graceful stop, and a start of the same instance."""

    name = "restart"

    async def inject(self, arena: Arena, victim: str, chance: random.Random) -> Injection | None:
        """See `Fault`. Recovery counts from SIGTERM."""
        member = arena.fleet.members[victim]
        if member.pid is None:
            return None
        at = time.monotonic()
        recovery = arena.watch.recovering(victim, at)
        member.expected = True
        arena.fleet.send(victim, signal.SIGTERM)
        async with asyncio.timeout(STOPPED_S):
            await member.down.wait()
        return Injection(victim, "", {"": recovery})


class BrokerRestart(Fault):
    """The broker is killed, or stopped, and started again; recovery counts from its being ready."""

    name = "broker-restart"
    bound_s = BROKER_BOUND_S
    buses = ("kafka",)

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def victims(self, arena: Arena) -> list[str]:
        """See `Fault`."""
        return ["broker"] if self._stage.broker is not None else []

    async def inject(self, arena: Arena, victim: str, chance: random.Random) -> Injection | None:
        """See `Fault`."""
        broker = self._stage.broker
        point = chance.choice(("killed", "stopped"))
        await asyncio.to_thread(broker.kill if point == "killed" else broker.stop)
        await asyncio.to_thread(broker.start)
        slots = list(arena.watch.owners)
        recovery = arena.watch.progress(slots, time.monotonic())
        return Injection(victim, point, {point: recovery})


@dataclass
class Struck:
    """What one fault has done so far, by point."""

    injected: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    recovery_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


class Trouble:
    """Injects faults every `every_s` seconds on average, until stopped."""

    def __init__(self, stage: Stage, bus: str, chance: random.Random, every_s: float) -> None:
        self._chance = chance
        self._every_s = every_s
        self._faults: list[tuple[Fault, float]] = [
            (KillSome(), 8),
            (Restart(), 4),
            (Storm(), 4),
            (Freeze(), 2),
        ]
        if bus.startswith("kafka") and stage.broker is not None:
            self._faults.append((BrokerRestart(stage), 0.5))
        self._stopped = asyncio.Event()
        self.struck: dict[str, Struck] = defaultdict(Struck)
        self.bounds: dict[str, float | None] = {f.name: f.bound_s for f, _ in self._faults}
        self.problems: list[str] = []
        """What did not come back."""

    @property
    def exits(self) -> frozenset[int]:
        """Exit codes of services that the faults explain."""
        return frozenset().union(*(fault.exits for fault, _ in self._faults))

    async def run(self, arena: Arena) -> None:
        """Hurt until `stop`; then undo what still hurts."""
        self._stopped.clear()
        while not await self._pause():
            faults, weights = zip(*self._faults, strict=True)
            fault = self._chance.choices(faults, weights)[0]
            await self._strike(arena, fault)
        for fault, _ in self._faults:
            await fault.over(arena)

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopped.set()

    async def _pause(self) -> bool:
        """Wait; tell whether it was stopped."""
        try:
            async with asyncio.timeout(self._chance.uniform(0.5, 1.5) * self._every_s):
                await self._stopped.wait()
        except TimeoutError:
            return False
        return True

    async def _strike(self, arena: Arena, fault: Fault) -> None:
        victims = fault.victims(arena)
        if not victims:
            return
        victim = self._chance.choice(victims)
        injection = await fault.inject(arena, victim, self._chance)
        if injection is None:
            return
        struck = self.struck[fault.name]
        struck.injected[injection.point] += injection.count
        try:
            seconds = await fault.recovered(arena, injection)
        except NotRecovered as error:
            self.problems.append(f"{error} (after {fault.name} of {victim})")
            return
        for point, value in seconds.items():
            struck.recovery_s[point].append(round(value, 4))
