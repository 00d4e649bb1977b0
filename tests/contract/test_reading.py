"""Reading: bounds, gaps, purges, compaction; committed records only; woken by other buses."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.bus.errors import OffsetOutOfRange, TopicMissing
from holdfast.bus.port import Bus, Cleanup, Reader, Received, Record, Slot, TopicPartition
from tests.contract.kit import PATIENCE_S, BusKit, read_all, values


async def next_batch(reader: Reader) -> list[Received]:
    """The next records; an adapter may answer [] in between."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if batch := await reader.poll(1.0):
                return batch


async def publish_numbers(bus: Bus, topic: str, count: int) -> list[int]:
    """Publish 0, 1, 2, … to partition 0; return their offsets (a bus may leave gaps)."""
    positions = await bus.publish([Record(topic, b"k", b"%d" % n, (), 0) for n in range(count)])
    return [position.offset for position in positions]


async def test_read_keeps_to_its_bounds(kit: BusKit, bus: Bus) -> None:
    topic = await kit.make_topic(bus, "topic")
    offsets = await publish_numbers(bus, topic, 1_200)

    async def read(start: int, end: int | None) -> list[bytes | None]:
        return [r.value async for batch in bus.read(topic, 0, start, end) for r in batch]

    assert await read(0, None) == [b"%d" % n for n in range(1_200)]
    assert await read(offsets[3], offsets[5]) == [b"3", b"4"]
    assert await read(offsets[1_199], None) == [b"1199"]
    assert await read(offsets[1_199] + 1, None) == []
    assert await read(5, 5) == []


async def test_read_of_an_empty_or_missing_topic(kit: BusKit, bus: Bus) -> None:
    topic = await kit.make_topic(bus, "topic")
    assert await read_all(bus, topic) == []
    with pytest.raises(TopicMissing):
        await read_all(bus, kit.topic("missing"))


