"""One commit: all of it or nothing of it, in order, as it was given."""

from __future__ import annotations

import asyncio
import time

import pytest

from holdfast.bus.errors import OutcomeUnknown, Rejected, TopicMissing
from holdfast.bus.partition import murmur2, partition_for
from holdfast.bus.port import Bus, Cleanup, Received, Record, Slot, TopicPartition, Writer
from tests.contract.kit import BusKit, read_all, values


async def open_writer(kit: BusKit, bus: Bus, topics: list[str], partition: int = 0) -> Writer:
    writer = await bus.open_writer(Slot(kit.group(), partition))
    await writer.prepare(topics)
    return writer


async def test_a_commit_writes_to_many_topics_and_moves_offsets(kit: BusKit, bus: Bus) -> None:
    inbox = await kit.make_topic(bus, "inbox", partitions=2)
    first = await kit.make_topic(bus, "first", partitions=3)
    second = await kit.make_topic(bus, "second")
    await bus.publish([Record(inbox, b"k", b"in", (), 1)])
    writer = await open_writer(kit, bus, [inbox, first, second])

    consumed = TopicPartition(inbox, 1)
    records = [Record(first, b"a", b"1", (), 2), Record(second, b"b", b"2", (), 0)]
    assert await bus.committed(kit.group(), [consumed]) == {}
    await writer.commit(records, {consumed: 1})

    assert values(await read_all(bus, first, 2)) == [b"1"]
    assert values(await read_all(bus, second, 0)) == [b"2"]
    assert await bus.committed(kit.group(), [consumed]) == {consumed: 1}


async def test_a_topic_that_is_younger_than_the_writer(kit: BusKit, bus: Bus) -> None:
    """Nobody prepares: a client that asks for the new topic must not forget the old one."""
    old = await kit.make_topic(bus, "old")
    writer = await bus.open_writer(Slot(kit.group(), 0))
    new = await kit.make_topic(bus, "new")
    records = [Record(old, b"a", b"1", (), 0), Record(new, b"b", b"2", (), 0)]
    async with asyncio.timeout(4):
        await writer.commit(records, {})
    assert values(await read_all(bus, old, 0)) == [b"1"]
    assert values(await read_all(bus, new, 0)) == [b"2"]


async def test_a_refused_record_takes_its_whole_commit_with_it(kit: BusKit, bus: Bus) -> None:
    topic = await kit.make_topic(bus, "topic")
    writer = await open_writer(kit, bus, [topic])
    limit = (await bus.describe_topics([topic]))[topic].max_record_bytes
    good, bad = Record(topic, b"k", b"good", (), 0), Record(topic, b"k", bytes(limit + 1), (), 0)

    with pytest.raises(Rejected) as refused:
        await writer.commit([good, bad, good], {TopicPartition(topic, 0): 7})

    assert refused.value.record == bad
    assert str(limit) in str(refused.value)
    assert await read_all(bus, topic) == []
    assert await bus.committed(kit.group(), [TopicPartition(topic, 0)]) == {}


async def test_check_names_size_and_limit_before_anything_is_written(kit: BusKit, bus: Bus) -> None:
    topic = await kit.make_topic(bus, "topic")
    writer = await open_writer(kit, bus, [topic])
    limit = (await bus.describe_topics([topic]))[topic].max_record_bytes
    largest = Record(topic, b"k", bytes(limit - 1_024), (), 0)
    too_large = Record(topic, b"k", bytes(limit), (), 0)

    writer.check(largest)
    with pytest.raises(Rejected, match=rf"{topic}.*\D{limit}\D"):
        writer.check(too_large)
    with pytest.raises(Rejected, match=rf"\D{limit}\D"):
        await bus.publish([Record(topic, b"k", b"small", (), 0), too_large])
    assert await read_all(bus, topic) == []

    await writer.commit([largest], {})
    assert len((await read_all(bus, topic))[0].value or b"") == limit - 1_024


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (Record("", b"k", "text", (), 0), "value"),  # type: ignore[arg-type]
        (Record("", 7, b"v", (), 0), "key"),  # type: ignore[arg-type]
        (Record("", b"k", b"v", (("name", "text"),), 0), "header"),  # type: ignore[arg-type]
        (Record("", b"k", b"v", (), 9), "partition"),
        (Record("", None, b"v", (), None), "key"),
    ],
)
async def test_what_is_not_bytes_or_has_no_place_is_refused(
    kit: BusKit, bus: Bus, record: Record, reason: str
) -> None:
    topic = await kit.make_topic(bus, "topic")
    writer = await open_writer(kit, bus, [topic])
    record = record._replace(topic=topic)
    with pytest.raises(Rejected, match=reason):
        writer.check(record)
    with pytest.raises(Rejected, match=reason):
        await writer.commit([Record(topic, b"k", b"good", (), 0), record], {})
    assert await read_all(bus, topic) == []


async def test_a_topic_that_does_not_exist(kit: BusKit, bus: Bus) -> None:
    missing = kit.topic("missing")
    topic = await kit.make_topic(bus, "topic")
    writer = await bus.open_writer(Slot(kit.group(), 0))
    with pytest.raises(TopicMissing, match=missing):
        await writer.prepare([missing])
    with pytest.raises(TopicMissing, match=missing):
        await bus.publish([Record(topic, b"k", b"v"), Record(missing, b"k", b"v")])
    with pytest.raises(TopicMissing, match=missing):
        await bus.end_offsets([TopicPartition(missing, 0)])
    assert await read_all(bus, topic) == []


