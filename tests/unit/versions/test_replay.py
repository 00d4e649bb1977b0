"""Journals replayed against code: what fits, what does not, and that nothing is run or written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from holdfast.agents import Agent, Context
from holdfast.agents.replay import Fit, Replayed, Replayer, TaskJournal, TaskStanding, read_journals
from holdfast.agents.runtime import AgentRuntime, AgentSettings
from holdfast.bus.blobs import ClaimCheck, open_blob_store
from holdfast.bus.port import Bus, Environment, Record, TopicPartition
from holdfast.bus.registry import BusRegistry
from holdfast.bus.topics import Topics
from holdfast.schemas import encode
from holdfast.schemas.records import (
    Accepted,
    AgentJournal,
    Failed,
    StepEntry,
    StepKind,
    TaskEnvelope,
)
from tests.frozen.make import quiet_bus

RAN: list[str] = []
Body = Callable[[Context], Any]
NAMES = Topics("ns")


class Order(BaseModel):
    text: str = ""


def said(text: str) -> str:
    RAN.append(text)
    return text


def shop(body: Body, version: str = "2") -> Agent:
    agent = Agent("shop", version=version)

    @agent.task(name="sell")
    async def sell(ctx: Context, order: Order) -> Order:
        return Order(text=str(await body(ctx)))

    return agent


async def two_steps(ctx: Context) -> str:
    await ctx.step("one", said, "1")
    return str(await ctx.step("two", said, "2"))


async def journaled(tmp_path: Path, body: Body) -> tuple[Bus, list[TaskJournal]]:
    """A bus with the journal of one task that `body` worked up to its third step, which hangs."""
    bus = quiet_bus(tmp_path)
    await bus.start()
    environment = Environment(bus)
    hangs = asyncio.Event()

    async def held(ctx: Context) -> str:
        await body(ctx)
        hangs.set()
        await asyncio.Event().wait()
        return ""

    agent = shop(held, "1")
    runtime = AgentRuntime(environment, agent, AgentSettings("shop-1", 1, "ns"))
    await runtime.start()
    serving = asyncio.create_task(runtime.run())
    registry = BusRegistry(environment, NAMES)
    await registry.start()
    versions = await registry.versions("shop.sell.input")
    await registry.close()
    data = _input(versions[-1].schema_id)
    envelope = TaskEnvelope("r", "t", "sell", 1, data, "r", "r", 0)
    await bus.publish([Record(NAMES.tasks("shop"), b"t:r/t", encode(envelope))])
    await asyncio.wait_for(hangs.wait(), 120)
    await asyncio.sleep(0.2)
    await runtime.kill()
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    RAN.clear()
    return bus, await read_journals(bus, NAMES.journal("shop"))


def _input(schema_id: int) -> bytes:
    from holdfast.schemas import PayloadCodec

    return PayloadCodec(Order).encode(Order(text="x"), schema_id)


async def replayed(bus: Bus, journals: list[TaskJournal], body: Body) -> Replayed:
    environment = Environment(bus)
    registry = BusRegistry(environment, NAMES)
    await registry.start()
    try:
        blobs = ClaimCheck(open_blob_store(None, environment))
        replayer = await Replayer.open(environment, shop(body), registry, blobs)
        return await replayer.replay(journals[0])
    finally:
        await registry.close()


async def ends(bus: Bus) -> dict[TopicPartition, int]:
    infos = await bus.describe_topics()
    places = [TopicPartition(n, p) for n, info in infos.items() for p in range(info.partitions)]
    return await bus.end_offsets(places)


async def one_more(ctx: Context) -> str:
    await two_steps(ctx)
    return str(await ctx.step("three", said, "3"))


async def one_less(ctx: Context) -> str:
    return str(await ctx.step("two", said, "2"))


async def one_before(ctx: Context) -> str:
    await ctx.step("zero", said, "0")
    return await two_steps(ctx)


async def patched_before(ctx: Context) -> str:
    if await ctx.patched("zero"):
        await ctx.step("zero", said, "0")
    return await two_steps(ctx)


async def other_arguments(ctx: Context) -> str:
    return str(await ctx.step("one", said, "eleven"))


async def raises(ctx: Context) -> str:
    await two_steps(ctx)
    raise ValueError("not like this")


async def side_by_side(ctx: Context) -> str:
    async def other() -> None:
        await ctx.step("new", said, "n")

    await asyncio.gather(other(), two_steps(ctx))
    return ""


async def catches_all(ctx: Context) -> str:
    try:
        await ctx.step("one", said, "eleven")
    except Exception:
        RAN.append("caught")
    return "done"


async def test_what_fits_and_what_does_not(tmp_path: Path) -> None:
    bus, journals = await journaled(tmp_path, two_steps)
    try:
        assert [(j.task, j.standing, len(j.steps)) for j in journals] == [
            ("r/t", TaskStanding.OPEN, 2)
        ]
        before = await ends(bus)
        expected = {
            two_steps: Fit.ENDED,
            one_more: Fit.SO_FAR,
            one_less: Fit.MISMATCH,
            one_before: Fit.MISMATCH,
            patched_before: Fit.ENDED,
            other_arguments: Fit.MISMATCH,
            raises: Fit.RAISED,
            side_by_side: Fit.SO_FAR,
            catches_all: Fit.MISMATCH,
        }
        found = {body: await replayed(bus, journals, body) for body in expected}
        assert {body: each.fit for body, each in found.items()} == expected
        assert found[one_less].build == "1"
        assert "- one  [step, attempt 1, build 1]  <- the first difference" in found[one_less].told
        assert "ctx.patched" in found[one_before].told
        assert "not like this" in found[raises].told
        assert RAN == ["caught"]
        assert await ends(bus) == before
    finally:
        await bus.close()


async def test_tasks_that_have_ended_are_read_until_compaction_removes_them(
    tmp_path: Path,
) -> None:
    bus = quiet_bus(tmp_path)
    await bus.start()
    try:
        await bus.create_topics(NAMES.agent_specs("shop", 1))
        await bus.publish([_journal("r/t", _accepted(1)), _journal("r/t/step/one/", _step(1))])
        await bus.publish([_journal("r/t", Failed(1, None, 0))])
        between = await read_journals(bus, NAMES.journal("shop"))
        assert [(j.standing, j.failed) for j in between] == [(TaskStanding.BETWEEN, True)]
        await bus.publish([_journal("r/t", _accepted(2, journal_from=2))])
        anew = await read_journals(bus, NAMES.journal("shop"))
        assert [(j.standing, j.failed, j.steps) for j in anew] == [(TaskStanding.OPEN, False, {})]
        await bus.publish([_journal("r/t/step/two/k", _step(2, "two", "k"))])
        await bus.publish([_journal("r/t", None), _journal("r/t/step/two/k", None)])
        ended = await read_journals(bus, NAMES.journal("shop"))
        assert [(j.standing, list(j.steps)) for j in ended] == [
            (TaskStanding.ENDED, [("two", "k")])
        ]
        assert ended[0].steps["two", "k"].build_id == "b"
        await bus.publish([Record(NAMES.journal("shop"), b"r/u", b"rubbish", partition=0)])
        broken = await read_journals(bus, NAMES.journal("shop"))
        assert [j.problem is not None for j in broken if j.task == "r/u"] == [True]
    finally:
        await bus.close()


def _accepted(attempt: int, journal_from: int = 0) -> Accepted:
    envelope = TaskEnvelope("r", "t", "sell", attempt, b"", "r", "r", 0, journal_from=journal_from)
    return Accepted(envelope, 0, 0, 0, 0, False, 0)


def _step(attempt: int, name: str = "one", key: str = "") -> StepEntry:
    return StepEntry(name, key, StepKind.STEP, attempt, "d", None, 0, 0)


def _journal(key: str, body: Any) -> Record:
    value = None if body is None else encode(AgentJournal(body, "b"))
    return Record(NAMES.journal("shop"), key.encode(), value, partition=0)
