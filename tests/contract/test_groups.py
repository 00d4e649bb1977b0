"""Members of a group: who owns what, and who hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from holdfast.bus.errors import OffsetOutOfRange, TopicMismatch, TopicMissing
from holdfast.bus.port import Bus, Received, Record, Slot, Subscription, TopicPartition
from tests.contract.kit import PATIENCE_S, BusKit, Child, Listener, Timing
from tests.contract.member import Member

SHORT = Timing(session_s=6.0)


@asynccontextmanager
async def members(kit: BusKit, topics: list[str], *names: str) -> AsyncIterator[list[Member]]:
    """Join so many members, each over a bus of its own; all leave at the end."""
    joined: list[Member] = []
    try:
        for name in names:
            joined.append(await Member(await kit.connect(SHORT), kit.group(), topics, name).join())
        yield joined
    finally:
        for member in joined:
            await member.leave()


async def test_one_member_owns_all_and_nothing_comes_before_it_says_so(
    kit: BusKit, bus: Bus
) -> None:
    topic = await kit.make_topic(bus, "topic", partitions=4)
    await bus.publish([Record(topic, b"k", b"%d" % p, (), p) for p in range(4)])
    listener = Listener()
    subscription = await bus.subscribe(kit.group(), [topic], member="one", listener=listener)
    async with asyncio.timeout(PATIENCE_S):
        while not listener.current:
            assert await subscription.poll(0.2) == []
    owned = sorted(listener.current)
    assert owned == [TopicPartition(topic, partition) for partition in range(4)]
    assert await subscription.poll(0.3) == []

    for partition in owned[:2]:
        subscription.seek(partition, 0)
    subscription.resume(owned[:1])
    found: list[Received] = []
    async with asyncio.timeout(PATIENCE_S):
        while not found:
            found = await subscription.poll(0.2)
    assert [(r.partition, r.value) for r in found] == [(0, b"0")]
    assert await subscription.poll(0.3) == [], "sought, but not resumed"
    await subscription.close()


async def test_pause_resume_and_seek(kit: BusKit, bus: Bus) -> None:
    topic = await kit.make_topic(bus, "topic", partitions=2)
    positions = await bus.publish([Record(topic, b"k", b"%d" % n, (), 0) for n in range(5)])
    async with members(kit, [topic], "one") as [one]:
        where = TopicPartition(topic, 0)
        await one.got(lambda found: len(found) == 5)
        one.subscription.pause([where])
        await bus.publish([Record(topic, b"k", b"5", (), 0), Record(topic, b"k", b"other", (), 1)])
        await one.got(lambda found: found[-1].value == b"other")
        assert b"5" not in [r.value for r in one.received]
        one.subscription.resume([where])
        await one.got(lambda found: found[-1].value == b"5")
        one.subscription.seek(where, positions[3].offset)
        await one.got(lambda found: [r.value for r in found[-3:]] == [b"3", b"4", b"5"])
        one.subscription.pause([TopicPartition(topic, 9)])
        one.subscription.seek(TopicPartition(topic, 9), 0)
        one.subscription.resume([TopicPartition(topic, 9)])


async def test_a_seek_below_the_start_of_the_log_is_loud(kit: BusKit, bus: Bus) -> None:
    topic = await kit.make_topic(bus, "topic")
    where = TopicPartition(topic, 0)
    positions = await bus.publish([Record(topic, b"k", b"%d" % n, (), 0) for n in range(5)])
    await bus.purge({where: positions[3].offset})
    listener = Listener()
    subscription = await bus.subscribe(kit.group(), [topic], member="one", listener=listener)
    async with asyncio.timeout(PATIENCE_S):
        while not listener.current:
            await subscription.poll(0.2)
    subscription.seek(where, positions[1].offset)
    subscription.resume([where])
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(OffsetOutOfRange, match=topic):
            await poll_for_ever(subscription)
    await subscription.close()


async def test_two_members_share_and_topics_stay_together(kit: BusKit, bus: Bus) -> None:
    topics = [await kit.make_topic(bus, name, partitions=4) for name in ("tasks", "control")]
    async with members(kit, topics, "one", "two") as [one, two]:
        first = await one.listener.owns_count(2)
        second = await two.listener.owns_count(2)
        assert first | second == {0, 1, 2, 3}
        for member in (one, two):
            owned = {tp.partition for tp in member.listener.current}
            assert member.listener.current == {
                TopicPartition(topic, partition) for topic in topics for partition in owned
            }
        await bus.publish([Record(t, b"k", b"%d" % p, (), p) for t in topics for p in range(4)])
        await one.got(lambda found: len(found) >= 4)
        await two.got(lambda found: len(found) >= 4)
        assert {r.partition for r in one.received[-4:]} == first


async def test_who_leaves_is_replaced_and_who_joins_gets_a_share(kit: BusKit, bus: Bus) -> None:
    topic = await kit.make_topic(bus, "topic", partitions=4)
    async with members(kit, [topic], "one") as [one]:
        await one.listener.owns({0, 1, 2, 3})
        two = await Member(await kit.connect(SHORT), kit.group(), [topic], "two").join()
        kept = await one.listener.owns_count(2)
        assert await two.listener.owns_count(2) == {0, 1, 2, 3} - kept
        await two.leave()
        await one.listener.owns({0, 1, 2, 3}, bound_s=5.0)


async def test_a_killed_process_loses_its_partitions(kit: BusKit, bus: Bus) -> None:
    topic = await kit.make_topic(bus, "topic", partitions=4)
    async with members(kit, [topic], "one") as [one]:
        await one.listener.owns({0, 1, 2, 3})
        child = await kit.spawn_member(kit.group(), [topic], "two", SHORT)
        await one.listener.owns_count(2)
        await child.kill()
        await one.listener.owns({0, 1, 2, 3})


async def test_a_stopped_process_loses_its_partitions_and_comes_back(kit: BusKit, bus: Bus) -> None:
    topic = await kit.make_topic(bus, "topic", partitions=4)
    async with members(kit, [topic], "one") as [one]:
        await one.listener.owns({0, 1, 2, 3})
        child = await kit.spawn_member(kit.group(), [topic], "two", SHORT)
        await one.listener.owns_count(2)
        await child.said("assigned")
        await child.said("polled")
        child.stop()
        await one.listener.owns({0, 1, 2, 3})
        child.wake()
        await one.listener.owns_count(2)


async def test_the_same_static_name_gets_its_partitions_back(kit: BusKit, bus: Bus) -> None:
    topic = await kit.make_topic(bus, "topic", partitions=4)
    async with members(kit, [topic], "one") as [one]:
        await one.listener.owns({0, 1, 2, 3})
        child = await kit.spawn_member(kit.group(), [topic], "two", SHORT)
        kept = await one.listener.owns_count(2)
        await owns(child, {0, 1, 2, 3} - kept)
        await child.kill()
        again = await kit.spawn_member(kit.group(), [topic], "two", SHORT)
        await owns(again, {0, 1, 2, 3} - kept)
        await one.listener.owns(kept)


async def test_heartbeats_are_acknowledged(kit: BusKit, bus: Bus) -> None:
    topic = await kit.make_topic(bus, "topic")
    loop = asyncio.get_running_loop()
    async with members(kit, [topic], "one") as [one]:
        await one.listener.owns({0})
        for _ in range(2):
            since = loop.time()
            async with asyncio.timeout(PATIENCE_S):
                while one.subscription.heartbeat_at < since:
                    await asyncio.sleep(0.05)
            assert one.subscription.heartbeat_at <= loop.time()
        assert one.subscription.failure is None
        assert one.subscription.session_timeout_s == SHORT.session_s


async def test_offsets_of_a_commit_are_where_the_next_owner_goes_on(kit: BusKit, bus: Bus) -> None:
    topic = await kit.make_topic(bus, "topic")
    outbox = await kit.make_topic(bus, "outbox")
    where = TopicPartition(topic, 0)
    positions = await bus.publish([Record(topic, b"k", b"%d" % n, (), 0) for n in range(4)])
    async with members(kit, [topic], "one") as [one]:
        await one.got(lambda found: len(found) == 4)
        writer = await bus.open_writer(Slot(kit.group(), 0))
        await writer.prepare([outbox])
        await writer.commit([Record(outbox, b"k", b"v", (), 0)], {where: positions[2].offset})
        await writer.close()
    two = Member(await kit.connect(SHORT), kit.group(), [topic], "two")
    two.reading = False
    await two.join()
    await two.listener.owns({0})
    done = (await bus.committed(kit.group(), [where]))[where]
    two.go_on([where], done)
    await two.got(lambda found: [r.value for r in found] == [b"2", b"3"])
    await two.leave()


async def test_topics_of_one_group_need_equal_partition_counts(kit: BusKit, bus: Bus) -> None:
    one = await kit.make_topic(bus, "one", partitions=2)
    two = await kit.make_topic(bus, "two", partitions=3)
    with pytest.raises(TopicMismatch, match=r"2.*3|3.*2"):
        await bus.subscribe(kit.group(), [one, two], member="m", listener=Listener())
    missing = kit.topic("missing")
    with pytest.raises(TopicMissing, match=missing):
        await bus.subscribe(kit.group(), [one, missing], member="m", listener=Listener())


async def poll_for_ever(subscription: Subscription) -> None:
    while True:
        await subscription.poll(0.2)


async def owns(child: Child, partitions: set[int]) -> None:
    """Return once the child says that it owns exactly these."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            said = await child.said("assigned")
            if {partition for _, partition in said["partitions"]} == partitions:
                return
