"""What is seen of handlers that wait: numbers of the agent, and the run's own words."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from pydantic import BaseModel

from holdfast.agents import Agent, Context
from holdfast.agents.metrics import ASLEEP, RESTING, RUNNING
from holdfast.schemas.records import AskKind
from holdfast.testing import Simulation, StandStill

sleeper, worker = Agent("sleeper-told", concurrency=1), Agent("worker-told")


class Question(BaseModel):
    text: str


class Answer(BaseModel):
    text: str


@worker.task
async def look(ctx: Context, question: Question) -> Answer:
    await ctx.wait_for("again")
    return Answer(text=question.text)


@sleeper.task
async def wait(ctx: Context, question: Question) -> Answer:
    await asyncio.gather(
        ctx.sleep("days", timedelta(days=2)), ctx.call(look, question), ctx.wait_for("go")
    )
    return Answer(text=question.text)


def handlers(how: str, agent: str = "sleeper-told") -> float:
    # Not by the registry: it collects everything, and this is asked at every step.
    gauge = {"running": RUNNING, "resting": RESTING, "asleep": ASLEEP}[how]
    samples = gauge.collect()[0].samples
    return sum(sample.value for sample in samples if sample.labels == {"agent": agent})


def test_a_handler_rests_then_sleeps_and_is_counted() -> None:
    with Simulation([sleeper, worker]) as simulation:
        runs = [simulation.submit(wait, Question(text=str(n))) for n in range(3)]
        simulation.until(lambda: all(len(run.waits) == 4 for run in runs), 100)
        simulation.until(lambda: handlers("resting") == 3, 100)
        assert (handlers("running"), handlers("asleep")) == (0, 0)
        simulation.until(lambda: handlers("asleep") == 3, 100)
        assert (handlers("resting"), handlers("running")) == (0, 0)
        for run in runs:
            run.signal("again")
            run.signal("go")
            run.result()
        assert handlers("asleep") == handlers("resting") == 0
        assert simulation.violations() == []
    assert handlers("asleep") == handlers("asleep", "worker-told") == 0


def test_a_cancel_ends_what_rests_and_what_sleeps() -> None:
    with Simulation([sleeper, worker]) as simulation:
        resting = simulation.submit(wait, Question(text="rests"))
        simulation.until(lambda: handlers("resting") == 1, 100)
        resting.cancel()
        simulation.until(lambda: handlers("resting") == 0, 100)
        asleep = simulation.submit(wait, Question(text="sleeps"))
        simulation.until(lambda: handlers("asleep") == 1, 100)
        asleep.cancel()
        simulation.until(lambda: handlers("asleep") == 0, 100)
        simulation.until(lambda: asleep.state == "cancelled", 100)
        assert asleep.waits == []


def test_a_run_says_what_it_waits_for() -> None:
    with Simulation([sleeper, worker]) as simulation:
        run = simulation.submit(wait, Question(text="it"))
        simulation.until(lambda: len(run.waits) == 4, 100)
        rows = {row.describe(): row for row in run.waits}
        called = next(row for row in run.waits if row.kind is AskKind.CALL).child
        assert rows.keys() == {
            "sleeps ('days')",
            "waits for signal 'go'",
            f"waits for worker-told.look (task {called})",
            "waits for signal 'again'",
        }
        sleep = rows["sleeps ('days')"]
        assert sleep.until_ms is not None
        assert sleep.asked_ms is not None
        assert sleep.until_ms - sleep.asked_ms == 2 * 86_400_000
        assert rows["waits for signal 'again'"].task_id == called
        receipt = run.signal("go")
        assert receipt.task_id == rows["waits for signal 'go'"].task_id
        assert "waits for signal 'go'" not in {row.describe() for row in run.waits}


def test_who_waits_in_vain_in_a_test_is_told_what_for() -> None:
    with Simulation([sleeper, worker]) as simulation:
        run = simulation.submit(wait, Question(text="it"))
        with pytest.raises(StandStill) as caught:
            run.result(3_600)
        assert "task task waits for signal 'go'\n" in str(caught.value)
        assert "task task sleeps ('days'), for 16" in str(caught.value)
