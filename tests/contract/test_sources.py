"""A source on every bus: a submission for each record, whoever owns the slot at the time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from pydantic import BaseModel

from holdfast.bus.errors import OffsetOutOfRange, TopicMissing
from holdfast.bus.port import Bus, Environment, Record, TopicPartition
from holdfast.bus.registry import BusRegistry, input_subject
from holdfast.bus.topics import Topics
from holdfast.schemas import ConfigurationError, PayloadCodec, Plan, decode, encode
from holdfast.schemas.records import (
    CoordinatorEnvelope,
    DeadLetter,
    Manifest,
    RetryPolicy,
    RunEnded,
    TaskManifest,
)
from holdfast.sources import Source, SourceRuntime, SourceSettings, Topic
from tests.contract.kit import PATIENCE_S, BusKit, read_all

PARTITIONS = 3


class Order(BaseModel):
    number: int


@dataclass
class Place:
    """A namespace with one agent that has published itself, and a topic of a user's."""

    kit: BusKit
    bus: Bus
    topics: Topics
    topic: str

    def source(self, **settings: object) -> Source[Order]:
        plan = Plan("fulfil")
        plan.task("pack", "packer.pack", number=plan.input("number"))
        max_open = settings.pop("max_open", 1_000)
        topic = Topic(self.topic, Order, **settings)  # type: ignore[arg-type]
        return Source("orders", topic=topic, plan=plan, max_open=max_open)  # type: ignore[arg-type]

    @asynccontextmanager
    async def serving(
        self, source: Source[Order], instance: str = "s1"
    ) -> AsyncIterator[SourceRuntime]:
        """Run the source until the end of the block, over a bus of its own."""
        environment = Environment(await self.kit.connect())
        settings = SourceSettings(instance, 2, self.topics.namespace)
        runtime = SourceRuntime(environment, source, settings)
        await runtime.start()
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not runtime.host.running_slots:
                    await asyncio.sleep(0.01)
            yield runtime
        finally:
            await runtime.stop()

    async def publish(self, *numbers: int, start: int = 0) -> None:
        await self.bus.publish(
            [
                Record(self.topic, b"k", b'{"number": %d}' % n, (), (start + i) % PARTITIONS)
                for i, n in enumerate(numbers)
            ]
        )

    async def run_ids(self) -> list[str]:
        found = []
        for partition in range(2):
            for record in await read_all(self.bus, self.topics.coordinator, partition):
                found.append(decode(CoordinatorEnvelope, record.value or b"").run_id)
        return found

    async def submitted(self, count: int) -> Counter[str]:
        async with asyncio.timeout(PATIENCE_S):
            while len(found := await self.run_ids()) < count:
                await asyncio.sleep(0.02)
        return Counter(found)


@pytest.fixture
async def place(kit: BusKit, bus: Bus) -> Place:
    topics = Topics(f"{kit.namespace}h")
    await bus.create_topics(topics.coordinator_specs(2))
    registry = BusRegistry(Environment(bus), topics)
    await registry.start()
    schema = PayloadCodec(Order).schema
    schema_id = await registry.register(input_subject("packer", "pack"), schema)
    await registry.close()
    task = TaskManifest("pack", schema_id, schema_id, RetryPolicy(), None, None, "")
    manifest = Manifest("packer", "p1", "p", "1", "b", [task], 8, 1, 1)
    await bus.publish([Record(topics.agents, b"packer/p1", encode(manifest))])
    topic = await kit.make_topic(bus, "orders.v1", PARTITIONS)
    return Place(kit, bus, topics, topic)


def all_of(*counts: int) -> Counter[str]:
    """The runs of so many first records of each partition."""
    return Counter(
        f"orders-{p}-{offset}" for p, count in enumerate(counts) for offset in range(count)
    )


