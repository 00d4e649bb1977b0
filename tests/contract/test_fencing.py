"""One writer for each slot: the newest."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.bus.errors import Fenced, OutcomeUnknown
from holdfast.bus.port import Bus, Received, Record, Slot, TopicPartition
from tests.contract.kit import PATIENCE_S, BusKit, Timing, read_all, values


async def test_an_older_writer_is_fenced(kit: BusKit) -> None:
    one, two = await kit.connect(), await kit.connect()
    topic = await kit.make_topic(one, "topic")
    slot, consumed = Slot(kit.group(), 0), TopicPartition(topic, 0)
    older = await one.open_writer(slot)
    await older.prepare([topic])
    await older.commit([Record(topic, b"k", b"older", (), 0)], {consumed: 1})

    newer = await two.open_writer(slot)
    await newer.prepare([topic])
    with pytest.raises(Fenced):
        await older.commit([Record(topic, b"k", b"too late", (), 0)], {consumed: 9})

    await newer.commit([Record(topic, b"k", b"newer", (), 0)], {consumed: 2})
    assert values(await read_all(two, topic)) == [b"older", b"newer"]
    assert await two.committed(kit.group(), [consumed]) == {consumed: 2}
    await older.close()


async def test_a_fenced_writer_stays_dead_and_its_neighbour_lives(kit: BusKit) -> None:
    one, two = await kit.connect(), await kit.connect()
    topic = await kit.make_topic(one, "topic", partitions=2)
    lost = await one.open_writer(Slot(kit.group(), 0))
    kept = await one.open_writer(Slot(kit.group(), 1))
    for writer in (lost, kept):
        await writer.prepare([topic])
        await writer.commit([Record(topic, b"k", b"first", (), writer.slot.partition)], {})
    await two.open_writer(Slot(kit.group(), 0))

    outcomes = await asyncio.gather(
        lost.commit([Record(topic, b"k", b"lost", (), 0)], {}),
        kept.commit([Record(topic, b"k", b"kept", (), 1)], {}),
        return_exceptions=True,
    )
    assert isinstance(outcomes[0], Fenced)
    assert outcomes[1] is None
    with pytest.raises(Fenced):
        await lost.commit([Record(topic, b"k", b"again", (), 0)], {})
    assert values(await read_all(two, topic, 0)) == [b"first"]
    assert values(await read_all(two, topic, 1)) == [b"first", b"kept"]


async def test_slots_of_other_groups_and_partitions_are_not_fenced(kit: BusKit) -> None:
    bus = await kit.connect()
    topic = await kit.make_topic(bus, "topic")
    slots = [Slot(kit.group("a"), 0), Slot(kit.group("a"), 1), Slot(kit.group("b"), 0)]
    writers = [await bus.open_writer(slot) for slot in slots]
    for writer in writers:
        await writer.prepare([topic])
        await writer.commit([Record(topic, b"k", b"v", (), 0)], {})
    assert len(await read_all(bus, topic)) == 3


async def test_taking_over_a_slot_with_an_open_commit(kit: BusKit) -> None:
    """When `open_writer` returns, what the older one had begun is visible or will never be."""
    one, two = await kit.connect(), await kit.connect()
    topic = await kit.make_topic(one, "topic")
    slot = Slot(kit.group(), 0)
    older = await one.open_writer(slot)
    await older.prepare([topic])
    async with kit.hold_commit(one) as held:
        open_commit = asyncio.create_task(
            older.commit([Record(topic, b"k", b"open", (), 0)], {TopicPartition(topic, 0): 1})
        )
        await held.reached()
        assert values(await read_visible(one, topic)) == []
        taking = asyncio.create_task(two.open_writer(slot))
        await asyncio.wait({taking}, timeout=1.0)
        held.release()
        async with asyncio.timeout(PATIENCE_S):
            newer = await taking
    at_takeover = values(await read_all(two, topic))
    outcome = (await asyncio.gather(open_commit, return_exceptions=True))[0]

    if outcome is None:
        assert at_takeover == [b"open"]
    else:
        assert isinstance(outcome, Fenced | OutcomeUnknown)
    await newer.prepare([topic])
    await newer.commit([Record(topic, b"k", b"newer", (), 0)], {})
    assert values(await read_all(two, topic)) == [*at_takeover, b"newer"]


async def test_a_writer_whose_process_is_killed_inside_a_commit(kit: BusKit) -> None:
    bus = await kit.connect()
    topic = await kit.make_topic(bus, "topic", partitions=2)
    slot, consumed = Slot(kit.group(), 0), TopicPartition(topic, 0)
    await kit.kill_inside_commit(
        slot,
        [Record(topic, b"k", b"half", (), 0), Record(topic, b"k", b"half", (), 1)],
        {consumed: 5},
    )
    async with asyncio.timeout(PATIENCE_S):
        writer = await bus.open_writer(slot)
    await writer.prepare([topic])
    await writer.commit([Record(topic, b"k", b"whole", (), 0)], {})
    assert values(await read_all(bus, topic, 0)) == [b"whole"]
    assert values(await read_all(bus, topic, 1)) == []
    assert await bus.committed(kit.group(), [consumed]) == {}


async def test_a_cancelled_commit_is_whole_or_not_at_all(kit: BusKit) -> None:
    bus = await kit.connect(Timing())
    topic = await kit.make_topic(bus, "topic", partitions=2)
    slot = Slot(kit.group(), 0)
    writer = await bus.open_writer(slot)
    await writer.prepare([topic])
    records = [Record(topic, b"k", b"v", (), 0), Record(topic, b"k", b"v", (), 1)]
    async with kit.hold_commit(bus) as held:
        task = asyncio.create_task(writer.commit(records, {}))
        await held.reached()
        task.cancel()
        with pytest.raises((asyncio.CancelledError, OutcomeUnknown)):
            await task
        held.release()
    async with asyncio.timeout(PATIENCE_S):
        await bus.open_writer(slot)
    found = [len(await read_all(bus, topic, partition)) for partition in range(2)]
    assert found in ([0, 0], [1, 1])
    with pytest.raises((Fenced, OutcomeUnknown)):
        await writer.commit(records, {})


async def read_visible(bus: Bus, topic: str) -> list[Received]:
    """What a reader gets at once, without waiting for an open transaction to end."""
    reader = await bus.open_reader({TopicPartition(topic, 0): 0})
    try:
        return await reader.poll(0.2)
    finally:
        await reader.close()
