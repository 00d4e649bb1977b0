"""Agents that end at another's word: a cancelled tree, a deadline, a handler that gets stuck."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from pydantic import BaseModel

from holdfast.agents import Agent, Context, Retry, SignalTimeout, SyncContext
from holdfast.schemas import Plan
from tests.acceptance.agents import Word, hold_on, witness

GATE = "gate"
DEPTH = 2
ONCE = Retry(attempts=1)
TWICE = Retry(attempts=2, initial_s=0.05)

boss = Agent("boss", concurrency=8)
hand = Agent("hand", concurrency=8)


class Verdict(BaseModel):
    grade: int


@hand.task(retry=ONCE)
async def hold(ctx: Context, word: Word) -> Word:
    await hold_on("tree", word.text)
    return word


@hand.task(retry=ONCE)
def stubborn(ctx: SyncContext, word: Word) -> Word:
    """A thread that hears of its cancel only when the gate opens, and then wants to go on."""
    witness("tree", "start", word.text)
    gate = Path(os.environ["HOLDFAST_TEST_FOLDER"]) / GATE
    while not gate.exists():
        time.sleep(0.05)
    witness("zombie", "woke")
    try:
        ctx.step("late", noted)
    finally:
        witness("zombie", "told")
    return word


def noted() -> int:
    witness("zombie", "ran")
    return 1


def branch() -> Plan:
    plan = Plan("branch")
    plan.task("boss", "boss.tree", text=plan.input("text"), n=plan.input("n"))
    return plan


@boss.task(retry=ONCE)
async def tree(ctx: Context, word: Word) -> Word:
    """Wait for a called task, and for a run that does the same one level below."""
    name = f"{word.text}.{word.n}"
    waits = [ctx.call("hand.hold", Word(text=name), name="held")]
    if word.n < DEPTH:
        below = {"text": word.text, "n": word.n + 1}
        waits.append(ctx.start_run(branch(), below, name="below"))
    else:
        waits.append(ctx.call("hand.stubborn", Word(text=f"{word.text}.stubborn"), name="thread"))
    await asyncio.gather(*waits)
    return word


# --- time runs out ----------------------------------------------------------------


@hand.task(retry=TWICE, timeout_s=2)
async def too_long(ctx: Context, word: Word) -> Word:
    return await second_time(ctx, word)


@hand.task(retry=TWICE, progress_timeout_s=2)
async def stuck(ctx: Context, word: Word) -> Word:
    ctx.progress("begun")
    return await second_time(ctx, word)


async def second_time(ctx: Context, word: Word) -> Word:
    """Hang in the first attempt."""
    witness("clock", word.text, ctx.attempt)
    if ctx.attempt == 1:
        await asyncio.sleep(3600)
    return Word(text=word.text, n=ctx.attempt)


@hand.task(retry=ONCE)
async def until_friday(ctx: Context, word: Word) -> Word:
    witness("clock", word.text, ctx.attempt)
    try:
        verdict = await ctx.wait_for("verdict", Verdict, timeout=3)
    except SignalTimeout:
        return Word(text=word.text, n=-1)
    return Word(text=word.text, n=verdict.grade)


@hand.task(retry=ONCE)
async def prompt(ctx: Context, word: Word) -> Word:
    witness("clock", word.text, ctx.attempt)
    return word
