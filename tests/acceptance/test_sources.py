"""A topic of the user's own, written by whomever: a run for each record, once, under kills."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from typing import Any, Protocol

from holdfast.bus.connect import open_bus
from holdfast.bus.port import Bus, Environment, Position, Record, TopicPartition, TopicSpec
from holdfast.bus.registry import BusRegistry
from holdfast.bus.topics import Topics
from holdfast.schemas import PayloadCodec, decode
from holdfast.schemas.records import EventType, SourceJournal
from tests.acceptance.deployment import Deployment
from tests.acceptance.observer import observing
from tests.acceptance.sources import Order
from tests.waiting import until

RECORDS = 240
POISON_EVERY = 60
PARTITIONS = 3
"""Not as many as Holdfast's own topics have."""
SOURCES = "tests.acceptance.sources:orders"


class Producer(Protocol):
    """Whoever writes to the user's topic."""

    async def send(self, value: bytes, key: bytes | None) -> Position: ...


class OnTheBus:
    def __init__(self, bus: Bus, topic: str) -> None:
        self._bus = bus
        self._topic = topic

    async def send(self, value: bytes, key: bytes | None) -> Position:
        partition = random.randrange(PARTITIONS)
        record = Record(self._topic, key, value, (), partition)
        return (await self._bus.publish([record]))[0]


class Foreign:
    """librdkafka, as it is: another hash of keys, records without any."""

    def __init__(self, url: str, topic: str) -> None:
        from confluent_kafka import Producer as Rdkafka

        self._producer = Rdkafka({"bootstrap.servers": url.removeprefix("kafka://")})
        self._topic = topic

    async def send(self, value: bytes, key: bytes | None) -> Position:
        loop = asyncio.get_running_loop()
        written: asyncio.Future[Position] = loop.create_future()

        def told(error: Any, message: Any) -> None:
            where = Position(message.topic(), message.partition(), message.offset())
            assert error is None, error
            loop.call_soon_threadsafe(written.set_result, where)

        self._producer.produce(self._topic, value, key=key, on_delivery=told)
        await asyncio.to_thread(self._producer.flush)
        return await written


def producer(place: Deployment, bus: Bus, topic: str) -> Producer:
    return Foreign(place.bus, topic) if place.bus.startswith("kafka") else OnTheBus(bus, topic)


async def avro_of(place: Deployment, bus: Bus, topic: str) -> tuple[PayloadCodec[Order], int]:
    """Register the schema of an order, as a producer would."""
    registry = BusRegistry(Environment(bus), Topics(place.namespace))
    await registry.start()
    try:
        codec = PayloadCodec(Order)
        return codec, await registry.register(f"{topic}-value", codec.schema)
    finally:
        await registry.close()


async def open_runs(bus: Bus, topics: Topics) -> int:
    newest: dict[int, int] = {}
    for partition in range(PARTITIONS):
        async for records in bus.read(topics.journal("source-orders"), partition):
            for record in records:
                if record.key == b"open" and record.value is not None:
                    newest[partition] = decode(SourceJournal, record.value).open_runs
    return sum(newest.values())


async def test_one_run_for_each_record_whoever_is_killed(place: Deployment) -> None:
    topic = f"{place.namespace}-orders-v1"
    place.environment["HOLDFAST_TEST_TOPIC"] = topic
    place.coordinator("c1")
    await asyncio.to_thread(place.wait_ready, "c1")
    bus = open_bus(place.bus)
    await bus.start()
    try:
        await bus.create_topics([TopicSpec(topic, PARTITIONS)])
        codec, schema_id = await avro_of(place, bus, topic)
        place.agent("first")
        for name in ("s1", "s2"):
            place.start(name, "source", SOURCES, "--instance", name)
        await asyncio.to_thread(place.wait_ready)
        await _survives(place, bus, topic, codec, schema_id)
    finally:
        await bus.close()
    assert place.stop("s1") < 15
    assert place.services["s1"].process.returncode == 0


async def _survives(
    place: Deployment, bus: Bus, topic: str, codec: PayloadCodec[Order], schema_id: int
) -> None:
    writer = producer(place, bus, topic)
    victims = ["s1", "c1", "s2", "c1", "s1"]
    good: set[str] = set()
    poison: set[tuple[int, int]] = set()
    async with observing(place, dead_letters=True) as seen:
        for n in range(RECORDS):
            order = Order(number=n, text=f"text {n}")
            value = order.model_dump_json().encode() if n % 2 else codec.encode(order, schema_id)
            if n % POISON_EVERY == 7:
                value = json.dumps({"number": "none"}).encode()
            where = await writer.send(value, f"k{n}".encode() if n % 3 else None)
            if n % POISON_EVERY == 7:
                poison.add((where.partition, where.offset))
            else:
                good.add(f"orders-{where.partition}-{where.offset}")
            if n % (RECORDS // 5) == 20:
                victim = victims.pop()
                place.kill(victim)
                place.again(victim)
        await until(lambda: seen.ends().keys() == good, "not all have run", timeout_s=90)
        await until(lambda: len(seen.dead_letters) >= len(poison))
        starts = Counter(e.run_id for e in seen.events if e.type is EventType.RUN_STARTED)
        odd = {EventType.RUN_REPEATED, EventType.RUN_CONFLICTED, EventType.RUN_REFUSED}
        assert not [event for event in seen.events if event.type in odd]
        letters = [(x.source.partition, x.source.offset) for x in seen.dead_letters if x.source]
    assert starts == Counter(dict.fromkeys(good, 1))
    assert Counter(letters) == Counter(dict.fromkeys(poison, 1))
    assert all(ends == [EventType.RUN_SUCCEEDED] for ends in seen.ends().values())
    assert len(good) == RECORDS - len(poison)
    await _settles(place, bus, topic)


async def _settles(place: Deployment, bus: Bus, topic: str) -> None:
    """All is consumed, and nothing is said to be open."""
    topics = Topics(place.namespace)
    group = topics.group("source-orders")
    partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    for _ in range(100):
        if not await open_runs(bus, topics):
            break
        await asyncio.sleep(0.1)
    assert await open_runs(bus, topics) == 0
    lag = await bus.lag(group, [topic])
    assert {where: lag[where] for where in partitions} == dict.fromkeys(partitions, 0)
