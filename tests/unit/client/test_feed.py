"""The feed outlives a bus that goes away, and lets go of what nobody waits for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from holdfast.bus.errors import BusUnavailable
from holdfast.bus.port import TopicPartition
from holdfast.client import feed as feed_module
from holdfast.client.feed import EventFeed
from holdfast.client.watch import Watch
from holdfast.schemas import EventType
from holdfast.testing.sim.reading import SimReader
from tests.unit.client.conftest import PARTITIONS, TOPICS, World
from tests.waiting import until


async def test_it_goes_on_when_the_bus_is_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "RETRY_FIRST_S", 0.005)
    failures = 3
    open_reader = world.bus.open_reader

    async def failing(starts: Mapping[TopicPartition, int]) -> SimReader:
        nonlocal failures
        if failures:
            failures -= 1
            raise BusUnavailable("away")
        return await open_reader(starts)

    world.bus.open_reader = failing  # type: ignore[method-assign]
    feed = EventFeed(world.bus, TOPICS.events, PARTITIONS)
    watch = Watch("r1", partition_of(world, "r1"))
    await feed.add(watch)
    await world.end("r1")  # while the bus is away
    await until(lambda: watch.end is not None, "the end is seen")
    assert failures == 0
    await feed.close()


async def test_it_lets_go_when_nobody_waits_and_comes_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "IDLE_S", 0.02)
    monkeypatch.setattr(feed_module, "POLL_S", 0.01)
    feed = EventFeed(world.bus, TOPICS.events, PARTITIONS)
    watch = Watch("r1", partition_of(world, "r1"))
    await feed.add(watch)
    (follower,) = feed._followers
    await until(lambda: follower.wanted_at > 0, "it follows")
    assert follower.alive
    del watch
    await until(lambda: not follower.alive, "it lets go")
    await world.say("r2", EventType.RUN_STARTED)  # seen by nobody
    again = Watch("r1", partition_of(world, "r1"))
    await feed.add(again)
    await world.end("r1")
    await until(lambda: again.end is not None, "it follows again")
    await feed.close()


async def test_what_cannot_be_read_for_ever_is_said_to_all(world: World) -> None:
    feed = EventFeed(world.bus, TOPICS.events, PARTITIONS)

    async def broken(starts: Mapping[TopicPartition, int]) -> Any:
        raise RuntimeError("a fault")

    world.bus.open_reader = broken  # type: ignore[method-assign]
    watch = Watch("r1", partition_of(world, "r1"))
    await feed.add(watch)
    await until(lambda: watch.error is not None, "it is told")
    assert "a fault" in str(watch.error)
    await feed.close()


def partition_of(world: World, run_id: str) -> int:
    from holdfast.bus.partition import partition_for

    return partition_for(run_id.encode(), PARTITIONS)
