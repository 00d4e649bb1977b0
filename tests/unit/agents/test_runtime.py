"""A whole agent service over the simulated bus: topics, schemas, manifest, slots, stop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import BaseModel

from holdfast.agents import (
    Agent,
    AgentRuntime,
    AgentSettings,
    Context,
    DefinitionError,
    SyncContext,
)
from holdfast.agents.payloads import NoInput
from holdfast.bus.errors import TopicMismatch
from holdfast.bus.port import Environment, Received, Record
from holdfast.bus.registry import BusRegistry
from holdfast.bus.topics import Topics
from holdfast.schemas import IncompatibleSchema, Manifest, PayloadCodec, decode, encode
from holdfast.schemas.records import (
    ControlAction,
    ControlEnvelope,
    CoordinatorEnvelope,
    Outcome,
    TaskEnvelope,
    TaskResult,
)
from tests.doubles.sim_place import SimPlace

TOPICS = Topics("holdfast")


class Name(BaseModel):
    name: str


class Greeting(BaseModel):
    text: str
    thread: str = ""


def greeter() -> Agent:
    agent = Agent("greeter", concurrency=2, version="1.2")

    async def shout(text: str) -> str:
        return text.upper()

    @agent.task(timeout_s=60)
    async def greet(ctx: Context, who: Name) -> Greeting:
        """Say hello."""
        return Greeting(text=await ctx.step("shout", shout, f"hello {who.name}"))

    @agent.task
    def greet_sync(ctx: SyncContext, who: Name) -> Greeting:
        here = threading.current_thread().name
        loud = ctx.step("shout", shout, f"hello {who.name}")
        same = ctx.step("where", lambda: threading.current_thread().name)
        assert same == here
        ctx.progress("done", 1.0)
        return Greeting(text=loud, thread=here)

    @agent.task
    def hang(ctx: SyncContext) -> None:
        for turn in range(10_000):
            ctx.step("turn", lambda: None, key=str(turn))

    return agent


class Service:
    """An agent's service and what a coordinator would do with it."""

    def __init__(self, agent: Agent, place: SimPlace | None = None) -> None:
        self.place = place or SimPlace()
        self.environment = Environment(self.place.bus())
        self.agent = agent
        self.runtime = AgentRuntime(self.environment, agent, AgentSettings("greeter-1", 4))

    async def send(self, task: str, task_id: str, value: BaseModel | None = None) -> None:
        value = NoInput() if value is None else value
        codec: PayloadCodec[Any] = PayloadCodec(type(value))
        registry = BusRegistry(self.environment, TOPICS)
        await registry.start()
        schema_id = await registry.register(f"their {task} of {type(value).__name__}", codec.schema)
        await registry.close()
        payload = codec.encode(value, schema_id)
        envelope = TaskEnvelope("run", task_id, task, 1, payload, "run", "run", 0)
        record = Record(TOPICS.tasks("greeter"), f"t:run/{task_id}".encode(), encode(envelope))
        await self.environment.bus.publish([record])

    async def cancel(self, task_id: str) -> None:
        control = ControlEnvelope("run", task_id, 1, ControlAction.CANCEL, "enough", "run", 0)
        key = f"t:run/{task_id}".encode()
        await self.environment.bus.publish(
            [Record(TOPICS.control("greeter"), key, encode(control))]
        )

    async def all(self, topic: str, partitions: int = 4) -> list[Received]:
        found: list[Received] = []
        for partition in range(partitions):
            async for batch in self.environment.bus.read(topic, partition):
                found += batch
        return found

    async def results(self) -> dict[str, TaskResult]:
        bodies: list[Any] = [
            decode(CoordinatorEnvelope, r.value or b"").body
            for r in await self.all(TOPICS.coordinator)
        ]
        return {body.task_id: body for body in bodies if isinstance(body, TaskResult)}

    async def result(self, task_id: str) -> TaskResult:
        async with asyncio.timeout(20):
            while task_id not in (found := await self.results()):
                await asyncio.sleep(0.005)
        return found[task_id]

    async def decoded(self, result: TaskResult, kind: type[BaseModel]) -> Any:
        registry = BusRegistry(self.environment, TOPICS)
        await registry.start()
        assert isinstance(result.output, bytes)
        value = PayloadCodec(kind).decode(result.output, registry.known)
        await registry.close()
        return value


@asynccontextmanager
async def serving(agent: Agent, place: SimPlace | None = None) -> AsyncIterator[Service]:
    service = Service(agent, place)
    await service.runtime.start()
    try:
        yield service
    finally:
        await service.runtime.stop()


