"""The agents of the acceptance tests. Each body that runs says so in a file outside."""

from __future__ import annotations

import asyncio
import json
import os
import time
import urllib.request
from pathlib import Path

from pydantic import BaseModel

from holdfast.agents import Agent, Context, Retry


def witness(name: str, *words: object) -> None:
    """Append one line to a file, whole, whoever else writes."""
    folder = Path(os.environ["HOLDFAST_TEST_FOLDER"])
    line = "\t".join(str(word) for word in (*words, os.getpid(), time.time_ns() // 1_000_000))
    descriptor = os.open(folder / f"{name}.witness", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, (line + "\n").encode())
    finally:
        os.close(descriptor)


async def passed(gate: str) -> None:
    """Return once a gate is open: a file of this name is there."""
    path = Path(os.environ["HOLDFAST_TEST_FOLDER"]) / gate
    while not path.exists():
        await asyncio.sleep(0.02)


async def hold_on(name: str, who: str) -> None:
    """Work until somebody ends it; say when it begins and when it ends."""
    witness(name, "start", who)
    try:
        await asyncio.sleep(3600)
    finally:
        witness(name, "end", who)


class Word(BaseModel):
    text: str
    n: int = 0


first = Agent("first", concurrency=8)
second = Agent("second", concurrency=8)
third = Agent("third", concurrency=8)


@first.task(retry=Retry(attempts=10, initial_s=0.05, max_s=0.2))
async def begin(ctx: Context, word: Word) -> Word:
    text = await ctx.step("say", say, "first", ctx.run_id, ctx.task_id, word.text)
    return Word(text=text, n=word.n + 1)


@second.task(retry=Retry(attempts=10, initial_s=0.05, max_s=0.2))
async def go_on(ctx: Context, word: Word) -> Word:
    text = await ctx.step("say", say, "second", ctx.run_id, ctx.task_id, word.text)
    return Word(text=text, n=word.n + 1)


@third.task(retry=Retry(attempts=10, initial_s=0.05, max_s=0.2))
async def end(ctx: Context, word: Word) -> Word:
    text = await ctx.step("say", say, "third", ctx.run_id, ctx.task_id, word.text)
    return Word(text=text, n=word.n + 1)


async def say(who: str, run_id: str, task_id: str, text: str) -> str:
    witness("steps", f"{run_id}/{task_id}/step/say/")
    await asyncio.sleep(0.005)
    return f"{text} {who}"


# --- order ----------------------------------------------------------------------


@first.task(name="ordered", retry=Retry(attempts=10, initial_s=0.02, max_s=0.05))
async def ordered_first(ctx: Context, word: Word) -> Word:
    return await in_order("first", ctx, word)


@second.task(name="ordered", retry=Retry(attempts=10, initial_s=0.02, max_s=0.05))
async def ordered_second(ctx: Context, word: Word) -> Word:
    return await in_order("second", ctx, word)


@third.task(name="ordered", retry=Retry(attempts=10, initial_s=0.02, max_s=0.05))
async def ordered_third(ctx: Context, word: Word) -> Word:
    return await in_order("third", ctx, word)


async def in_order(who: str, ctx: Context, word: Word) -> Word:
    witness("order", who, word.text, word.n, ctx.attempt, "start")
    await asyncio.sleep(0.003)
    if word.n % 7 == 3 and ctx.attempt == 1:
        raise ValueError("the first attempt of every seventh fails")
    witness("order", who, word.text, word.n, ctx.attempt, "end")
    return word


# --- poison ----------------------------------------------------------------------

fragile = Agent("fragile", concurrency=8)


@fragile.task(retry=Retry(attempts=2, initial_s=0.02, max_s=0.05))
async def maybe(ctx: Context, word: Word) -> Word:
    if word.text == "poison":
        raise ValueError(f"cannot digest {word.n}")
    return word


@fragile.task(retry=Retry(attempts=2, initial_s=0.02, max_s=0.05))
async def maybe_kill(ctx: Context, word: Word) -> Word:
    witness("fragile", word.text, word.n, ctx.task_id)
    if word.text == "kill":
        os._exit(9)
    for part in range(3):
        await ctx.step("part", count_part, part, key=str(part))
    return word


async def count_part(part: int) -> int:
    await asyncio.sleep(0.01)
    return part


# --- long ----------------------------------------------------------------------

patient = Agent("patient", concurrency=8)


@patient.task
async def long(ctx: Context, word: Word) -> Word:
    """Runs until a file appears: how long is the test's to say."""
    witness("long", "start", ctx.run_id)
    await passed(f"open-{ctx.run_id}")
    witness("long", "end", ctx.run_id)
    return word


@patient.task
async def short(ctx: Context, word: Word) -> Word:
    return word


@patient.task
async def cancellable(ctx: Context, word: Word) -> Word:
    await hold_on("cancel", ctx.run_id)
    return word


slow = Agent("slow", concurrency=1)


@slow.task
async def hold(ctx: Context, word: Word) -> Word:
    await hold_on("cancel", ctx.run_id)
    return word


# --- effects ----------------------------------------------------------------------

payer = Agent("payer", concurrency=8)


@payer.task(retry=Retry(attempts=5, initial_s=0.05, max_s=0.2))
async def pay(ctx: Context, word: Word) -> Word:
    for part in range(5):
        await ctx.effect("transfer", transfer, part, idempotent=True, key=str(part))
        await ctx.step("note", count_part, part, key=str(part))
    return word


def transfer(part: int, *, idempotency_key: str) -> str:
    """Post to the ledger server, which honours idempotency keys."""
    witness("effects", idempotency_key, part)
    url = (Path(os.environ["HOLDFAST_TEST_FOLDER"]) / "ledger-url").read_text()
    body = json.dumps({"key": idempotency_key, "part": part}).encode()
    with urllib.request.urlopen(url, body, timeout=30) as answer:
        return str(answer.read().decode())


# --- large ----------------------------------------------------------------------

heavy = Agent("heavy")


class Size(BaseModel):
    size: int


class Text(BaseModel):
    text: str


@heavy.task
async def make(ctx: Context, size: Size) -> Text:
    return Text(text="0123456789" * (size.size // 10))


@heavy.task
async def weigh(ctx: Context, text: Text) -> Size:
    return Size(size=len(text.text))


# --- keyed state ----------------------------------------------------------------


class Count(BaseModel):
    n: int


counter = Agent("counter", concurrency=16, state={"count": int})


@counter.task(retry=Retry(attempts=20, initial_s=0.02, max_s=0.05))
async def count(ctx: Context, word: Word) -> Count:
    """Count under the order key; some attempts fail after they have counted."""
    seen = await ctx.state.get("count", int, 0)
    ctx.state.set("count", seen + 1)
    if ctx.attempt == 1 and word.n % 7 == 0:
        raise OSError("no luck the first time")
    return Count(n=seen + 1)
