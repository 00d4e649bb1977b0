"""Agents for tests, and what they did."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

from pydantic import BaseModel

from holdfast.agents import Agent, Context
from holdfast.schemas.records import (
    ControlAction,
)
from tests.unit.agents.virtual import run_virtual

CANCEL, RELEASE = ControlAction.CANCEL, ControlAction.RELEASE


class Number(BaseModel):
    n: int = 0


class Text(BaseModel):
    text: str


class World:
    """What handlers of one test did, and what holds them up."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.gate = asyncio.Event()
        self.crash: Callable[[], None] | None = None


def worker(world: World, **task_options: Any) -> Agent:
    agent = Agent("worker", concurrency=4)

    async def add(a: int, b: int) -> int:
        world.seen.append(("body", a, b))
        return a + b

    @agent.task(**task_options)
    async def plain(ctx: Context, number: Number) -> Number:
        world.seen.append(("plain", ctx.task_id, ctx.attempt))
        return Number(n=number.n + 1)

    @agent.task(**task_options)
    async def waits(ctx: Context, number: Number) -> Number:
        world.seen.append(("waits", ctx.task_id, ctx.attempt))
        await world.gate.wait()
        return number

    @agent.task(**task_options)
    async def steps(ctx: Context, number: Number) -> Number:
        one = await ctx.step("one", add, number.n, 1)
        two = await ctx.step("two", add, one, 1)
        return Number(n=await ctx.step("three", add, two, 1))

    @agent.task(**task_options)
    async def fails(ctx: Context, number: Number) -> Number:
        await ctx.step("kept", add, 1, 1)
        if ctx.attempt == 1:
            raise ValueError("no luck")
        return number

    return agent


def check(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a coroutine a test that runs under the virtual clock; it may ask for fixtures."""

    @functools.wraps(test)
    def run(*arguments: Any, **fixtures: Any) -> None:
        run_virtual(lambda: test(*arguments, **fixtures))

    return run


def killer(world: World) -> Agent:
    agent = Agent("worker", concurrency=4)

    @agent.task
    async def kill(ctx: Context) -> None:
        world.seen.append("kill")
        assert world.crash is not None
        world.crash()

    @agent.task
    async def neighbour(ctx: Context) -> None:
        world.seen.append("neighbour")
        await asyncio.sleep(60)

    return agent
