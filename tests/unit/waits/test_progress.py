"""A handler that gets on with nothing is given up, although its process lives."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from holdfast.agents import Agent, Context, DefinitionError, Retry
from holdfast.client import RunFailed
from holdfast.schemas import Plan
from holdfast.testing import Simulation

agent = Agent("beats", concurrency=1)
ONCE = Retry(attempts=1)
ATTEMPTS: list[int] = []


class Ask(BaseModel):
    times: int = 0
    pause_s: float = 0.0


class Answer(BaseModel):
    text: str


def noted(number: int) -> int:
    return number


@agent.task(progress_timeout_s=10, retry=Retry(attempts=2, initial_s=0.1))
async def works(ctx: Context, ask: Ask) -> Answer:
    ATTEMPTS.append(ctx.attempt)
    for number in range(ask.times):
        await asyncio.sleep(ask.pause_s)
        if number % 2:
            ctx.progress(f"at {number}")
        else:
            await ctx.step("note", noted, number, key=str(number))
    if ctx.attempt == 1 and ask.times == 2:
        await asyncio.sleep(3_600)
    return Answer(text=f"attempt {ctx.attempt}")


@agent.task(progress_timeout_s=10, retry=ONCE)
async def hangs(ctx: Context, ask: Ask) -> Answer:
    await asyncio.sleep(3_600)
    return Answer(text="never")


@agent.task(progress_timeout_s=10, retry=ONCE)
async def waits(ctx: Context, ask: Ask) -> Answer:
    await ctx.sleep("short", 5)
    await ctx.sleep("long", 86_400)
    await asyncio.sleep(9)
    return Answer(text="waited")


@agent.task(retry=ONCE)
async def free(ctx: Context, ask: Ask) -> Answer:
    await asyncio.sleep(ask.pause_s)
    return Answer(text="free")


@pytest.fixture
def simulation() -> Iterator[Simulation]:
    ATTEMPTS.clear()
    with Simulation([agent]) as simulation:
        yield simulation
        assert simulation.violations() == []


def test_steps_and_words_keep_a_handler_alive(simulation: Simulation) -> None:
    run = simulation.submit(works, Ask(times=7, pause_s=9))
    assert run.result().text == "attempt 1"


def test_one_that_stalls_fails_and_its_next_attempt_goes_on(simulation: Simulation) -> None:
    run = simulation.submit(works, Ask(times=2, pause_s=3))
    assert run.result().text == "attempt 2"
    failure = next(e.task.failure for e in run.events if e.type == "task.retrying" and e.task)
    assert failure is not None
    last = r"the last was the word 'at 1', 6(\.0\d)? s after it began"  # its commits take time too
    assert re.fullmatch(rf"the handler made no progress for 10 s; {last}", failure.message)
    assert ATTEMPTS == [1, 2]


def test_one_that_never_did_anything_is_told_so(simulation: Simulation) -> None:
    with pytest.raises(RunFailed, match="no progress for 10 s; it has done nothing"):
        simulation.submit(hangs, Ask()).result()


def test_who_rests_or_sleeps_is_not_asked_for_progress(simulation: Simulation) -> None:
    assert simulation.submit(waits, Ask()).result().text == "waited"


def test_a_plan_says_otherwise(simulation: Simulation) -> None:
    plan = Plan("strict")
    plan.task("one", free, pause_s=4.0, times=0, progress_timeout_s=3)
    with pytest.raises(RunFailed, match="no progress for 3 s"):
        simulation.submit(plan).result()
    assert simulation.submit(free, Ask(pause_s=4.0)).result().text == "free"


def test_a_limit_that_is_none_is_refused() -> None:
    with pytest.raises(DefinitionError, match="progress_timeout_s=0 must be seconds above 0"):

        @Agent("bad").task(progress_timeout_s=0)
        async def bad(ctx: Context, ask: Ask) -> Answer:
            return Answer(text="")
