"""The agents of the torture's workload: chains, maps, retries, steps, effects and order keys.

    alpha    begins: chains, and the list that a map goes over
    beta     works: items of maps, links of chains; two processes
    gamma    ends: gathers

All pay into a ledger outside.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from pydantic import BaseModel

from holdfast.agents import Agent, Context, Retry
from tests.torture.ledger import Ledger

__all__ = ["alpha", "beta", "gamma"]

QUICK = Retry(attempts=20, initial_s=0.02, max_s=0.1)


class Word(BaseModel):
    text: str
    n: int = 0


class Items(BaseModel):
    items: list[int]
    text: str


class Item(BaseModel):
    n: int
    text: str


class Many(BaseModel):
    words: list[Word]


alpha = Agent("alpha", concurrency=16)
beta = Agent("beta", concurrency=16)
gamma = Agent("gamma", concurrency=16)


@alpha.task(retry=QUICK)
async def begin(ctx: Context, word: Word) -> Word:
    text = await ctx.step("say", say, word.text, "alpha")
    await ctx.effect("pay", pay, purpose(ctx), word.n, idempotent=True)
    return Word(text=text, n=word.n + 1)


@alpha.task(retry=QUICK)
async def spread(ctx: Context, word: Word) -> Items:
    width = await ctx.step("width", width_of, word.n)
    return Items(items=list(range(width)), text=word.text)


@alpha.task(retry=QUICK)
async def quick(ctx: Context, word: Word) -> Word:
    """Without a step: it is closed in the first commit after its start, and never accepted."""
    return Word(text=word.text, n=word.n + 1)


@beta.task(name="quick", retry=QUICK)
async def quick_beta(ctx: Context, word: Word) -> Word:
    return Word(text=word.text, n=word.n + 1)


@gamma.task(name="quick", retry=QUICK)
async def quick_gamma(ctx: Context, word: Word) -> Word:
    return Word(text=word.text, n=word.n + 1)


@alpha.task(retry=QUICK)
async def ordered(ctx: Context, word: Word) -> Word:
    return Word(text=word.text, n=await ctx.step("pass", passed, word.n))


@beta.task(retry=QUICK)
async def go_on(ctx: Context, word: Word) -> Word:
    text = await ctx.step("say", say, word.text, "beta")
    await ctx.effect("pay", pay, purpose(ctx), word.n, idempotent=True)
    return Word(text=text, n=word.n + 1)


@beta.task(retry=QUICK)
async def work(ctx: Context, item: Item) -> Word:
    total = 0
    for part in range(2):
        total += await ctx.step("part", times, item.n, part, key=str(part))
    return Word(text=item.text, n=total)


@beta.task(retry=QUICK)
async def stumble(ctx: Context, word: Word) -> Word:
    text = await ctx.step("say", say, word.text, "beta")
    if ctx.attempt <= word.n % 3:
        raise ValueError(f"attempt {ctx.attempt} of {word.n % 3 + 1} fails")
    return Word(text=text, n=word.n + 1)


@beta.task(name="ordered", retry=QUICK)
async def ordered_beta(ctx: Context, word: Word) -> Word:
    if word.n % 5 == 3 and ctx.attempt == 1:
        raise ValueError("the first attempt of every fifth fails")
    return Word(text=word.text, n=await ctx.step("pass", passed, word.n))


@gamma.task(retry=QUICK)
async def end(ctx: Context, word: Word) -> Word:
    receipt = await ctx.effect("pay", pay, purpose(ctx), word.n, idempotent=True)
    return Word(text=f"{word.text} {receipt}", n=word.n + 1)


@gamma.task(retry=QUICK)
async def gather(ctx: Context, many: Many) -> Word:
    total = sum(word.n for word in many.words)
    await ctx.effect("pay", pay, purpose(ctx), total, idempotent=True, key="total")
    return Word(text=many.words[0].text if many.words else "", n=total)


@gamma.task(name="ordered", retry=QUICK)
async def ordered_gamma(ctx: Context, word: Word) -> Word:
    return Word(text=word.text, n=await ctx.step("pass", passed, word.n))


async def say(text: str, who: str) -> str:
    await asyncio.sleep(0.002)
    return f"{text} {who}"


async def width_of(n: int) -> int:
    return 3 + n % 6


async def passed(n: int) -> int:
    await asyncio.sleep(0.001)
    return n


async def times(n: int, part: int) -> int:
    await asyncio.sleep(0.002)
    return n * part


def purpose(ctx: Context) -> str:
    """What a task pays for: each pays once."""
    return f"{ctx.run_id}/{ctx.task_id}"


def pay(purpose: str, amount: int, *, idempotency_key: str) -> str:
    """Pay into the ledger; the same key pays once, and gives the same receipt."""
    folder = Path(os.environ["HOLDFAST_TORTURE_FOLDER"])
    return Ledger(folder).pay(idempotency_key, purpose, amount)
