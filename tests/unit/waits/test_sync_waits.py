"""Synchronous handlers that wait: the same as the others, in threads that are let go."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic import BaseModel

from holdfast.agents import Agent, CallFailed, SignalTimeout, SyncContext
from holdfast.client import RunCancelled, RunFailed
from holdfast.schemas import Plan
from holdfast.testing import Simulation

front, back = Agent("front-sync", concurrency=1), Agent("back-sync")
STARTS: list[str] = []
ENDS: list[str] = []
BODIES: list[str] = []


class Question(BaseModel):
    text: str


class Answer(BaseModel):
    text: str


class Verdict(BaseModel):
    grade: int


def noted(text: str) -> str:
    BODIES.append(text)
    return text


@back.task
def look(ctx: SyncContext, question: Question) -> Answer:
    if question.text == "bad":
        raise ValueError("no such thing")
    return Answer(text=question.text.upper())


small = Plan("small-sync")
small.task("look", look, text=small.input("text"))


@front.task
def nap(ctx: SyncContext, question: Question) -> Answer:
    STARTS.append(question.text)
    try:
        before = ctx.step("before", noted, question.text)
        ctx.sleep("nap", timedelta(days=3))
        return Answer(text=before)
    finally:
        ENDS.append(question.text)


@front.task
def ask(ctx: SyncContext, question: Question) -> Answer:
    found = ctx.call(look, question)
    many = ctx.call_many(look, [Question(text=t) for t in ("a", "bad", "c")], name="many")
    words = [str(m) if isinstance(m, CallFailed) else m.text for m in many]
    output = ctx.start_run(small, {"text": question.text})
    return Answer(text=" ".join([found.text, *words, output["text"]]))


@front.task
def judge(ctx: SyncContext, question: Question) -> Answer:
    try:
        verdict = ctx.wait_for("verdict", Verdict, timeout=timedelta(days=2))
    except SignalTimeout:
        return Answer(text="nobody said anything")
    return Answer(text=f"{question.text}: {verdict.grade}")


@front.task
def hasty(ctx: SyncContext, question: Question) -> Answer:
    ctx.call_many(look, [question], max_parallel=0)
    return Answer(text="never")


@pytest.fixture(autouse=True)
def fresh() -> None:
    for seen in (STARTS, ENDS, BODIES):
        seen.clear()


def test_a_sleep_lets_thread_and_place_go() -> None:
    with Simulation([front, back]) as simulation:
        naps = [simulation.submit(nap, Question(text=str(n))) for n in range(4)]
        # One place: the next begins only when the thread of the one before has ended.
        simulation.until(lambda: len(ENDS) == 4)
        simulation.skip(hours=1)
        assert sorted(STARTS) == ["0", "1", "2", "3"]
        assert [run.result().text for run in naps] == ["0", "1", "2", "3"]
        assert sorted(BODIES) == ["0", "1", "2", "3"]
        assert len(STARTS) == len(ENDS) == 8
        assert simulation.violations() == []


def test_calls_and_runs_return_what_they_return_to_the_others() -> None:
    with Simulation([front, back]) as simulation:
        result = simulation.submit(ask, Question(text="hello")).result().text
        assert result.startswith("HELLO A")
        assert "no such thing" in result
        assert result.endswith("C HELLO")
        assert simulation.violations() == []


def test_a_signal_ends_a_wait_or_time_does() -> None:
    with Simulation([front, back]) as simulation:
        run = simulation.submit(judge, Question(text="it"))
        simulation.until(lambda: any(e.type == "task.asked" for e in run.events))
        run.signal("verdict", {"grade": 7})
        assert run.result().text == "it: 7"
        assert simulation.submit(judge, Question(text="vain")).result().text == (
            "nobody said anything"
        )
        assert simulation.violations() == []


def test_a_cancel_ends_a_handler_at_its_wait_and_one_that_sleeps() -> None:
    with Simulation([front, back]) as simulation:
        waits = simulation.submit(nap, Question(text="waits"))
        simulation.until(lambda: any(e.type == "task.asked" for e in waits.events))
        waits.cancel()
        with pytest.raises(RunCancelled):
            waits.result()
        assert ENDS == ["waits"]
        sleeps = simulation.submit(nap, Question(text="sleeps"))
        simulation.until(lambda: ENDS[-1:] == ["sleeps"])
        sleeps.cancel()
        with pytest.raises(RunCancelled):
            sleeps.result()
        assert STARTS.count("sleeps") == 1
        assert simulation.violations() == []


def test_no_calls_at_once_are_a_mistake() -> None:
    with Simulation([front, back]) as simulation:
        run = simulation.submit(hasty, Question(text="x"))
        with pytest.raises(RunFailed, match="max_parallel=0"):
            run.result()
