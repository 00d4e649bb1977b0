"""What a group stood at is forgotten by the broker, or deleted from under it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import pytest

from holdfast.bus.connect import open_bus
from holdfast.bus.port import Bus, TopicPartition
from holdfast.bus.topics import Topics
from holdfast.client import Client
from holdfast.schemas.records import EventType
from tests.acceptance.deployment import Deployment, witnessed
from tests.acceptance.observer import observing
from tests.waiting import until

RUNS = 12
ALL = [f"run-{n}" for n in range(RUNS)]


@asynccontextmanager
async def connected(place: Deployment) -> AsyncIterator[Bus]:
    bus = open_bus(place.bus)
    await bus.start()
    try:
        yield bus
    finally:
        await bus.close()


async def work(client: Client, run_ids: Collection[str]) -> None:
    runs = [await client.submit("first.begin", {"text": "x"}, run_id=name) for name in run_ids]
    results = await asyncio.wait_for(asyncio.gather(*(run.result() for run in runs)), 60)
    assert results == [{"text": "x first", "n": 1}] * len(runs)


async def forget(bootstrap: str, groups: list[str]) -> None:
    """Delete groups with their offsets, as a broker does by itself when they were idle for long."""
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": bootstrap})

    def delete() -> None:
        for answer in admin.delete_consumer_groups(groups).values():
            answer.result(30)

    await asyncio.to_thread(delete)


async def placed(bus: Bus, topic: str, group: str) -> dict[TopicPartition, int]:
    partitions = (await bus.describe_topics([topic]))[topic].partitions
    return await bus.committed(group, [TopicPartition(topic, n) for n in range(partitions)])


@pytest.mark.kafka
@pytest.mark.parametrize("place", ["kafka"], indirect=True)
async def test_offsets_that_expired_at_the_broker_are_taken_from_the_journal(
    place: Deployment,
) -> None:
    topics = Topics(place.namespace)
    groups = [topics.group("first"), topics.group("coordinator")]
    place.coordinator("c1")
    place.agent("first")
    await asyncio.to_thread(place.wait_ready)
    async with (
        observing(place, ["first"]) as seen,
        Client(url=place.bus, namespace=place.namespace) as client,
        connected(place) as bus,
    ):
        await work(client, ALL)
        for name in ("first-1", "c1"):
            await asyncio.to_thread(place.stop, name)
        assert await placed(bus, topics.tasks("first"), groups[0])
        await forget(place.bus.removeprefix("kafka://"), groups)
        assert await placed(bus, topics.tasks("first"), groups[0]) == {}
        assert await placed(bus, topics.coordinator, groups[1]) == {}

        for name in ("c1", "first-1"):
            place.again(name)
        await asyncio.to_thread(place.wait_ready)
        await work(client, ["after"])
        await until(lambda: len(seen.ends()) == RUNS + 1)
        assert set(seen.results().values()) == {1}
        repeated = [e for e in seen.events if e.type is EventType.RUN_REPEATED]
        assert not repeated, "the coordinator has read its topic from the beginning"
    bodies = [line[0] for line in witnessed(place.folder / "steps.witness")]
    assert len(bodies) == len(set(bodies)) == RUNS + 1, "the agent has worked tasks again"


async def test_a_log_that_begins_above_the_place_of_an_agent_stops_it_and_skips_nothing(
    place: Deployment,
) -> None:
    topics = Topics(place.namespace)
    place.coordinator("c1")
    place.agent("first")
    await asyncio.to_thread(place.wait_ready)
    async with (
        observing(place) as seen,
        Client(url=place.bus, namespace=place.namespace) as client,
        connected(place) as bus,
    ):
        await work(client, ALL)
        await asyncio.to_thread(place.stop, "first-1")
        done = len(witnessed(place.folder / "steps.witness"))
        for n in range(RUNS):
            await client.submit("first.begin", {"text": "y"}, run_id=f"unread-{n}")
        await until(lambda: len(seen.dispatched()) == 2 * RUNS, "all of them are handed on")
        tasks = topics.tasks("first")
        stood = await placed(bus, tasks, topics.group("first"))
        await bus.purge(await bus.end_offsets(stood.keys()))
    agent = place.again("first-1")
    await until(lambda: agent.process.poll() is not None, "it works on behind the gap", 30)
    assert agent.process.returncode != 0
    told = place.text("first-1")
    assert "were deleted before they were consumed" in told
    assert tasks in told
    assert len(witnessed(place.folder / "steps.witness")) == done, "what is behind it was worked"
