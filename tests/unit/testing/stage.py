"""A real deployment in one process, and what it did: the history that every check must pass."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel

from holdfast.agents import Agent, AgentRuntime, AgentSettings, Context, Retry
from holdfast.bus.embedded import EmbeddedBus, EmbeddedSettings
from holdfast.bus.port import Bus, Environment, Record
from holdfast.client import Client
from holdfast.client.settings import ClientSettings
from holdfast.coordinator import CoordinatorRuntime, ProcessSettings
from holdfast.schemas import Plan
from holdfast.testing import (
    BodyEnd,
    BodyStart,
    EffectSeen,
    Evidence,
    PoisonSent,
    Quiet,
    Recorder,
    Submission,
)

NAMESPACE = "inv"
PARTITIONS = 3


class Word(BaseModel):
    text: str
    fails: int = 0


class Words(BaseModel):
    words: list[Word]


@dataclass
class Outside:
    """What the bodies say of themselves, and a ledger that honours idempotency keys."""

    evidence: Evidence = field(default_factory=Evidence)
    applied: set[str] = field(default_factory=set)
    process: str = "p1"

    def start(self, ctx: Context, step: str | None = None, key: str = "") -> None:
        self.evidence.add(BodyStart(*self._body(ctx, step, key)))

    def end(self, ctx: Context, step: str | None = None, key: str = "") -> None:
        self.evidence.add(BodyEnd(*self._body(ctx, step, key)))

    def _body(
        self, ctx: Context, step: str | None, key: str
    ) -> tuple[str, str, int, str | None, str, str, str, int]:
        now_ms = time.time_ns() // 1_000_000
        return (ctx.run_id, ctx.task_id, ctx.attempt, step, key, "w1", self.process, now_ms)

    async def pay(self, text: str, *, idempotency_key: str) -> str:
        known = idempotency_key in self.applied
        self.applied.add(idempotency_key)
        self.evidence.add(EffectSeen(idempotency_key, "repeated" if known else "applied"))
        return text


def workers(outside: Outside) -> list[Agent]:
    first, second = Agent("first", concurrency=4), Agent("second", concurrency=4)
    retry = Retry(attempts=3, initial_s=0.02, max_s=0.05)

    async def work(ctx: Context, word: Word) -> Word:
        outside.start(ctx)

        async def body(text: str) -> str:
            outside.start(ctx, "say")
            await asyncio.sleep(0.002)
            outside.end(ctx, "say")
            return text + "!"

        text = await ctx.step("say", body, word.text)
        if word.fails >= ctx.attempt:
            outside.end(ctx)
            raise ValueError("not yet")
        await ctx.effect("pay", outside.pay, text, idempotent=True)
        outside.end(ctx)
        return Word(text=text)

    first.task(name="work", retry=retry)(work)
    second.task(name="work", retry=retry)(work)

    @second.task(name="slow")
    async def slow(ctx: Context, word: Word) -> Word:
        outside.start(ctx)
        await asyncio.sleep(30)
        return word

    @second.task(name="join")
    async def join(ctx: Context, given: Words) -> Word:
        outside.start(ctx)
        return Word(text="+".join(word.text for word in given.words))

    return [first, second]


def chain(fails: int = 0, order_key: str | None = None, **options: str) -> Plan:
    plan = Plan("chain", order_key=order_key, **options)  # type: ignore[arg-type]
    one = plan.task("one", "first.work", text=plan.input("text"), fails=fails)
    plan.task("two", "second.work", text=one["text"])
    return plan


def mapped() -> Plan:
    plan = Plan("mapped")
    items = [{"text": letter, "fails": int(letter == "b")} for letter in "abcdefg"]
    each = plan.map("each", "first.work", over=items, max_parallel=3)
    plan.task("all", "second.join", words=each)
    return plan


def slow() -> Plan:
    plan = Plan("slow")
    plan.task("one", "second.slow", text="a")
    return plan


@dataclass
class Stage:
    """Services that run, with a recorder beside them."""

    bus: Bus
    client: Client
    recorder: Recorder
    outside: Outside
    agents: list[AgentRuntime]
    coordinators: list[CoordinatorRuntime]

    async def submit(self, run_id: str, plan: Plan, text: str = "a", times: int = 1) -> None:
        evidence = self.outside.evidence
        for _ in range(times):
            await self.client.submit(plan, {"text": text}, run_id=run_id)
            evidence.add(Submission(run_id, True, plan.name))

    async def poison(self, agent: str, value: bytes) -> None:
        """Publish a record that nobody can read."""
        topic = f"{NAMESPACE}.tasks.{agent}"
        (at,) = await self.bus.publish([Record(topic, value[:4], value)])
        sha256 = hashlib.sha256(value).hexdigest()
        self.outside.evidence.add(PoisonSent("bytes", sha256, *at))

    async def restart_agents(self) -> None:
        """Kill both agents, and start them again."""
        made = []
        for number, runtime in enumerate(self.agents):
            await runtime.kill()
            self.outside.process = f"p{number + 2}"
            agent = runtime._agent
            fresh = AgentRuntime(
                Environment(self.bus),
                agent,
                AgentSettings(f"{agent.name}-1", PARTITIONS, NAMESPACE),
            )
            await fresh.start()
            made.append(fresh)
        self.agents[:] = made

    def quiet(self) -> None:
        self.outside.evidence.add(Quiet(time.time_ns() // 1_000_000))


@asynccontextmanager
async def deployment(folder: Path) -> AsyncIterator[Stage]:
    bus = EmbeddedBus(EmbeddedSettings(folder / "bus.db"))
    await bus.start()
    environment = Environment(bus)
    outside = Outside()
    coordinator = CoordinatorRuntime(environment, ProcessSettings("c1", PARTITIONS, NAMESPACE))
    agents = [
        AgentRuntime(
            Environment(bus), agent, AgentSettings(f"{agent.name}-1", PARTITIONS, NAMESPACE)
        )
        for agent in workers(outside)
    ]
    settings = ClientSettings(bus=bus.url, namespace=NAMESPACE)
    try:
        async with Recorder(bus, NAMESPACE) as recorder:
            await coordinator.start()
            for agent in agents:
                await agent.start()
            async with Client(settings=settings, environment=environment) as client:
                stage = Stage(bus, client, recorder, outside, agents, [coordinator])
                yield stage
                agents = stage.agents
    finally:
        for agent in agents:
            await agent.kill()
        await coordinator.kill()
        await bus.close()
