"""Topics: created once, described, refused when they differ."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.bus.errors import TopicMismatch
from holdfast.bus.port import Bus, Cleanup, TopicInfo, TopicPartition, TopicSpec
from tests.contract.kit import BusKit


async def test_topics_are_created_once_and_described(kit: BusKit, bus: Bus) -> None:
    specs = [
        TopicSpec(kit.topic("tasks"), 4),
        TopicSpec(kit.topic("journal"), 3, Cleanup.COMPACT),
        TopicSpec(kit.topic("events"), 2, Cleanup.RETAIN, retention_ms=60_000),
    ]
    await bus.create_topics(specs)
    await bus.create_topics(specs[:2])

    names = [spec.name for spec in specs]
    found = await bus.describe_topics([*names, kit.topic("missing")])
    assert set(found) == set(names)
    for spec in specs:
        info = found[spec.name]
        expected = TopicInfo(spec.name, spec.partitions, spec.cleanup, info.max_record_bytes)
        assert info == expected
        assert info.max_record_bytes >= 900_000
    assert set(names) <= set(await bus.describe_topics())
    everything = [TopicPartition(s.name, p) for s in specs for p in range(s.partitions)]
    assert await bus.end_offsets(everything) == dict.fromkeys(everything, 0)


async def test_another_partition_count_is_refused_before_any_is_created(
    kit: BusKit, bus: Bus
) -> None:
    await bus.create_topics([TopicSpec(kit.topic("old"), 4)])
    fresh = TopicSpec(kit.topic("fresh"), 4)
    with pytest.raises(TopicMismatch, match=rf"{kit.topic('old')}.*4.*6"):
        await bus.create_topics([fresh, TopicSpec(kit.topic("old"), 6)])
    assert await bus.describe_topics([fresh.name]) == {}


async def test_many_create_the_same_topic_at_once(kit: BusKit) -> None:
    buses = [await kit.connect() for _ in range(3)]
    spec = TopicSpec(kit.topic("same"), 3)
    await asyncio.gather(*(bus.create_topics([spec]) for bus in buses))
    for bus in buses:
        assert (await bus.describe_topics([spec.name]))[spec.name].partitions == 3