async def test_each_record_once_over_members_that_come_and_go(place: Place) -> None:
    source = place.source()
    await place.publish(*range(9))
    async with place.serving(source, "s1"):
        await place.submitted(9)
        async with place.serving(source, "s2"):
            for n in range(10):
                await place.publish(*range(3), start=n)
            await place.submitted(39)
        await place.publish(*range(3))
        await place.submitted(42)
    await place.publish(*range(3))
    async with place.serving(source, "s2"):
        found = await place.submitted(45)
    assert max(found.values()) == 1
    ends = await place.bus.end_offsets([TopicPartition(place.topic, p) for p in range(PARTITIONS)])
    committed = await place.bus.committed(place.topics.group("source-orders"), list(ends))
    assert committed == ends


async def test_a_source_that_begins_with_the_latest_skips_nothing_after_that(place: Place) -> None:
    source = place.source(start="latest")
    await place.publish(*range(6))
    async with place.serving(source) as runtime:
        async with asyncio.timeout(PATIENCE_S):
            while runtime.host.running_slots < PARTITIONS:
                await asyncio.sleep(0.01)
    await place.publish(*range(3))  # while it is down
    async with place.serving(source):
        found = await place.submitted(3)
    assert found == Counter(f"orders-{p}-2" for p in range(PARTITIONS))


async def test_records_that_were_deleted_unread_stop_it_loudly(place: Place) -> None:
    source = place.source()
    await place.publish(*range(3))
    async with place.serving(source):
        await place.submitted(3)
    await place.publish(*range(6))
    await place.bus.purge({TopicPartition(place.topic, 0): 2})
    runtime = SourceRuntime(
        Environment(await place.kit.connect()),
        source,
        SourceSettings("s1", 2, place.topics.namespace),
    )
    await runtime.start()
    with pytest.raises(OffsetOutOfRange, match="1 records were deleted"):
        async with asyncio.timeout(PATIENCE_S):
            await runtime.run()
    await runtime.kill()


async def test_a_source_waits_while_too_many_of_its_runs_are_open(place: Place) -> None:
    source = place.source(max_open=PARTITIONS * 2)
    await place.publish(*range(12))
    control = place.topics.control("source-orders")
    async with place.serving(source):
        await place.submitted(6)
        await asyncio.sleep(0.2)
        assert Counter(await place.run_ids()) == all_of(2, 2, 2)
        ended = [RunEnded(f"orders-1-{offset}", None, 1) for offset in range(2)]
        await place.bus.publish([Record(control, b"k", encode(each), (), 1) for each in ended])
        assert await place.submitted(8) == all_of(2, 4, 2)


async def test_what_it_cannot_read_is_kept_beside_it(place: Place) -> None:
    await place.bus.publish([Record(place.topic, None, b"rubbish", (("h", b"1"),), 2)])
    await place.publish(7, start=2)
    async with place.serving(place.source()):
        assert await place.submitted(1) == Counter({"orders-2-1": 1})
    (record,) = await read_all(place.bus, place.topics.dead_letters)
    letter = decode(DeadLetter, record.value or b"")
    assert letter.source is not None
    where = (letter.source.topic, letter.source.partition, letter.source.offset)
    assert where == (place.topic, 2, 0)
    assert letter.source.value == b"rubbish"


async def test_topics_that_a_source_does_not_read(place: Place) -> None:
    environment = Environment(place.bus)
    settings = SourceSettings("s1", 2, place.topics.namespace)
    plan = Plan("p")
    plan.task("t", "packer.pack", number=1)
    missing = Source("orders", topic=place.kit.topic("missing"), plan=plan)
    with pytest.raises(TopicMissing, match="create=True"):
        await SourceRuntime(environment, missing, settings).start()
    own = Source("orders", topic=place.topics.events, plan=plan)
    with pytest.raises(ConfigurationError, match="one of Holdfast's own"):
        await SourceRuntime(environment, own, settings).start()
    made = Topic(place.kit.topic("made"), create=True)
    runtime = SourceRuntime(environment, Source("new", topic=made, plan=plan), settings)
    await runtime.start()
    found = await place.bus.describe_topics([made.name])
    assert found[made.name].partitions == 2
    await runtime.stop()
