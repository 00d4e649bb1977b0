"""Agents whose handlers wait: for time, for others, for runs, for somebody's word."""

from __future__ import annotations

import asyncio
import time

from pydantic import BaseModel

from holdfast.agents import Agent, CallFailed, Context, SyncContext
from holdfast.schemas import Plan
from tests.acceptance.agents import Word, witness

NAP_S = 1.5
CALLS = 3

asker = Agent("asker", concurrency=2)
helper = Agent("helper", concurrency=4)


class Verdict(BaseModel):
    grade: int


class Report(BaseModel):
    text: str
    grade: int
    called: list[int]
    child: int
    slept_s: float


@helper.task
async def work(ctx: Context, word: Word) -> Word:
    """Long enough for somebody to die meanwhile."""
    return Word(text=word.text, n=await ctx.step("square", square, ctx.run_id, ctx.task_id, word.n))


async def square(run_id: str, task_id: str, n: int) -> int:
    witness("waits", "helper", f"{run_id}/{task_id}")
    await asyncio.sleep(0.3)
    return n * n


child = Plan("child")
child.task("only", work, text=child.input("text"), n=9)


def noted(what: str, run_id: str) -> float:
    """A step: when it was done, so that later executions know."""
    witness("waits", what, run_id)
    return time.time()


@asker.task
async def ask(ctx: Context, word: Word) -> Report:
    witness("executions", ctx.run_id)
    began = await ctx.step("before", noted, "before", ctx.run_id)
    _, called, verdict, output = await asyncio.gather(
        ctx.sleep("nap", NAP_S),
        ctx.call_many(work, [Word(text=word.text, n=n) for n in range(CALLS)], name="squares"),
        ctx.wait_for("verdict", Verdict),
        ctx.start_run(child, {"text": word.text}),
    )
    ended = await ctx.step("after", noted, "after", ctx.run_id)
    return report(word, called, verdict, output, ended - began)


@asker.task
def ask_blocking(ctx: SyncContext, word: Word) -> Report:
    witness("executions", ctx.run_id)
    began = ctx.step("before", noted, "before", ctx.run_id)
    ctx.sleep("nap", NAP_S)
    called = ctx.call_many(work, [Word(text=word.text, n=n) for n in range(CALLS)], name="squares")
    output = ctx.start_run(child, {"text": word.text})
    verdict = ctx.wait_for("verdict", Verdict)
    ended = ctx.step("after", noted, "after", ctx.run_id)
    return report(word, called, verdict, output, ended - began)


def report(
    word: Word, called: list[Word | CallFailed], verdict: Verdict, output: Word, slept_s: float
) -> Report:
    """Put together what was waited for; a call that failed has no number."""
    numbers = [-1 if isinstance(one, CallFailed) else one.n for one in called]
    return Report(
        text=word.text,
        grade=verdict.grade,
        called=numbers,
        child=Word.model_validate(output).n,
        slept_s=slept_s,
    )
