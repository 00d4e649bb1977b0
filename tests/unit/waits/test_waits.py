"""Handlers that wait, from end to end: real agents, coordinator and engine, simulated world."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from pydantic import BaseModel

from holdfast.agents import Agent, Context
from holdfast.agents.errors import CallFailed, SignalTimeout
from holdfast.client import CommandRefused
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


class Verdict(BaseModel):
    grade: int


@front.task
async def judge(ctx: Context, question: Question) -> Answer:
    try:
        verdict = await ctx.wait_for("verdict", Verdict, timeout=timedelta(days=2))
    except SignalTimeout:
        return Answer(text="nobody said anything")
    return Answer(text=f"{question.text}: {verdict.grade}")


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


def test_a_signal_ends_a_wait_and_one_that_does_not_fit_is_refused() -> None:
    with Simulation([front, back]) as simulation:
        run = simulation.submit(judge, Question(text="it"))
        simulation.until(lambda: any(e.type == "task.asked" for e in run.events))
        simulation.skip(hours=40)
        with pytest.raises(CommandRefused, match="grade"):
            run.signal("verdict", {"grade": "good"})
        run.signal("verdict", {"grade": 7})
        assert run.result().text == "it: 7"
        assert simulation.violations() == []


def test_a_signal_may_come_first_and_a_wait_may_be_in_vain() -> None:
    with Simulation([front, back]) as simulation:
        run = simulation.submit(judge, Question(text="early"))
        receipt = run.signal("verdict", {"grade": 1})
        assert receipt.message == "kept until a task waits for it"
        assert run.result().text == "early: 1"
        vain = simulation.submit(judge, Question(text="vain"))
        assert vain.result().text == "nobody said anything"
        assert simulation.violations() == []


@pytest.mark.parametrize(("task", "text"), [(nap, "x"), (spawn, "x")])
def test_a_crash_at_any_step_changes_nothing(task: object, text: str) -> None:
    crashes = 0
    for crash in Simulation.crashes(task, Question(text=text), agents=[front, back]):  # type: ignore[arg-type]
        crash.run().result()
        crashes += 1
    assert crashes > 10


@front.task
async def gathers(ctx: Context, question: Question) -> Answer:
    await asyncio.gather(ctx.sleep("short", 60), ctx.sleep("long", timedelta(days=1)))
    return Answer(text=question.text)


def test_one_answer_of_two_does_not_keep_the_place() -> None:
    with Simulation([front, back]) as simulation:
        first = simulation.submit(gathers, Question(text="both"))
        simulation.until(lambda: any(e.type == "task.answered" for e in first.events))
        simulation.skip(seconds=5)
        second = simulation.submit(ask, Question(text="x"))
        assert second.result().text.startswith("X A")
        assert not any(e.type == "run.succeeded" for e in first.events)
        assert first.result().text == "both"
        assert simulation.violations() == []
