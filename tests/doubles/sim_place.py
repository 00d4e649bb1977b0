"""One simulated broker in real time, for tests of what stands on the bus: fast, and hurt on order.

The bus itself is `holdfast.testing.sim`, which passes the contract suite as the real ones do.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import replace

from holdfast.bus.port import Received, Slot, TopicPartition
from holdfast.testing.sim import Fate, Request, RequestKind, SimBroker, SimBus, SimTiming
from holdfast.testing.sim.network import Hold, Link

LOST_ANSWERS = (Fate.LOSE_REPLY, Fate.LOSE_REQUEST)
"""Of a commit: it happened, and it will never happen."""
TIMING = SimTiming(delay_s=0.0, rebalance_s=0.0, heartbeat_s=0.01)


class SimPlace:
    """A broker and what is ordered to happen to requests; any number of buses."""

    def __init__(self) -> None:
        seed = random.randrange(2**32)
        print(f"seed of the simulated bus: {seed}")
        self.broker = SimBroker(
            asyncio.get_running_loop, time.monotonic, wall_ms, random.Random(seed), TIMING
        )
        self.faults: list[Fate] = []
        """What becomes of the next commits, one each, when they are decided."""
        self.refused: set[RequestKind] = set()
        """What finds nobody: the connection breaks at once."""
        self.asked: Counter[RequestKind] = Counter()
        """How many requests of each kind were begun."""
        self._names = itertools.count(1)
        self._holds: dict[RequestKind, Hold] = {}
        self.broker.network.fates.append(self._fate)

    def bus(self) -> SimBus:
        """Return a bus that is connected; for use inside an event loop."""
        bus = self.unconnected_bus()
        bus.link = Link(bus.name, asyncio.get_running_loop())
        return bus

    def unconnected_bus(self) -> SimBus:
        """Return a bus that was not started: for where there is no event loop."""
        return SimBus(self.broker, f"place-{next(self._names)}", wall_ms)

    def records(self, topic: str, partition: int) -> list[Received]:
        """Return every record that was ever committed there."""
        return list(self.broker.logs[TopicPartition(topic, partition)].history())

    @property
    def commits(self) -> list[tuple[Slot, Collection[str]]]:
        """All commits in order: whose, and the topic of each of its records."""
        return [(c.slot, [place.topic for place in c.written]) for c in self.broker.commits]

    def hold(self, *kinds: RequestKind) -> None:
        """Let requests of these kinds stand still before the broker."""
        for kind in kinds:
            self._holds[kind] = self.broker.network.hold(lambda r, kind=kind: r.kind is kind)  # type: ignore[misc]

    def release(self, *kinds: RequestKind) -> None:
        """Let them go on."""
        for kind in kinds:
            self.broker.network.release(self._holds.pop(kind))

    def patience(self, seconds: float = TIMING.operation_timeout_s) -> None:
        """Let whoever asks from now on give up after so long."""
        self.broker.timing = replace(TIMING, operation_timeout_s=seconds)

    def _fate(self, request: Request) -> Fate | None:
        self.asked[request.kind] += 1
        if request.kind in self.refused:
            return Fate.LOSE_REQUEST
        if request.kind is RequestKind.END and self.faults:
            return self.faults.pop(0)
        return None


def wall_ms() -> int:
    """Return wall time."""
    return time.time_ns() // 1_000_000
