"""The agents that are measured: short handlers, 200-byte payloads."""

from __future__ import annotations

import asyncio
import os

from pydantic import BaseModel

from holdfast.agents import Agent, Context


class Payload(BaseModel):
    text: str


class Batch(BaseModel):
    count: int
    text: str


class Count(BaseModel):
    count: int


class Items(BaseModel):
    items: list[Payload]


bench = Agent("bench", concurrency=64)


@bench.task
async def one(ctx: Context, payload: Payload) -> Payload:
    return payload


@bench.task
async def two(ctx: Context, payload: Payload) -> Payload:
    return payload


@bench.task
async def three(ctx: Context, payload: Payload) -> Payload:
    return payload


@bench.task
async def stepped(ctx: Context, payload: Payload) -> Payload:
    for number in range(3):
        await ctx.step(f"step-{number}", echo, payload.text)
    return payload


async def echo(text: str) -> str:
    return text


@bench.task(timeout_s=600)
async def listed(ctx: Context, batch: Batch) -> Items:
    return Items(items=[Payload(text=batch.text)] * batch.count)


@bench.task(timeout_s=600)
async def counted(ctx: Context, items: Items) -> Count:
    return Count(count=len(items.items))


class Work(BaseModel):
    steps: int
    text: str


keeper = Agent("keeper", concurrency=int(os.environ.get("HOLDFAST_BENCH_PLACES", "64")))


@keeper.task(timeout_s=3_600)
async def keep(ctx: Context, work: Work) -> Count:
    """All steps but the last ones; of those one in each life of the process after the first."""
    for number in range(work.steps):
        await ctx.step("part", echo, work.text, key=str(number))
    for life in range(LIFE):
        await ctx.step("last", echo, work.text, key=str(life))
    await asyncio.Event().wait()
    return Count(count=work.steps)


LIFE = int(os.environ.get("HOLDFAST_BENCH_LIFE", "0"))


class Nap(BaseModel):
    seconds: float


sleeper = Agent("sleeper", concurrency=64)


@sleeper.task
async def nap(ctx: Context, nap: Nap) -> Nap:
    await ctx.sleep("nap", nap.seconds)
    return nap
