"""Faults on the wire, and of brokers, for the torture of the whole system.

Each arranges a broker of its own (or three) behind proxies, and the arena's processes are clients
of the proxies: coordinators, agents, the workload and the recorder alike. All are in the style of
`tests.torture.faults`; `WIRE_FAULTS` has them by name.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deploy.kafka.broker import LocalBroker, free_port
from deploy.kafka.cluster import CLUSTER_BROKERS, LocalCluster
from tests.kafka.proxy import ApiKey, FaultProxy, Frame, advertise
from tests.kafka.proxy import Fault as WireFault
from tests.kafka.proxy import Injection as WireInjection
from tests.torture.faults.base import Fault, Injection
from tests.torture.watch import Recovery, Slot
from tests.torture.wire.brokers import BACK_BOUND_S
from tests.torture.wire.cuts import CUTS, SLOW
from tests.torture.wire.torn import GATES, HELD

if TYPE_CHECKING:
    from tests.torture.arena import Arena, ArenaSettings

__all__ = ["WIRE_FAULTS", "KillBroker", "KillBrokerOfThree", "OnTheWire", "TornTransaction"]

STRIKE_S = 10.0
"""A kind of request that does not come within this is not in use just now."""
MAX_DOWN_S = 1.0
LANES = ("wire-1", "wire-2", "wire-3")
"""Faults on the wire have no victims; so many strike side by side."""


class _Proxied(Fault):
    """Has an arena on a Kafka of its own, behind proxies."""

    buses = ("kafka",)

    def __init__(self) -> None:
        self.kafka: Any = None
        self.proxies: list[FaultProxy] = []
        self._listening: list[asyncio.Task[None]] = []

    def start(self, settings: ArenaSettings, properties: list[Mapping[str, str]]) -> Any:
        """Return the started Kafka."""
        broker = LocalBroker(settings.folder / "kafka", properties=properties[0])
        broker.start()
        return broker

    def brokers(self) -> int:
        """Return how many brokers it has."""
        return 1

    def arrange(self, settings: ArenaSettings) -> ArenaSettings:
        """See `Fault`."""
        ports = [(free_port(), free_port()) for _ in range(self.brokers())]
        self.proxies = [FaultProxy(("127.0.0.1", behind), before) for behind, before in ports]
        self._listening = [asyncio.ensure_future(proxy.restore()) for proxy in self.proxies]
        self.kafka = self.start(settings, [advertise(*pair) for pair in ports])
        bootstrap = ",".join(f"127.0.0.1:{before}" for _, before in ports)
        return replace(settings, bus=f"kafka://{bootstrap}")

    def clear(self, settings: ArenaSettings) -> None:
        """See `Fault`."""
        self._listening = [asyncio.ensure_future(proxy.cut()) for proxy in self.proxies]
        self.kafka.stop()

    def proxy_that_sees(self, injection: WireInjection) -> None:
        """Have whichever proxy meets its request first strike it."""
        for proxy in self.proxies:
            proxy.inject(injection)

    def withdraw(self, injection: WireInjection) -> None:
        """Have no proxy strike it any more."""
        for proxy in self.proxies:
            proxy.withdraw(injection)

    async def struck(self, injection: WireInjection) -> bool:
        """Tell whether it struck in time; withdraw it."""
        self.proxy_that_sees(injection)
        try:
            async with asyncio.timeout(STRIKE_S):
                await injection.struck.wait()
        except TimeoutError:
            return False
        finally:
            self.withdraw(injection)
        return True


class OnTheWire(_Proxied):
    """One of some faults, at one kind of request in use, again and again.

    Told by the name of the kind: until the slot whose transaction it hit committed again.
    """

    def __init__(self, name: str, faults: tuple[WireFault, ...]) -> None:
        super().__init__()
        self.name = name
        self.points = tuple(kind.name.lower() for kind in ApiKey)
        self._faults = faults

    def victims(self, arena: Arena) -> list[str]:
        """No process: the connections of all."""
        return list(LANES)

    async def inject(self, arena: Arena, victim: str, chance: random.Random) -> Injection | None:
        """See `Fault`."""
        seen = sorted({ApiKey(key) for proxy in self.proxies for key in proxy.seen})
        kind = chance.choice(seen)
        wire = WireInjection(chance.choice(self._faults), kind)
        if not await self.struck(wire):
            return None
        point = kind.name.lower()
        return Injection(victim, point, _progress(arena, point, wire.frame))


class TornTransaction(_Proxied):
    """A request of an old transaction reaches the broker in the slot's next one (see `torn`)."""

    name = "torn-transaction"
    points = tuple(f"{kind.name.lower()}-late" for kind in HELD)

    def victims(self, arena: Arena) -> list[str]:
        """No process: the connections of all."""
        return list(LANES)

    async def inject(self, arena: Arena, victim: str, chance: random.Random) -> Injection | None:
        """See `Fault`."""
        kind = chance.choice(HELD)
        hold = WireInjection(WireFault.HOLD_CUT, kind, chooses=_in_a_slot)
        if not await self.struck(hold):
            return None
        assert hold.held is not None
        assert hold.frame is not None
        try:
            same = _same(hold.frame.transactional_id)
            passed = WireInjection(WireFault.DELAY, ApiKey.END_TXN, 0.0, chooses=same)
            gate = WireInjection(WireFault.GATE, chance.choice(GATES), chooses=same)
            if not await self.struck(passed):  # the old transaction ends; what comes is the next
                return None
            if not await self.struck(gate):
                return None
            await hold.held.deliver()
            gate.open_gate()
        finally:
            hold.held.drop()
        point = f"{kind.name.lower()}-late"
        return Injection(victim, point, _progress(arena, point, hold.frame))