async def test_large_records_are_read_in_pieces_and_in_order(kit: BusKit, bus: Bus) -> None:
    topic = await kit.make_topic(bus, "topic")
    writer = await bus.open_writer(Slot(kit.group(), 0))
    await writer.prepare([topic])
    for n in range(4):
        records = [Record(topic, b"k", b"%d" % n * 300_000, (), 0) for _ in range(4)]
        await writer.commit(records, {})
    found = await read_all(bus, topic)
    assert [(r.value or b"")[:1] for r in found] == [b"%d" % (n // 4) for n in range(16)]
    assert {len(r.value or b"") for r in found} == {300_000}


async def test_a_waiting_reader_is_woken_by_a_commit_elsewhere(kit: BusKit) -> None:
    here, there = await kit.connect(), await kit.connect()
    topic = await kit.make_topic(here, "topic", partitions=2)
    starts = {TopicPartition(topic, partition): 0 for partition in range(2)}
    reader = await here.open_reader(starts)
    assert await reader.poll(0.05) == []
    writer = await there.open_writer(Slot(kit.group(), 0))
    await writer.prepare([topic])
    for n in range(20):
        waiting = asyncio.create_task(next_batch(reader))
        await asyncio.sleep(0)
        await writer.commit([Record(topic, b"k", b"%d" % n, (), n % 2)], {})
        [record] = await waiting
        assert (record.value, record.partition) == (b"%d" % n, n % 2)
        assert reader.position(TopicPartition(topic, n % 2)) > record.offset
    await reader.close()


async def test_readers_see_no_record_of_a_commit_that_is_not_decided(kit: BusKit, bus: Bus) -> None:
    topic = await kit.make_topic(bus, "topic")
    writer = await bus.open_writer(Slot(kit.group(), 0))
    await writer.prepare([topic])
    reader = await bus.open_reader({TopicPartition(topic, 0): 0})
    async with kit.hold_commit(bus) as held:
        commit = asyncio.create_task(writer.commit([Record(topic, b"k", b"v", (), 0)], {}))
        await held.reached()
        assert await reader.poll(0.3) == []
        held.release()
        await commit
    assert values(await next_batch(reader)) == [b"v"]
    await reader.close()


async def test_purge_moves_the_start_and_is_noticed(kit: BusKit, bus: Bus) -> None:
    topic = await kit.make_topic(bus, "topic", partitions=2)
    where = TopicPartition(topic, 0)
    offsets = await publish_numbers(bus, topic, 2_500)
    lagging = await bus.open_reader({where: 0})
    await bus.purge({where: offsets[2_400]})

    assert (await bus.begin_offsets([where]))[where] == offsets[2_400]
    assert values(await read_all(bus, topic)) == [b"%d" % n for n in range(2_400, 2_500)]
    assert (await bus.begin_offsets([TopicPartition(topic, 1)]))[TopicPartition(topic, 1)] == 0
    with pytest.raises(OffsetOutOfRange, match=topic):
        await next_batch(lagging)
    await lagging.close()
    # What comes later has later offsets, even when all was purged.
    end = (await bus.end_offsets([where]))[where]
    await bus.purge({where: end})
    assert await read_all(bus, topic) == []
    [position] = await bus.publish([Record(topic, b"k", b"next", (), 0)])
    assert position.offset >= end


async def test_compaction_keeps_the_newest_of_each_key(kit: BusKit, bus: Bus) -> None:
    topic = await kit.make_topic(bus, "journal", cleanup=Cleanup.COMPACT)
    writer = await bus.open_writer(Slot(kit.group(), 0))
    await writer.prepare([topic])
    for n in range(30):
        records = [Record(topic, b"%d" % key, b"%d" % n, (), 0) for key in range(20)]
        await writer.commit(records, {})
    await writer.commit([Record(topic, b"%d" % key, None, (), 0) for key in range(10)], {})
    end = (await bus.end_offsets([TopicPartition(topic, 0)]))[TopicPartition(topic, 0)]
    before = {r.offset: r for r in await read_all(bus, topic)}

    compacted = await kit.compact(bus, topic)
    after = await read_all(bus, topic)

    state = {record.key: record.value for record in after}
    assert {key: value for key, value in state.items() if value is not None} == {
        b"%d" % key: b"29" for key in range(10, 20)
    }
    assert all(before[record.offset] == record for record in after), "an offset has changed"
    assert [record.offset for record in after] == sorted(record.offset for record in after)
    if compacted:
        assert len(after) == 20, "the newest of each key, tombstones for their grace"
    # A read that ends where compaction left nothing ends all the same.
    assert [b async for b in bus.read(topic, 0, 0, 1)] in ([], [[before[0]]])
    # Not less; more where the bus had to be made to compact by records that nobody sees.
    assert (await bus.end_offsets([TopicPartition(topic, 0)]))[TopicPartition(topic, 0)] >= end


async def test_a_reader_goes_on_behind_a_gap(kit: BusKit, bus: Bus) -> None:
    topic = await kit.make_topic(bus, "journal", cleanup=Cleanup.COMPACT)
    where = TopicPartition(topic, 0)
    await bus.publish([Record(topic, b"k", b"%d" % n, (), 0) for n in range(1_500)])
    await kit.compact(bus, topic)
    reader = await bus.open_reader({where: 0})
    end = (await bus.end_offsets([where]))[where]
    last = None
    async with asyncio.timeout(PATIENCE_S):
        while reader.position(where) < end:
            for record in await reader.poll(0.5):
                last = record.value
    assert last == b"1499"
    await reader.close()


async def test_a_restart_keeps_everything(kit: BusKit) -> None:
    bus = await kit.connect()
    topic = await kit.make_topic(bus, "topic", partitions=2)
    journal = await kit.make_topic(bus, "journal", cleanup=Cleanup.COMPACT)
    writer = await bus.open_writer(Slot(kit.group(), 0))
    await writer.prepare([topic, journal])
    consumed = TopicPartition(topic, 1)
    await writer.commit(
        [Record(topic, b"k", b"kept", (("h", b"1"),), 1), Record(journal, b"k", b"1", (), 0)],
        {consumed: 17},
    )
    found = await read_all(bus, topic, 1)
    await bus.close()

    again = await kit.connect()
    assert await read_all(again, topic, 1) == found
    assert values(await read_all(again, journal)) == [b"1"]
    assert await again.committed(kit.group(), [consumed]) == {consumed: 17}
    assert (await again.describe_topics([topic]))[topic].partitions == 2
    newer = await again.open_writer(Slot(kit.group(), 0))
    await newer.prepare([topic])
    await newer.commit([Record(topic, b"k", b"more", (), 1)], {consumed: 18})
    assert values(await read_all(again, topic, 1)) == [b"kept", b"more"]


async def test_lag_is_what_lies_between_the_group_and_the_end(kit: BusKit, bus: Bus) -> None:
    topic = await kit.make_topic(bus, "topic", partitions=2)
    outbox = await kit.make_topic(bus, "outbox")
    offsets = await publish_numbers(bus, topic, 10)
    ends = await bus.end_offsets([TopicPartition(topic, 0), TopicPartition(topic, 1)])
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    assert await bus.lag(kit.group(), [topic]) == {first: ends[first], second: 0}

    writer = await bus.open_writer(Slot(kit.group(), 0))
    await writer.prepare([topic, outbox])
    await writer.commit([Record(outbox, b"k", b"v", (), 0)], {first: offsets[7]})
    lag = await bus.lag(kit.group(), [topic])
    assert lag == {first: ends[first] - offsets[7], second: 0}