async def test_an_agent_serves_its_tasks_and_takes_its_manifest_back() -> None:
    async with serving(greeter()) as service:
        await service.send("greet", "a", Name(name="Ada"))
        result = await service.result("a")
        assert result.outcome is Outcome.SUCCEEDED, result.failure
        assert (await service.decoded(result, Greeting)).text == "HELLO ADA"
        assert [step.name for step in result.steps] == ["shout"]
        assert result.build_id.startswith("1.2+holdfast-")
        (record,) = await service.all(TOPICS.agents, 1)
        manifest = decode(Manifest, record.value or b"")
        assert record.key == b"greeter/greeter-1"
        assert {task.name for task in manifest.tasks} == {"greet", "greet_sync", "hang"}
        assert manifest.tasks[0].timeout_ms == 60_000
        assert manifest.tasks[0].description == "Say hello."
        assert manifest.concurrency == 2
    assert (await service.all(TOPICS.agents, 1))[-1].value is None


async def test_a_synchronous_handler_steps_in_its_own_thread() -> None:
    async with serving(greeter()) as service:
        await service.send("greet_sync", "a", Name(name="Ada"))
        result = await service.result("a")
        assert result.outcome is Outcome.SUCCEEDED, result.failure
        greeting = await service.decoded(result, Greeting)
        assert greeting.text == "HELLO ADA"
        assert greeting.thread.startswith("holdfast-greeter")


async def test_a_synchronous_handler_ends_at_its_next_call_when_cancelled() -> None:
    async with serving(greeter()) as service:
        await service.send("hang", "a")
        journal = TOPICS.journal("greeter")
        async with asyncio.timeout(20):
            while not any(b"/step/" in (r.key or b"") for r in await service.all(journal)):
                await asyncio.sleep(0.005)
        await service.cancel("a")
        assert (await service.result("a")).outcome is Outcome.CANCELLED
        async with asyncio.timeout(20):
            while service.runtime.places.taken:
                await asyncio.sleep(0.005)


async def test_a_topic_that_does_not_exist_fails_its_task_alone() -> None:
    agent = greeter()

    @agent.task
    async def tells(ctx: Context) -> None:
        ctx.publish("nowhere", key="k", value="v")

    async with serving(agent) as service:
        await service.send("tells", "a")
        failure = (await service.result("a")).failure
        assert failure is not None
        assert failure.error_class == "TopicMissing"
        assert "'nowhere'" in failure.message
        await service.send("greet", "b", Name(name="Ada"))
        assert (await service.result("b")).outcome is Outcome.SUCCEEDED


async def test_a_killed_service_goes_on_where_it_was() -> None:
    place = SimPlace()
    entered, gate = asyncio.Event(), asyncio.Event()
    bodies: list[str] = []

    def patient() -> Agent:
        agent = Agent("greeter")

        async def once() -> str:
            bodies.append("once")
            return "once"

        @agent.task
        async def wait(ctx: Context) -> Greeting:
            text = await ctx.step("once", once)
            entered.set()
            await gate.wait()
            return Greeting(text=text)

        return agent

    first = Service(patient(), place)
    await first.runtime.start()
    await first.send("wait", "a")
    async with asyncio.timeout(20):
        await entered.wait()
    await first.runtime.kill()
    gate.set()
    async with serving(patient(), place) as second:
        result = await second.result("a")
    assert result.outcome is Outcome.SUCCEEDED, result.failure
    assert result.resumes == 1
    assert bodies == ["once"]


async def test_a_schema_that_breaks_its_readers_is_refused_at_start() -> None:
    def agent_of(kind: type[BaseModel]) -> Agent:
        agent = Agent("greeter")

        async def greet(ctx: Context, who: Name) -> Greeting:
            return Greeting(text="")

        greet.__annotations__["who"] = kind
        agent.task(greet)
        return agent

    class Changed(BaseModel):
        name: str
        age: int

    Changed.__name__ = Changed.__qualname__ = "Name"
    place = SimPlace()
    async with serving(agent_of(Name), place):
        pass
    service = Service(agent_of(Changed), place)
    with pytest.raises(IncompatibleSchema, match="age"):
        await service.runtime.start()


async def test_topics_of_another_partition_count_stop_the_start() -> None:
    place = SimPlace()
    async with serving(greeter(), place):
        pass
    environment = Environment(place.bus())
    runtime = AgentRuntime(environment, greeter(), AgentSettings("greeter-1", 3))
    with pytest.raises(TopicMismatch):
        await runtime.start()


def test_an_agent_without_tasks_is_refused() -> None:
    environment = Environment(SimPlace().unconnected_bus())
    with pytest.raises(DefinitionError, match="no tasks"):
        AgentRuntime(environment, Agent("idle"), AgentSettings("i", 1))
