"""A namespace on the simulated bus, and events as a coordinator would write them."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from holdfast.bus.port import Environment, Position, Record
from holdfast.bus.topics import Topics
from holdfast.coordinator.projection import Projection
from holdfast.schemas import (
    Ask,
    AskEntry,
    AskRow,
    CallAsk,
    Cause,
    CoordinatorJournal,
    Event,
    EventType,
    Failure,
    FailureKind,
    Manifest,
    RetryPolicy,
    RunAsk,
    RunEntry,
    RunRow,
    RunState,
    Signal,
    SignalAsk,
    SignalEntry,
    SleepAsk,
    TaskManifest,
    TaskRow,
    TaskState,
    encode,
    encode_json,
)
from holdfast.schemas.records import AskBody
from tests.doubles.sim_place import SimPlace

PARTITIONS = 2
TOPICS = Topics("test")


def run_row(run_id: str, version: int, state: RunState = RunState.RUNNING) -> RunRow:
    return RunRow(
        run_id=run_id,
        version=version,
        plan_name="audit",
        state=state,
        input=encode_json({"folder": "."}),
        output=encode_json("done") if state is RunState.SUCCEEDED else None,
        failure=None,
        order_key=None,
        origin=run_id,
        submitted_by="tests",
        input_hash="00",
        created_ms=1_000,
        deadline_ms=None,
        finished_ms=2_000 if state in (RunState.SUCCEEDED, RunState.FAILED) else None,
    )


def task_row(task_id: str, version: int, state: TaskState, attempt: int = 1) -> TaskRow:
    failed = state in (TaskState.DEAD, TaskState.RETRYING)
    return TaskRow(
        task_id=task_id,
        agent="scout",
        task="list",
        state=state,
        attempt=attempt,
        input=encode_json({}),
        output=None,
        failure=Failure(FailureKind.ERROR, "OSError", "no disk", "", True) if failed else None,
        steps=[],
        resumes=0,
        instance="",
        order_key=None,
        dispatched_ms=1_500,
        started_ms=None,
        finished_ms=None,
        retry_ms=5_000 if state is TaskState.RETRYING else None,
        version=version,
    )


def ask_entry(
    what: AskBody,
    until_ms: int | None = 9_000,
    task_id: str = "a",
    name: str = "it",
    child: str | None = None,
) -> AskEntry:
    return AskEntry(Ask(task_id, 1, name, "", what), 2_000, child, child, until_ms)


SLEEP = ask_entry(SleepAsk(7_000), name="nap")
VERDICT = ask_entry(SignalAsk("verdict", 1_007, 7_000), name="verdict")
CALL = ask_entry(CallAsk("reviewer", "review", None), None, name="call", child="~00ab")
CHILD = ask_entry(RunAsk('{"name":"small"}', None, None, False), None, name="run", child="r1.00cd")


def word(signal_id: str, signal: str = "verdict") -> Signal:
    return Signal(signal_id, signal, encode_json({"grade": 1}), "ann")


def manifest(agent: str, instance: str, seen_ms: int = 1_000) -> Manifest:
    task = TaskManifest("list", 1_000, 1_001, RetryPolicy(), None, None, "")
    return Manifest(agent, instance, "p", "1", "b", [task], 4, 1_000, seen_ms)


class World:
    """The bus, and what others write to it."""

    def __init__(self) -> None:
        self.place = SimPlace()
        self.bus = self.place.bus()
        self._causes = itertools.count()

    async def create(self) -> None:
        await self.bus.create_topics(TOPICS.coordinator_specs(PARTITIONS))

    async def event(
        self,
        type: EventType,  # noqa: A002
        run: RunRow | None = None,
        task: TaskRow | None = None,
        *,
        run_id: str = "r1",
        partition: int = 0,
        plan: str | None = None,
        ask: AskRow | None = None,
        signal: Signal | None = None,
        message: str = "",
        at_ms: int = 1_000,
    ) -> Position:
        """Append one event; return the place of the record that caused it."""
        cause = Cause(partition, next(self._causes))
        event = Event(run_id, type, at_ms, cause, run, task, message, plan)
        event.ask, event.signal = ask, signal
        await self.bus.publish([Record(TOPICS.events, None, encode(event), (), partition)])
        return Position(TOPICS.coordinator, cause.partition, cause.offset)

    async def put(self, topic: str, key: str, value: bytes | None) -> None:
        await self.bus.publish([Record(topic, key.encode(), value, (), 0)])

    async def journal(self, row: RunRow, plan: str = "{}") -> None:
        entry = RunEntry(row, plan, row.run_id, 0, {}, None)
        value = encode(CoordinatorJournal(entry))
        await self.put(TOPICS.journal("coordinator"), f"run/{row.run_id}", value)

    async def journal_part(self, name: str, body: AskEntry | SignalEntry | None) -> None:
        value = None if body is None else encode(CoordinatorJournal(body))
        await self.put(TOPICS.journal("coordinator"), f"run/r1/{name}", value)


@pytest.fixture
async def world() -> World:
    world = World()
    await world.create()
    return world


OpenProjection = Callable[[], "Projection"]


@pytest.fixture
async def opened(world: World, tmp_path: Path) -> AsyncIterator[OpenProjection]:
    """Makes projections into one and the same database file."""
    made: list[Projection] = []

    def make() -> Projection:
        url = f"sqlite:///{tmp_path / 'deep' / 'read.db'}"
        made.append(Projection(Environment(world.bus), TOPICS, url))
        return made[-1]

    yield make
    for projection in made:
        await projection.close()
