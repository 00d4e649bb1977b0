"""A whole coordinator process on the simulated bus: slots, directory, housekeeping, faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from holdfast.bus.errors import BusUnavailable
from holdfast.bus.port import Bus, Environment, Record, TopicPartition, TopicSpec
from holdfast.bus.topics import COORDINATOR_GROUP, Topics
from holdfast.coordinator import CoordinatorRuntime, ProcessSettings, run_coordinator
from holdfast.coordinator.directory import Directory
from holdfast.coordinator.housekeeping import Ends, Housekeeping
from holdfast.coordinator.settings import CoordinatorSettings
from holdfast.schemas.codec import decode, encode, encode_json
from holdfast.schemas.plan import Plan
from holdfast.schemas.records import (
    CoordinatorEnvelope,
    Event,
    Manifest,
    Outcome,
    RetryPolicy,
    Submission,
    TaskEnvelope,
    TaskManifest,
    TaskResult,
)
from tests.doubles.sim_place import LOST_ANSWERS, SimPlace
from tests.unit.coordinator.host import given, resolved
from tests.waiting import until

TOPICS = Topics("ns")
PARTITIONS = 3


def manifest(agent: str = "a", *tasks: str, instance: str = "one", seen_ms: int = 10**15) -> Record:
    offered = [TaskManifest(t, 20, 20, RetryPolicy(), None, None, "") for t in tasks or ("t",)]
    value = Manifest(agent, instance, "p", "1", "b", offered, 1, 1, seen_ms)
    return Record(TOPICS.agents, f"{agent}/{instance}".encode(), encode(value))


def chain() -> str:
    plan = Plan("chain")
    one = plan.task("one", "a.t", x=plan.input("x"))
    plan.task("two", "a.t", x=one["x"])
    return resolved(plan)


@dataclass
class World:
    """A broker, a client and an agent; coordinators come and go."""

    place: SimPlace = field(default_factory=SimPlace)
    runtimes: list[CoordinatorRuntime] = field(default_factory=list)
    workers: list[asyncio.Task[None]] = field(default_factory=list)
    buses: dict[str, Bus] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.bus = self.place.bus()
        self.environment = Environment(self.bus)

    async def start(self, instance: str = "c1") -> CoordinatorRuntime:
        environment = Environment(self.place.bus())
        self.buses[instance] = environment.bus
        runtime = CoordinatorRuntime(environment, ProcessSettings(instance, PARTITIONS, "ns"))
        await runtime.start()
        self.runtimes.append(runtime)
        return runtime

    async def crash(self, runtime: CoordinatorRuntime) -> None:
        """End a coordinator without a word; its session times out at once."""
        await self.buses["c1"].close()
        await runtime.kill()
        group = self.place.broker.group(TOPICS.group(COORDINATOR_GROUP))
        group.leave("c1", group.members["c1"].incarnation)

    async def agent(self) -> None:
        """Work all tasks of agent `a`: each gives back what it was given."""
        await self.bus.create_topics(TOPICS.agent_specs("a", PARTITIONS))
        await self.bus.publish([manifest()])
        starts = {TopicPartition(TOPICS.tasks("a"), n): 0 for n in range(PARTITIONS)}
        reader = await self.bus.open_reader(starts)
        self.workers.append(asyncio.create_task(self._work(reader.poll)))

    async def _work(self, poll: Callable[[float], Awaitable[list[object]]]) -> None:
        while True:
            for received in await poll(1.0):
                task = decode(TaskEnvelope, received.value)  # type: ignore[attr-defined]
                result = TaskResult(
                    task.task_id,
                    task.attempt,
                    Outcome.SUCCEEDED,
                    encode_json(given(task)),
                    None,
                    [],
                    0,
                    0,
                    0,
                    "a1",
                    "b",
                )
                envelope = CoordinatorEnvelope(task.run_id, 0, result)
                key = task.reply_key.encode()
                await self.bus.publish([Record(TOPICS.coordinator, key, encode(envelope))])

    async def submit(self, *run_ids: str, plan: str | None = None) -> None:
        records = []
        for run_id in run_ids:
            body = Submission(plan or chain(), encode_json({"x": run_id}), "h", run_id, "test")
            envelope = CoordinatorEnvelope(run_id, 0, body)
            records.append(Record(TOPICS.coordinator, run_id.encode(), encode(envelope)))
        await self.bus.publish(records)

    async def events(self) -> list[Event]:
        found = []
        for partition in range(PARTITIONS):
            async for batch in self.bus.read(TOPICS.events, partition):
                found += [decode(Event, received.value or b"") for received in batch]
        return found

    async def ended(self, count: int) -> list[Event]:
        """Return the last events of runs, once there are `count`."""
        ends: list[Event] = []
        for _ in range(2_000):
            ends = [
                e
                for e in await self.events()
                if e.type in ("run.succeeded", "run.failed", "run.refused")
            ]
            if len(ends) >= count:
                return ends
            await asyncio.sleep(0.002)
        raise AssertionError(f"{len(ends)} of {count} runs have ended")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await world.bus.create_topics(TOPICS.coordinator_specs(PARTITIONS))
    yield world
    for worker in world.workers:
        worker.cancel()
    await asyncio.gather(*world.workers, return_exceptions=True)
    for runtime in world.runtimes:
        await runtime.kill()


async def test_runs_go_through_a_coordinator_of_several_slots(world):
    await world.start()
    await world.agent()
    run_ids = [f"run-{number}" for number in range(30)]
    await world.submit(*run_ids)
    ends = await world.ended(30)
    assert {event.run_id for event in ends} == set(run_ids)
    assert {str(event.type) for event in ends} == {"run.succeeded"}


async def test_two_coordinators_share_the_runs_and_one_takes_over_from_the_other(world):
    first = await world.start("c1")
    await world.start("c2")
    await until(lambda: all(r.host.settled and r.host.running_slots for r in world.runtimes))
    await world.agent()
    await world.submit(*(f"a{n}" for n in range(20)))
    await world.ended(5)
    await world.crash(first)
    await world.submit(*(f"b{n}" for n in range(20)))
    ends = await world.ended(40)
    assert len({event.run_id for event in ends}) == 40
    assert {str(event.type) for event in ends} == {"run.succeeded"}


@pytest.mark.parametrize("fault", LOST_ANSWERS)
async def test_a_commit_whose_answer_is_lost_changes_nothing_for_the_runs(world, fault):
    await world.start()
    await world.agent()
    await world.submit("warm")
    await world.ended(1)
    world.place.faults.extend([fault] * 3)
    await world.submit(*(f"r{n}" for n in range(10)))
    ends = await world.ended(11)
    assert len({event.run_id for event in ends}) == 11
    accepted = [
        e.task.task_id + e.run_id for e in await world.events() if e.type == "task.succeeded"
    ]
    assert len(accepted) == len(set(accepted)) == 22


async def test_a_submission_for_an_agent_that_nobody_knows_is_refused(world):
    await world.start()
    await world.agent()
    plan = Plan("typo")
    plan.task("one", "aa.t")
    await world.submit("run-1", plan=resolved(plan))
    (event,) = await world.ended(1)
    assert event.type == "run.refused"
    assert "'aa'" in event.message
    assert "'a'" in event.message, "it says what may have been meant"


async def test_run_coordinator_ends_cleanly_when_it_is_told_to(world):
    stop = asyncio.Event()
    task = asyncio.create_task(
        run_coordinator(world.environment, ProcessSettings("c1", PARTITIONS, "ns"), stop)
    )
    await world.agent()
    await world.submit("run-1")
    await world.ended(1)
    stop.set()
    await asyncio.wait_for(task, 10)


# --- the directory -----------------------------------------------------------------------------


def plan_for(task: str) -> str:
    plan = Plan("p")
    plan.task("one", task)
    return resolved(plan)


@pytest.fixture
async def directory(world) -> AsyncIterator[Directory]:
    directory = Directory(world.environment, TOPICS)
    await directory.start()
    yield directory
    await directory.close()


async def test_the_directory_follows_manifests_and_names_what_may_have_been_meant(world, directory):
    assert "'reviewer' is known" in directory.problem(plan_for("reviewer.read"))
    await world.bus.publish([manifest("reviewer", "review")])
    await until(lambda: directory.problem(plan_for("reviewer.review")) is None)
    assert "did you mean 'review'" in directory.problem(plan_for("reviewer.revew"))
    assert "did you mean 'reviewer'" in directory.problem(plan_for("revewer.review"))


async def test_the_directory_outlives_whatever_fails_in_it(world, monkeypatch):
    from holdfast.coordinator import directory as module

    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    open_reader, faults = world.bus.open_reader, [RuntimeError("odd"), BusUnavailable("away")]

    async def failing(starts):
        if faults:
            raise faults.pop()
        return await open_reader(starts)

    monkeypatch.setattr(world.bus, "open_reader", failing)
    directory = Directory(world.environment, TOPICS)
    await directory.start()
    await world.bus.publish([manifest("reviewer", "review")])
    await until(lambda: directory.problem(plan_for("reviewer.review")) is None)
    await directory.close()


async def test_an_agent_that_took_its_manifest_back_stays_known(world, directory):
    await world.bus.publish([manifest("reviewer", "review")])
    await directory.refresh()
    await world.bus.publish([Record(TOPICS.agents, b"reviewer/one", None)])
    await directory.refresh()
    assert directory.problem(plan_for("reviewer.review")) is None


async def test_an_agent_with_topics_is_known_to_a_coordinator_that_never_saw_its_manifest(
    world, directory
):
    await world.bus.create_topics(TOPICS.agent_specs("reviewer", PARTITIONS))
    await directory.refresh()
    assert directory.problem(plan_for("reviewer.review")) is None


# --- housekeeping ------------------------------------------------------------------------------


async def test_consumed_records_are_purged_by_the_one_that_leads(world, directory):
    await world.start()
    await world.agent()
    await until(lambda: world.runtimes[0].leads())
    await world.submit(*(f"r{n}" for n in range(12)))
    await world.ended(12)
    leads = False
    keeping = Housekeeping(
        world.environment, TOPICS, CoordinatorSettings(), directory, lambda: leads
    )
    await directory.refresh()
    partitions = [TopicPartition(TOPICS.coordinator, n) for n in range(PARTITIONS)]
    group = TOPICS.group(COORDINATOR_GROUP)

    async def idle() -> bool:
        return sum((await world.bus.lag(group, [TOPICS.coordinator])).values()) == 0

    while not await idle():
        await asyncio.sleep(0.002)
    await keeping.tidy()
    assert set((await world.bus.begin_offsets(partitions)).values()) == {0}
    leads = True
    await keeping.tidy()
    begins = await world.bus.begin_offsets(partitions)
    assert begins == await world.bus.end_offsets(partitions)
    tasks = [TopicPartition(TOPICS.tasks("a"), n) for n in range(PARTITIONS)]
    assert set((await world.bus.begin_offsets(tasks)).values()) == {0}, "nobody consumed these"


async def test_what_an_agent_consumed_that_came_after_the_coordinator_is_purged(world, directory):
    await world.bus.create_topics(TOPICS.agent_specs("late", PARTITIONS))
    await world.bus.publish([manifest("late")])
    place = TopicPartition(TOPICS.tasks("late"), 1)
    await world.bus.publish([Record(place.topic, b"k", b"v", (), 1)] * 5)
    world.place.broker.group(TOPICS.group("late")).offsets[place] = 3
    keeping = Housekeeping(
        world.environment, TOPICS, CoordinatorSettings(), directory, lambda: True
    )
    await keeping.tidy()
    assert await world.bus.begin_offsets([place]) == {place: 3}


async def test_what_a_source_was_told_is_purged_and_its_topic_is_not(world, directory):
    await world.bus.create_topics([*TOPICS.source_specs("orders", 2), TopicSpec("orders.v1", 2)])
    places = [TopicPartition(TOPICS.control("source-orders"), 1), TopicPartition("orders.v1", 1)]
    for place in places:
        await world.bus.publish([Record(place.topic, b"k", b"v", (), 1)] * 5)
        world.place.broker.group(TOPICS.group("source-orders")).offsets[place] = 3
    keeping = Housekeeping(
        world.environment, TOPICS, CoordinatorSettings(), directory, lambda: True
    )
    await keeping.tidy()
    assert await world.bus.begin_offsets(places) == {places[0]: 3, places[1]: 0}


async def test_an_instance_whose_sign_of_life_was_not_read_yet_is_not_removed(world, directory):
    now_ms = world.environment.now_ms()
    await world.bus.publish([manifest("a", seen_ms=now_ms - 8 * 86_400_000)])
    await until(lambda: bool(directory.silent(now_ms)))
    directory._follower.cancel()
    await world.bus.publish([manifest("a", seen_ms=now_ms)])
    keeping = Housekeeping(
        world.environment, TOPICS, CoordinatorSettings(), directory, lambda: True
    )
    await keeping.tidy()
    newest = world.place.records(TOPICS.agents, 0)[-1]
    assert newest.value is not None


async def test_housekeeping_outlives_whatever_fails_in_it(world, directory, monkeypatch, caplog):
    from holdfast.coordinator import housekeeping

    monkeypatch.setattr(housekeeping, "ENDS_EVERY_S", 0.001)
    keeping = Housekeeping(
        world.environment, TOPICS, CoordinatorSettings(), directory, lambda: False
    )
    faults = [RuntimeError("odd"), BusUnavailable("away")]
    refresh, done = keeping.ends.refresh, 0

    async def failing() -> None:
        nonlocal done
        done += 1
        if done > 1 and faults:
            raise faults.pop()
        await refresh()

    monkeypatch.setattr(keeping.ends, "refresh", failing)
    await keeping.start()
    await until(lambda: done > 5)
    await keeping.close()
    assert "tried again" in caplog.text


async def test_manifests_of_instances_that_were_silent_too_long_are_removed(world, directory):
    now_ms = world.environment.now_ms()
    await world.bus.publish(
        [
            manifest("old", instance="x", seen_ms=now_ms - 8 * 86_400_000),
            manifest("young", instance="y", seen_ms=now_ms),
        ]
    )
    await directory.refresh()
    keeping = Housekeeping(
        world.environment, TOPICS, CoordinatorSettings(), directory, lambda: True
    )
    await keeping.tidy()
    await directory.refresh()
    assert directory.silent(now_ms + 1) == ["young/y"]
    assert directory.problem(plan_for("old.t")) is None, "it stays known"


async def test_the_end_of_the_events_is_a_lower_bound(world, directory):
    ends = Ends(world.environment, TOPICS.events)
    assert ends.lower_bound(1) == 0
    await world.bus.publish([Record(TOPICS.events, b"k", b"v", (), 1)] * 5)
    await ends.refresh()
    assert [ends.lower_bound(n) for n in range(PARTITIONS)] == [0, 5, 0]