class KillBroker(_Proxied):
    """`kill -9` of the only broker, a stock one; recovery counts from its being ready again."""

    name = "kill-broker"
    bound_s = BACK_BOUND_S

    def start(self, settings: ArenaSettings, properties: list[Mapping[str, str]]) -> Any:
        """Return the started Kafka."""
        broker = LocalBroker(settings.folder / "kafka", stock=True, properties=properties[0])
        broker.start()
        return broker

    def victims(self, arena: Arena) -> list[str]:
        """The broker."""
        return ["broker"]

    async def inject(self, arena: Arena, victim: str, chance: random.Random) -> Injection | None:
        """See `Fault`."""
        broker = self.choose(chance)
        await asyncio.to_thread(broker.kill)
        await asyncio.sleep(chance.uniform(0, MAX_DOWN_S))
        await asyncio.to_thread(broker.start)
        slots = list(arena.watch.owners)
        return Injection(victim, "", {"": arena.watch.progress(slots, time.monotonic())})

    def choose(self, chance: random.Random) -> Any:
        """Return the broker to be killed."""
        return self.kafka


class KillBrokerOfThree(KillBroker):
    """`kill -9` of one of three brokers; each coordinates some transactions and some groups."""

    name = "kill-broker-of-three"

    def brokers(self) -> int:
        """Return how many brokers it has."""
        return CLUSTER_BROKERS

    def start(self, settings: ArenaSettings, properties: list[Mapping[str, str]]) -> Any:
        """Return the started Kafka."""
        cluster = LocalCluster(settings.folder / "kafka", stock=True, properties=properties)
        cluster.start()
        return cluster

    def choose(self, chance: random.Random) -> Any:
        """Return the broker to be killed."""
        return chance.choice(self.kafka.brokers)


def _in_a_slot(frame: Frame) -> bool:
    return frame.transactional_id is not None  # a publisher's produce has none


def _same(transactional_id: str | None) -> Callable[[Frame], bool]:
    return lambda frame: frame.transactional_id == transactional_id


def _progress(arena: Arena, point: str, frame: Frame | None) -> dict[str, Recovery]:
    """Wait for a commit of the slot whose transaction was hit, if one was."""
    if frame is None or frame.transactional_id is None:
        return {}
    group, _, partition = frame.transactional_id.rpartition(".")
    name = group.removeprefix(f"{arena.settings.namespace}.")
    slot: Slot = (arena.topics.journal(name), int(partition))
    if slot not in arena.watch.owners:
        return {}
    return {point: arena.watch.progress([slot], time.monotonic())}


WIRE_FAULTS: dict[str, Callable[[], Fault]] = {
    "wire-cut": lambda: OnTheWire("wire-cut", CUTS),
    "wire-slow": lambda: OnTheWire("wire-slow", SLOW),
    "torn-transaction": TornTransaction,
    "kill-broker": KillBroker,
    "kill-broker-of-three": KillBrokerOfThree,
}
"""For `tests.torture.catalog`."""
