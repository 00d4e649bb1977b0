"""A namespace on the simulated bus, agents that have published themselves, and a coordinator that
answers as it is told: what a client sees of the world, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from pydantic import BaseModel

from holdfast.bus.partition import partition_for
from holdfast.bus.port import Environment, Record
from holdfast.bus.registry import BusRegistry
from holdfast.bus.topics import Topics
from holdfast.client import Client, ClientSettings
from holdfast.schemas import (
    Cause,
    Command,
    CoordinatorEnvelope,
    Event,
    EventType,
    Failure,
    Manifest,
    Payload,
    RetryPolicy,
    RunRow,
    RunState,
    Submission,
    TaskManifest,
    TaskRow,
    TaskState,
    decode,
    derive,
    encode,
    encode_json,
)
from tests.doubles.sim_place import SimPlace
from tests.waiting import until

PARTITIONS = 4
TOPICS = Topics("test")
SETTINGS = ClientSettings(bus="sqlite:///unused.db", namespace="test")
ENDS = {
    RunState.SUCCEEDED: EventType.RUN_SUCCEEDED,
    RunState.FAILED: EventType.RUN_FAILED,
    RunState.CANCELLED: EventType.RUN_CANCELLED,
}


class Person(BaseModel):
    name: str


class Greeting(BaseModel):
    text: str


class World:
    """The bus, and what a coordinator and agents write to it."""

    def __init__(self) -> None:
        self.place = SimPlace()
        self.bus = self.place.bus()
        self.environment = Environment(self.bus)
        self.ids: dict[str, int] = {}
        self.taken = [0] * PARTITIONS

    async def create(self) -> None:
        await self.bus.create_topics(TOPICS.coordinator_specs(PARTITIONS))

    async def register(self, subject: str, kind: type) -> int:
        registry = BusRegistry(self.environment, TOPICS)
        await registry.start()
        try:
            self.ids[subject] = await registry.register(subject, derive(kind))
        finally:
            await registry.close()
        return self.ids[subject]

    async def publish_agent(self, agent: str, tasks: dict[str, tuple[int, int]]) -> None:
        made = [TaskManifest(n, i, o, RetryPolicy(), None, None, "") for n, (i, o) in tasks.items()]
        manifest = Manifest(agent, "one", "p", "1", "b", made, 4, 1_000, 1_000)
        await self.bus.publish(
            [Record(TOPICS.agents, f"{agent}/one".encode(), encode(manifest), (), 0)]
        )

    @staticmethod
    def partition(run_id: str) -> int:
        return partition_for(run_id.encode(), PARTITIONS)

    def asked(self) -> list[tuple[Cause, str, CoordinatorEnvelope]]:
        """Everything on `coordinator`: (place, key, envelope)."""
        return [
            (
                Cause(r.partition, r.offset),
                (r.key or b"").decode(),
                decode(CoordinatorEnvelope, r.value),
            )
            for n in range(PARTITIONS)
            for r in self.place.records(TOPICS.coordinator, n)
            if r.value is not None
        ]

    async def next_submission(self) -> tuple[Cause, str, CoordinatorEnvelope]:
        """Wait for a submission that was not taken before."""

        def new() -> list[tuple[Cause, str, CoordinatorEnvelope]]:
            return [a for a in self.asked() if a[0].offset >= self.taken[a[0].partition]]

        await until(lambda: bool(new()), "something is submitted")
        found = new()[0]
        self.taken[found[0].partition] = found[0].offset + 1
        return found

    async def say(
        self,
        run_id: str,
        kind: EventType,
        *,
        cause: Cause | None = None,
        key: str | None = None,
        run: RunRow | None = None,
        task: TaskRow | None = None,
        message: str = "",
        command: Command | None = None,
        events_from: int | None = None,
        plan: str | None = None,
    ) -> None:
        event = Event(run_id, kind, 1, cause, run, task, message, plan, command, events_from)
        partition = partition_for((key or run_id).encode(), PARTITIONS)
        await self.bus.publish([Record(TOPICS.events, None, encode(event), (), partition)])

    async def start(self, asked: tuple[Cause, str, CoordinatorEnvelope]) -> None:
        cause, key, envelope = asked
        body = envelope.body
        assert isinstance(body, Submission)
        row = run_row(envelope.run_id, RunState.RUNNING, submission=body)
        await self.say(
            envelope.run_id,
            EventType.RUN_STARTED,
            cause=cause,
            key=key,
            run=row,
            plan=body.plan,
        )

    async def end(
        self,
        run_id: str,
        state: RunState = RunState.SUCCEEDED,
        output: Payload = None,
        failure: Failure | None = None,
        key: str | None = None,
    ) -> None:
        row = run_row(run_id, state, output=output, failure=failure)
        submissions = (e.body for _, _, e in self.asked() if e.run_id == run_id)
        first = next((body for body in submissions if isinstance(body, Submission)), None)
        row.input_hash = "00" if first is None else first.input_hash
        await self.say(run_id, ENDS[state], key=key, run=row)


def run_row(
    run_id: str,
    state: RunState,
    *,
    submission: Submission | None = None,
    output: Payload = None,
    failure: Failure | None = None,
) -> RunRow:
    return RunRow(
        run_id=run_id,
        version=1 if state is RunState.RUNNING else 2,
        plan_name="greeter-greet",
        state=state,
        input=encode_json({}) if submission is None else submission.input,
        output=output,
        failure=failure,
        order_key=None if submission is None else submission.order_key,
        origin=run_id if submission is None else submission.origin,
        submitted_by="tests",
        input_hash="00" if submission is None else submission.input_hash,
        created_ms=1,
        deadline_ms=None,
        finished_ms=2 if state in ENDS else None,
    )


def task_row(task_id: str, state: TaskState, output: Payload = None) -> TaskRow:
    return TaskRow(
        task_id, "greeter", "greet", state, 1, None, output, None, [], 0, "", None, 1, 1, 1, None
    )


@pytest.fixture
async def world() -> World:
    world = World()
    await world.create()
    return world


@pytest.fixture
async def greeter(world: World) -> World:
    ids = (await world.register("greeter.greet.input", Person), await world.register("o", Greeting))
    await world.publish_agent("greeter", {"greet": ids})
    return world


@pytest.fixture
async def client(world: World) -> AsyncIterator[Client]:
    async with Client(settings=SETTINGS, environment=world.environment) as client:
        yield client
