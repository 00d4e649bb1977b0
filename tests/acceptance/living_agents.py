"""Agents for plans that live: they stop at gates, so that a test knows where all of them stand.

A gate is a file. Each body that runs says so in a file outside, by run and task.
"""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

from holdfast.agents import Agent, Context, Fatal
from holdfast.schemas import Plan, PlanChange
from tests.acceptance.agents import passed, witness

MIDDLE, PARTING = "middle", "parting"
"""The gates: in the middle of each run; and where those stand who were told to end."""
LOSERS = ("first-slow", "any-slow", "quorum-slow")
ROUNDS, LINKS = 4, 4

worker = Agent("worker", concurrency=16)
planner = Agent("planner", concurrency=4)


class Word(BaseModel):
    """`gate`: wait for it in round `at` (0: in each)."""

    text: str = ""
    n: int = 0
    round: int = 0
    gate: str = ""
    at: int = 0


class Words(BaseModel):
    words: list[Word | None]


async def body(what: str, word: Word) -> int:
    """A step: it must run once. Stand at the gate, if there is one."""
    witness("bodies", what)
    if word.gate and word.at in (0, word.round):
        witness("gates", word.gate, what)
        await passed(word.gate)
        witness("through", what)
    return word.n + 1


@worker.task
async def work(ctx: Context, word: Word) -> Word:
    n = await ctx.step("body", body, f"{ctx.run_id}/{ctx.task_id}", word)
    return Word(text=word.text, n=n)


@worker.task
async def fail(ctx: Context, word: Word) -> Word:
    raise Fatal("it never can")


@worker.task
async def lose(ctx: Context, word: Word) -> Word:
    """Work for ever; told to end, take leave at a gate."""
    witness("bodies", f"{ctx.run_id}/{ctx.task_id}")
    try:
        await asyncio.sleep(3_600)
    finally:
        witness("gates", PARTING, f"{ctx.run_id}/{ctx.task_id}")
        await passed(PARTING)
    return word


@worker.task
async def gather(ctx: Context, given: Words) -> Word:
    """Say which words arrived, in order."""
    words = [word for word in given.words if word is not None]
    return Word(text=" ".join(word.text for word in words), n=max(word.n for word in words))


def races() -> Plan:
    """Three joins: of each, one runner wins in the middle, and one never ends by itself."""
    plan = Plan("races")
    ends = []
    for kind, join in (("first", "first-success"), ("any", "any"), ("quorum", 2)):
        runners = [
            plan.task(f"{kind}-won", work, text=kind, gate=MIDDLE),
            plan.task(f"{kind}-slow", lose),
        ]
        if kind != "any":  # there, the first that ends would be this one
            runners.append(plan.task(f"{kind}-bad", fail))
        if kind == "quorum":
            runners.append(plan.task("quorum-too", work, text="too"))
        ends.append(plan.task(kind, gather, words=runners, join=join))
    plan.task("end", gather, words=ends)
    return plan


@planner.task
async def split(ctx: Context, word: Word) -> PlanChange:
    """Return work, and a planner under this one that is to see what came of it."""
    change = PlanChange()
    parts = [change.task(f"part-{n}", work, text=f"p{n}", gate=MIDDLE) for n in range(3)]
    change.task("look", look, words=parts)
    return change


@planner.task
async def look(ctx: Context, found: Words) -> PlanChange:
    """Add what the results ask for."""
    change = PlanChange()
    change.task("said", gather, words=[*(word for word in found.words if word), {"text": "seen"}])
    return change


@planner.task
async def widen(ctx: Context, word: Word) -> Word:
    """Add to the plan, be interrupted, change it once more."""
    await ctx.plan.add("more", work, text="more", n=10)
    n = await ctx.step("body", body, f"{ctx.run_id}/{ctx.task_id}", word)
    change = PlanChange()
    change.replace.task("report", gather, words=[change.existing("more")], after=["widen"])
    change.skip("appendix")
    await ctx.plan.apply(change, key="tidy")
    return Word(text=word.text, n=n)


def growing() -> Plan:
    """A planner whose output is a change, and a handler that changes the plan while it runs."""
    plan = Plan("growing")
    plan.task("split", split, text="q")
    wide = plan.task("widen", widen, text="w", gate=MIDDLE)
    report = plan.task("report", gather, words=[wide])
    plan.task("appendix", work, text="never", after=[report])
    return plan


def rounds() -> Plan:
    """A loop whose second round stands at the gate."""
    plan = Plan("rounds")
    plan.task(
        "draft",
        work,
        text="draft",
        n=Plan.round,
        round=Plan.round,
        gate=MIDDLE,
        at=2,
        repeat={"until": f"{Plan.result['n']} > `{ROUNDS}`", "at_most": 9},
    )
    return plan


def nested() -> Plan:
    """A map over an inner plan, and an inner plan that is repeated."""
    inner = Plan("inner")
    first = inner.task(
        "first", work, text=inner.input("text"), round=inner.input("round"), gate=MIDDLE, at=2
    )
    inner.task("second", work, text=first["text"], n=inner.input("round"))
    plan = Plan("nested")
    each = plan.map(
        "each",
        inner,
        over=[{"text": f"i{n}", "round": 1 + n % 2} for n in range(3)],
        max_parallel=2,
    )
    again = plan.task(
        "again",
        inner,
        text="again",
        round=Plan.round,
        repeat={"until": f"{Plan.result['n']} > `2`", "at_most": 3},
    )
    plan.task("end", gather, words=[again], after=[each])
    return plan


def row() -> Plan:
    """A run that is continued as new; its second link stands at the gate."""
    plan = Plan(
        "row",
        continue_as_new={
            "when": f"{Plan.result['n']} < `{LINKS}`",
            "input": {"n": Plan.result["n"]},
        },
    )
    n = plan.input("n")
    plan.task("link", work, text="link", n=n, round=n, gate=MIDDLE, at=1)
    return plan
