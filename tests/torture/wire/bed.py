"""What a run stands on: a broker of its own, the proxy before it, lanes, and a live follower."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from deploy.kafka.broker import LocalBroker, free_port
from deploy.kafka.cluster import CLUSTER_BROKERS, LocalCluster
from holdfast.bus.errors import BusUnavailable
from holdfast.bus.kafka import KafkaBus
from holdfast.bus.port import Bus, Position, TopicPartition
from holdfast.bus.settings import KafkaSettings
from tests.kafka.proxy import FaultProxy, advertise
from tests.torture.wire.check import Seen, Violation, check_lanes
from tests.torture.wire.lanes import ONE_RECORD_BYTES, PARTS, Lanes, Piece, Topics

__all__ = ["Bed", "Follower", "Proxied", "bed", "proxied_broker", "proxied_cluster", "settings_for"]

REQUEST_TIMEOUT_S = 1.0
"""20 s as delivered. A lane's client takes a silent connection for dead after so long, or a fault
that hides an answer would cost 20 s each; it does the same thing then, sooner."""


def settings_for(bootstrap: str, **changed: Any) -> KafkaSettings:
    """Return how lanes are connected."""
    settings = KafkaSettings(tuple(bootstrap.split(",")), request_timeout_s=REQUEST_TIMEOUT_S)
    return replace(settings, **changed)


class Proxied(NamedTuple):
    """A `LocalBroker` or a `LocalCluster`, and a proxy before each broker."""

    kafka: Any
    proxies: list[FaultProxy]


@dataclass(eq=False)
class Follower:
    """Reads what lanes write, as it becomes visible."""

    bus: Bus
    starts: dict[TopicPartition, int]
    seen: dict[Position, Piece] = field(default_factory=dict)
    newest: dict[TopicPartition, Piece] = field(default_factory=dict)
    """The last piece of each partition."""
    _task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.bus.start()
        self._task = asyncio.ensure_future(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self.bus.close()

    async def _run(self) -> None:
        positions = dict(self.starts)
        while True:
            with suppress(BusUnavailable):
                reader = await self.bus.open_reader(positions)
                try:
                    while True:
                        for record in await reader.poll(0.2):
                            assert record.value is not None
                            at = TopicPartition(record.topic, record.partition)
                            self.newest[at] = self.seen[record.position] = Piece.decode(
                                record.value
                            )
                            positions[at] = record.offset + 1
                finally:
                    await reader.close()


@dataclass(eq=False)
class Bed:
    """One broker, one proxy, lanes that commit through it."""

    proxies: list[FaultProxy]
    lanes: Lanes
    follower: Follower
    direct: str
    """Where the brokers are without the proxies."""
    proxied: str
    """Where they are behind them."""

    @property
    def proxy(self) -> FaultProxy:
        return self.proxies[0]

    async def verdict(self) -> list[Violation]:
        """Stop all, and return what is wrong with what is left. The broker must be up."""
        await self.lanes.stop()
        await self.follower.stop()
        bus = KafkaBus(settings_for(self.direct))
        await bus.start()
        try:
            return await check_lanes(bus, self.lanes, Seen(self.follower.seen))
        finally:
            await bus.close()


@asynccontextmanager
async def proxied_broker(folder: Path, **options: Any) -> AsyncIterator[Proxied]:
    """Yield a started `LocalBroker`, and the proxy that its second listener sends clients to."""
    behind = free_port()
    proxy = FaultProxy(("127.0.0.1", behind))
    await proxy.restore()
    properties = {**advertise(behind, proxy.address[1]), **options.pop("properties", {})}
    broker = LocalBroker(folder, properties=properties, **options)
    try:
        await asyncio.to_thread(broker.start)
        yield Proxied(broker, [proxy])
    finally:
        await proxy.cut()
        await asyncio.to_thread(broker.kill)


def follower_of(lanes: Lanes, bus: Bus) -> Follower:
    """Return one, not started, that reads all partitions of all lanes."""
    topics = {lanes.topics.name(topic) for topic, _ in PARTS}
    return Follower(
        bus, {TopicPartition(topic, lane.index): 0 for topic in topics for lane in lanes.all}
    )


async def _create_topics(bootstrap: str, lanes: Lanes) -> None:
    """Create what the lanes write to. A batch of `left` holds one record, so that each commit has
    a second round of Produce. Made so, not changed later: brokers hear of a change one by one."""
    brokers, count = len(bootstrap.split(",")), len(lanes.all)
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    config = {"max.message.bytes": str(ONE_RECORD_BYTES)}
    left = NewTopic(lanes.topics.name("left"), count, brokers, topic_configs=config)
    await admin.create_topics([left])
    await admin.close()
    bus = KafkaBus(settings_for(bootstrap))
    await bus.start()
    await bus.create_topics(lanes.topics.specs(count))
    await bus.close()


@asynccontextmanager
async def bed(
    namespace: str,
    direct: str,
    proxies: list[FaultProxy],
    *,
    lanes: int = 2,
    request_timeout_s: float = REQUEST_TIMEOUT_S,
) -> AsyncIterator[Bed]:
    """Yield lanes at work through the proxies, and a follower."""
    bootstrap = ",".join(f"{p.address[0]}:{p.address[1]}" for p in proxies)
    settings = settings_for(bootstrap, request_timeout_s=request_timeout_s)
    made = Lanes(Topics(namespace), lambda: KafkaBus(settings), lanes)
    await _create_topics(direct, made)
    await made.start()
    follower = follower_of(made, KafkaBus(settings))
    await follower.start()
    try:
        yield Bed(proxies, made, follower, direct, bootstrap)
    finally:
        await made.stop()
        await follower.stop()


@asynccontextmanager
async def proxied_cluster(folder: Path, *, stock: bool) -> AsyncIterator[Proxied]:
    """Yield a started `LocalCluster` of three, and the proxies before its brokers."""
    behind = [free_port() for _ in range(CLUSTER_BROKERS)]
    proxies = [FaultProxy(("127.0.0.1", port)) for port in behind]
    for proxy in proxies:
        await proxy.restore()
    pairs = zip(behind, proxies, strict=True)
    properties = [advertise(port, proxy.address[1]) for port, proxy in pairs]
    cluster = LocalCluster(folder, stock=stock, properties=properties)
    try:
        await asyncio.to_thread(cluster.start)
        yield Proxied(cluster, proxies)
    finally:
        for proxy in proxies:
            await proxy.cut()
        await asyncio.to_thread(cluster.stop)
