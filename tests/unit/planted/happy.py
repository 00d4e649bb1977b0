"""The ordinary way through the whole system, in one process on a SQLite file: no faults at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from holdfast.agents import Agent, Context, Retry
from holdfast.agents.runtime import AgentRuntime, AgentSettings
from holdfast.bus.embedded import EmbeddedBus, EmbeddedSettings
from holdfast.bus.embedded.settings import Synchronous
from holdfast.bus.port import Environment
from holdfast.client import Client
from holdfast.client.settings import ClientSettings
from holdfast.coordinator import CoordinatorRuntime, ProcessSettings
from holdfast.schemas import Plan

NAMESPACE = "happy"
PARTITIONS = 2
RETRY = Retry(attempts=3, initial_s=0.01, max_s=0.01, jitter=0.0)


class Word(BaseModel):
    text: str = ""
    fails: int = 0


class Words(BaseModel):
    words: list[Word]


worker = Agent("worker", concurrency=8)


@worker.task(retry=RETRY)
async def say(ctx: Context, word: Word) -> Word:
    async def louder(text: str) -> str:
        return text.upper()

    async def post(text: str, *, idempotency_key: str) -> int:
        return len(text)

    text = await ctx.step("louder", louder, word.text)
    await ctx.effect("post", post, text, idempotent=True)
    if ctx.attempt <= word.fails:
        raise RuntimeError("it was told to")
    return Word(text=f"{text}!")


@worker.task
async def join(ctx: Context, words: Words) -> Word:
    return Word(text="+".join(word.text for word in words.words))


def chain() -> Plan:
    """Two tasks in a row."""
    plan = Plan("chain")
    one = plan.task("one", "worker.say", text="a")
    plan.task("two", "worker.say", text=one["text"])
    return plan


def retried() -> Plan:
    """A task that fails once."""
    plan = Plan("retried")
    plan.task("one", "worker.say", text="a", fails=1)
    return plan


def diamond() -> Plan:
    """Two branches and a join."""
    plan = Plan("diamond")
    top = plan.task("top", "worker.say", text="a")
    left = plan.task("left", "worker.say", text=top["text"])
    right = plan.task("right", "worker.say", text=top["text"])
    plan.task("bottom", "worker.join", words=[left, right])
    return plan


def mapped() -> Plan:
    """A map of more items than its window holds, and a join."""
    plan = Plan("mapped")
    items = [{"text": letter} for letter in "abcde"]
    each = plan.map("each", "worker.say", over=items, max_parallel=2)
    plan.task("all", "worker.join", words=each)
    return plan


def ordered() -> Plan:
    """As `chain`, with an order key over the whole plan."""
    plan = Plan("ordered", order_key="k")
    one = plan.task("one", "worker.say", text="a", order_key="k")
    plan.task("two", "worker.say", text=one["text"], order_key="k")
    return plan


PLANS = (chain, retried, diamond, mapped, ordered)
RESULTS: dict[str, Any] = {
    "chain": {"text": "A!!", "fails": 0},
    "retried": {"text": "A!", "fails": 0},
    "diamond": {"text": "A!!+A!!", "fails": 0},
    "mapped": {"text": "A!+B!+C!+D!+E!", "fails": 0},
    "ordered": {"text": "A!!", "fails": 0},
}


@asynccontextmanager
async def deployment(folder: Path) -> AsyncIterator[Client]:
    """A coordinator, an agent and a client on a bus of their own."""
    bus = EmbeddedBus(EmbeddedSettings(folder / "bus.db", synchronous=Synchronous.NORMAL))
    await bus.start()
    environment = Environment(bus)
    coordinator = CoordinatorRuntime(environment, ProcessSettings("c1", PARTITIONS, NAMESPACE))
    agent = AgentRuntime(environment, worker, AgentSettings("a1", PARTITIONS, NAMESPACE))
    settings = ClientSettings(bus=bus.url, namespace=NAMESPACE)
    try:
        await coordinator.start()
        await agent.start()
        async with Client(settings=settings, environment=environment) as client:
            yield client
    finally:
        await agent.kill()
        await coordinator.kill()
        await bus.close()


async def run_plans(folder: Path, timeout_s: float, *names: str) -> list[str]:
    """Run plans one beside the other; return what is not as it should be."""
    async with deployment(folder) as client:
        wanted = [make() for make in PLANS if not names or make.__name__ in names]

        async def run(plan: Plan) -> str:
            try:
                result = await (await client.submit(plan, {})).result(timeout_s=timeout_s)
            except Exception as error:
                return f"{plan.name}: {type(error).__name__}"
            return "" if result == RESULTS[plan.name] else f"{plan.name}: {result}"

        told = await asyncio.gather(*(run(plan) for plan in wanted))
    return [line for line in told if line]
