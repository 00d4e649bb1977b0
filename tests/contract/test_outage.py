"""The bus goes away: at the start, and in the middle of work."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.bus.errors import BusUnavailable, OutcomeUnknown
from holdfast.bus.port import Bus, Record, Slot, TopicPartition, Writer
from tests.contract.kit import PATIENCE_S, BusKit, Timing, read_all, values
from tests.contract.member import Member

OUTAGE_S = 10.0
LATER = Timing(operation_s=40.0)


async def test_away_at_the_start(kit: BusKit) -> None:
    await kit.cut()
    with pytest.raises(BusUnavailable, match=kit.url.partition("://")[2].split("?")[0].lstrip("/")):
        await kit.connect(Timing(connect_s=1.0))
    starting = asyncio.create_task(kit.connect(LATER))
    await asyncio.wait({starting}, timeout=1.0)
    assert not starting.done()
    await kit.restore()
    async with asyncio.timeout(PATIENCE_S):
        bus = await starting
    topic = await kit.make_topic(bus, "topic")
    await bus.publish([Record(topic, b"k", b"v")])
    assert values(await read_all(bus, topic)) == [b"v"]


async def test_a_start_that_failed_can_be_tried_again(kit: BusKit) -> None:
    await kit.cut()
    bus = kit.build(kit.url, Timing(connect_s=1.0))
    with pytest.raises(BusUnavailable):
        await bus.start()
    await kit.restore()
    async with asyncio.timeout(PATIENCE_S):
        await bus.start()
    await kit.make_topic(bus, "topic")
    await bus.close()


async def settle(kit: BusKit, bus: Bus, writer: Writer, record: Record) -> None:
    """Commit as a slot does: when the outcome is unknown, open anew, read, and commit again if the
    record is not there."""
    while True:
        try:
            await writer.commit([record], {TopicPartition(record.topic, 0): 1})
        except OutcomeUnknown:
            writer = await reopen(bus, writer.slot)
            await writer.prepare([record.topic])
            if record.value in values(await read_all(bus, record.topic)):
                return
        else:
            return


async def reopen(bus: Bus, slot: Slot) -> Writer:
    while True:
        try:
            return await bus.open_writer(slot)
        except BusUnavailable:
            continue


async def test_away_for_ten_seconds_in_the_middle(kit: BusKit) -> None:
    bus = await kit.connect(LATER)
    topic = await kit.make_topic(bus, "topic")
    slot = Slot(kit.group(), 0)
    writer = await bus.open_writer(slot)
    await writer.prepare([topic])
    member = await Member(bus, kit.group(), [topic], "one").join()
    await member.listener.owns({0})
    await writer.commit([Record(topic, b"k", b"before", (), 0)], {})

    await kit.cut()
    work = asyncio.create_task(settle(kit, bus, writer, Record(topic, b"k", b"during", (), 0)))
    await asyncio.wait({work}, timeout=OUTAGE_S)
    assert not work.done(), "a commit was acknowledged by a bus that is away"
    await kit.restore()

    async with asyncio.timeout(PATIENCE_S):
        await work
        await bus.publish([Record(topic, b"k", b"after", (), 0)])
    assert values(await read_all(bus, topic)) == [b"before", b"during", b"after"]
    await member.got(lambda found: bool(found) and found[-1].value == b"after")
    assert member.subscription.failure is None
    await member.leave()


async def test_it_does_not_come_back_in_time(kit: BusKit) -> None:
    bus = await kit.connect(Timing(operation_s=2.0))
    topic = await kit.make_topic(bus, "topic")
    slot = Slot(kit.group(), 0)
    writer = await bus.open_writer(slot)
    await writer.prepare([topic])
    await kit.cut()
    outcomes = await asyncio.gather(
        writer.commit([Record(topic, b"k", b"commit", (), 0)], {}),
        bus.publish([Record(topic, b"k", b"publish", (), 0)]),
        bus.open_writer(slot._replace(partition=1)),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [
        OutcomeUnknown,
        BusUnavailable,
        BusUnavailable,
    ]
    await kit.restore()
    async with asyncio.timeout(PATIENCE_S):
        newer = await reopen(bus, slot)
        await newer.prepare([topic])
        await newer.commit([Record(topic, b"k", b"after", (), 0)], {})
    assert values(await read_all(bus, topic))[-1] == b"after"
