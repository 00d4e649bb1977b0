"""The kit of the Kafka adapter: a namespace on the session's broker, reached through a proxy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.client import AIOKafkaClient

from holdfast.bus.kafka import KafkaBus
from holdfast.bus.kafka.writer import KafkaWriter
from holdfast.bus.port import Bus
from holdfast.bus.settings import KafkaSettings
from tests.broker import TestBroker
from tests.contract.kit import PATIENCE_S, BusKit, HeldCommit, Timing, read_all
from tests.kafka.proxy import END_TXN, FaultProxy, redirect

LOST_AFTER_S = 1.0
"""How long a commit waits for an answer that will not come; 60 s in earnest."""
SEGMENT_MS = 50


class _Held(HeldCommit):
    def __init__(self) -> None:
        self._reached = asyncio.Event()
        self._released = asyncio.Event()

    async def stand(self) -> None:
        self._reached.set()
        await self._released.wait()

    async def reached(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self._reached.wait()

    def release(self) -> None:
        self._released.set()


class KafkaKit(BusKit):
    """Many buses on one broker; each test has topics and groups of its own."""

    name: ClassVar[str] = "kafka"

    def __init__(self, broker: TestBroker) -> None:
        super().__init__()
        self._broker = broker
        self._proxies: dict[tuple[str, int], FaultProxy] = {}

    @classmethod
    def create(cls, request: pytest.FixtureRequest, folder: Path) -> KafkaKit:
        return cls(request.getfixturevalue("kafka_broker"))

    async def open(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not (brokers := await self._brokers()):
                await asyncio.sleep(SEGMENT_MS / 1000)  # it is fenced for a moment, or just back
        for real in brokers:
            self._proxies[real] = FaultProxy(real)
            await self._proxies[real].restore()

    async def _brokers(self) -> list[tuple[str, int]]:
        client = AIOKafkaClient(bootstrap_servers=self._broker.bootstrap)
        await client.bootstrap()
        brokers = [(broker.host, broker.port) for broker in client.cluster.brokers()]
        await client.close()
        return brokers

    async def dispose(self) -> None:
        for real, proxy in self._proxies.items():
            redirect(real, None)
            await proxy.cut()

    @property
    def url(self) -> str:
        """Each broker's own address, and that of the proxy before it."""
        return ",".join(
            f"{real[0]}:{real[1]}={proxy.address[0]}:{proxy.address[1]}"
            for real, proxy in self._proxies.items()
        )

    @classmethod
    def build(cls, url: str, timing: Timing) -> KafkaBus:
        bootstrap = []
        for pair in url.split(","):
            real, _, proxy = pair.partition("=")
            redirect(_address(real), _address(proxy))
            bootstrap.append(proxy)
        settings = KafkaSettings(
            bootstrap=tuple(bootstrap),
            connect_timeout_s=timing.connect_s,
            operation_timeout_s=timing.operation_s,
            commit_timeout_s=timing.operation_s,
            session_timeout_s=timing.session_s,
            heartbeat_s=min(0.5, timing.session_s / 6),
        )
        return KafkaBus(settings)

    @classmethod
    def hold_commit(cls, bus: Bus) -> AbstractAsyncContextManager[HeldCommit]:
        return _hold(bus)

    @asynccontextmanager
    async def lose_answer(self, bus: Bus, *, committed: bool) -> AsyncIterator[None]:
        for thing in cast("Any", bus)._open:
            if isinstance(thing, KafkaWriter):
                thing._settings = replace(thing._settings, commit_timeout_s=LOST_AFTER_S)
        for proxy in self._proxies.values():
            proxy.swallow(END_TXN, answer=committed)
        yield

    async def cut(self) -> None:
        for proxy in self._proxies.values():
            await proxy.cut()

    async def restore(self) -> None:
        for proxy in self._proxies.values():
            await proxy.restore()

    async def compact(self, bus: Bus, topic: str) -> bool:
        if self._broker.local is None:
            return False  # only our own broker cleans its log every moment
        bootstrap = self._broker.bootstrap
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        config = {
            "cleanup.policy": "compact",
            "segment.ms": str(SEGMENT_MS),
            "min.cleanable.dirty.ratio": "0.001",
        }
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, config)])
        await admin.close()
        partitions = (await bus.describe_topics([topic]))[topic].partitions
        async with asyncio.timeout(PATIENCE_S):
            while not all([await _compacted(bus, topic, p) for p in range(partitions)]):
                await _roll(bootstrap, topic, partitions)
                await asyncio.sleep(SEGMENT_MS / 1000)
        return True


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


async def _compacted(bus: Bus, topic: str, partition: int) -> bool:
    keys = [record.key for record in await read_all(bus, topic, partition)]
    return len(keys) == len(set(keys))


async def _roll(bootstrap: str, topic: str, partitions: int) -> None:
    """Let every partition begin a new segment, by records that no reader sees: an aborted one."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=f"roll-{topic}")
    await producer.start()
    await producer.begin_transaction()
    for partition in range(partitions):
        await producer.send_and_wait(topic, b"", b"roll", partition=partition)
    await producer.abort_transaction()
    await producer.stop()


@asynccontextmanager
async def _hold(bus: Bus) -> AsyncIterator[HeldCommit]:
    held, end = _Held(), KafkaWriter._end

    async def held_end(writer: KafkaWriter) -> None:
        if writer in cast("Any", bus)._open:
            await held.stand()
        await end(writer)

    KafkaWriter._end = held_end  # type: ignore[method-assign]
    try:
        yield held
    finally:
        KafkaWriter._end = end  # type: ignore[method-assign]
        held.release()