async def test_ten_thousand_records_in_one_commit(kit: BusKit, bus: Bus) -> None:
    topic = await kit.make_topic(bus, "topic", partitions=3)
    writer = await open_writer(kit, bus, [topic])
    records = [Record(topic, b"%d" % (n % 10), b"%d" % n, (), n % 3) for n in range(10_000)]
    await writer.commit(records, {TopicPartition(topic, 0): 1})
    for partition in range(3):
        found = values(await read_all(bus, topic, partition))
        assert found == [record.value for record in records if record.partition == partition]


async def test_an_empty_commit_is_a_mistake(kit: BusKit, bus: Bus) -> None:
    writer = await open_writer(kit, bus, [await kit.make_topic(bus, "topic")])
    with pytest.raises(ValueError, match="record"):
        await writer.commit([], {})


async def test_records_come_back_as_they_were(kit: BusKit, bus: Bus) -> None:
    topic = await kit.make_topic(bus, "topic")
    writer = await open_writer(kit, bus, [topic])
    headers = (("run", b"r-1"), ("run", b"again"), ("leer", b""), ("grün", bytes(range(256))))
    records = [
        Record(topic, b"key", b"value", headers, 0),
        Record(topic, b"key", None, (), 0),
        Record(topic, None, b"", (), 0),
        Record(topic, b"", bytes(range(256)), (), 0),
    ]
    before_ms = time.time_ns() // 1_000_000
    await writer.commit(records, {})
    found = await read_all(bus, topic)
    assert [(r.key, r.value, tuple(r.headers)) for r in found] == [
        (r.key, r.value, tuple(r.headers)) for r in records
    ]
    assert all(before_ms - 1_000 <= r.timestamp_ms <= before_ms + 60_000 for r in found)


async def test_records_of_one_key_keep_their_order(kit: BusKit, bus: Bus) -> None:
    topic = await kit.make_topic(bus, "topic", partitions=4)
    writer = await open_writer(kit, bus, [topic])
    for n in range(20):
        await writer.commit([Record(topic, b"%d" % key, b"%d" % n) for key in range(8)], {})
    found: dict[bytes | None, list[bytes | None]] = {}
    for partition in range(4):
        for record in await read_all(bus, topic, partition):
            assert record.key is not None
            assert record.partition == partition_for(record.key, 4)
            found.setdefault(record.key, []).append(record.value)
    assert found == {b"%d" % key: [b"%d" % n for n in range(20)] for key in range(8)}


async def test_many_slots_commit_side_by_side(kit: BusKit, bus: Bus) -> None:
    topic = await kit.make_topic(bus, "topic", partitions=4)

    async def work(partition: int) -> None:
        writer = await open_writer(kit, bus, [topic], partition)
        for n in range(10):
            record = Record(topic, b"k", b"%d" % n, (), partition)
            await writer.commit([record], {TopicPartition(topic, partition): n + 1})

    await asyncio.gather(*(work(partition) for partition in range(4)))
    for partition in range(4):
        found: list[Received] = await read_all(bus, topic, partition)
        assert values(found) == [b"%d" % n for n in range(10)]
    done = await bus.committed(kit.group(), [TopicPartition(topic, p) for p in range(4)])
    assert set(done.values()) == {10}


async def test_publish_keeps_order_and_tells_positions(kit: BusKit, bus: Bus) -> None:
    topic = await kit.make_topic(bus, "topic", partitions=4)
    records = [Record(topic, b"%d" % (n % 7), b"%d" % n) for n in range(50)]
    positions = await bus.publish(records)
    assert await bus.publish([]) == []
    for record, position in zip(records, positions, strict=True):
        assert position.partition == partition_for(record.key or b"", 4)
        [batch] = [b async for b in bus.read(*position, position.offset + 1)]
        assert batch[0].value == record.value


@pytest.mark.parametrize("committed", [True, False])
async def test_a_lost_answer_is_an_unknown_outcome(kit: BusKit, bus: Bus, committed: bool) -> None:
    topic = await kit.make_topic(bus, "topic", cleanup=Cleanup.COMPACT)
    writer = await open_writer(kit, bus, [topic])
    consumed = TopicPartition(topic, 0)
    record = Record(topic, b"offset", b"1", (), 0)
    async with kit.lose_answer(bus, committed=committed):
        with pytest.raises(OutcomeUnknown):
            await writer.commit([record], {consumed: 3})

    # The truth is in the log, read by a new writer of the slot; and it does not change any more.
    again = await open_writer(kit, bus, [topic])
    for _ in range(2):
        assert values(await read_all(bus, topic)) == ([b"1"] if committed else [])
        done = await bus.committed(kit.group(), [consumed])
        assert done == ({consumed: 3} if committed else {})
    await again.commit([record._replace(value=b"2")], {consumed: 4})
    assert (await read_all(bus, topic))[-1].value == b"2"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        # The vectors of Kafka's own UtilsTest.testMurmur2.
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_the_one_of_java(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected & 0xFFFFFFFF
    assert partition_for(key, 12) == (expected & 0x7FFFFFFF) % 12
