"""Handlers that wait, from end to end: real agents, coordinator and engine, simulated world."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic import BaseModel

from holdfast.agents import Agent, Context
from holdfast.agents.errors import CallFailed
from holdfast.schemas import Plan
from holdfast.testing import Simulation

front, back = Agent("front", concurrency=1), Agent("back")
BODIES: list[str] = []


class Question(BaseModel):
    text: str


class Answer(BaseModel):
    text: str


def noted(text: str) -> str:
    BODIES.append(text)
    return text


@back.task
async def look(ctx: Context, question: Question) -> Answer:
    if question.text == "bad":
        raise ValueError("no such thing")
    return Answer(text=question.text.upper())


@front.task
async def nap(ctx: Context, question: Question) -> Answer:
    before = await ctx.step("before", noted, question.text)
    await ctx.sleep("nap", timedelta(days=3))
    return Answer(text=before)


@front.task
async def ask(ctx: Context, question: Question) -> Answer:
    found = await ctx.call(look, question)
    many = await ctx.call_many(look, [Question(text=t) for t in ("a", "bad", "c")], name="many")
    words = [str(m) if isinstance(m, CallFailed) else m.text for m in many]
    return Answer(text=" ".join([found.text, *words]))


small = Plan("small")
small.task("look", look, text=small.input("text"))


@front.task
async def spawn(ctx: Context, question: Question) -> Answer:
    output = await ctx.start_run(small, {"text": question.text})
    return Answer(text=output["text"])


@pytest.fixture(autouse=True)
def fresh() -> None:
    BODIES.clear()


def test_a_sleep_of_three_days_takes_no_place_and_no_memory() -> None:
    with Simulation([front, back]) as simulation:
        naps = [simulation.submit(nap, Question(text=str(n))) for n in range(3)]
        assert [run.result().text for run in naps] == ["0", "1", "2"]
        assert sorted(BODIES) == ["0", "1", "2"]
        assert simulation.violations() == []


def test_calls_are_made_once_and_failures_are_seen() -> None:
    with Simulation([front, back]) as simulation:
        run = simulation.submit(ask, Question(text="hello"))
        result = run.result().text
        assert result.startswith("HELLO A")
        assert "no such thing" in result
        assert result.endswith("C")
        assert simulation.violations() == []


def test_a_child_run_ends_its_handlers_wait() -> None:
    with Simulation([front, back]) as simulation:
        run = simulation.submit(spawn, Question(text="deep"))
        assert run.result().text == "DEEP"
        assert simulation.violations() == []
