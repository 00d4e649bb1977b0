"""Runs that are submitted now, to start later."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from pydantic import BaseModel

from holdfast.agents import Agent, Context
from holdfast.client import RunCancelled, RunFailed
from holdfast.schemas import Plan, PlanError
from holdfast.testing import Simulation

agent = Agent("later")
DAY = timedelta(days=1)


class Answer(BaseModel):
    text: str


@agent.task
async def work(ctx: Context) -> Answer:
    return Answer(text="done")


@agent.task
async def hang(ctx: Context) -> Answer:
    await ctx.sleep("for-ever", timedelta(days=300))
    return Answer(text="never")


@pytest.fixture
def simulation() -> Iterator[Simulation]:
    with Simulation([agent]) as simulation:
        yield simulation
        assert simulation.violations() == []


def dispatched_ms(run: object) -> list[int]:
    return [e.at_ms for e in run.events if e.type == "task.dispatched"]  # type: ignore[attr-defined]


def test_nothing_starts_before_and_it_is_told(simulation: Simulation) -> None:
    run = simulation.submit(work, start_in=DAY)
    simulation.until(lambda: run.events)
    started = run.events[0]
    assert started.type == "run.started"
    assert started.message.startswith("nothing of it starts before 20")
    assert started.run is not None
    assert started.run.start_ms == started.at_ms + 86_400_000
    simulation.skip(hours=23)
    assert dispatched_ms(run) == []
    assert run.result().text == "done"
    assert 0 <= dispatched_ms(run)[0] - started.run.start_ms < 200


def test_a_moment_may_be_named_and_one_that_has_passed_is_now(simulation: Simulation) -> None:
    at = simulation.now + timedelta(hours=2)
    run = simulation.submit(work, start_at=at)
    assert run.result().text == "done"
    assert 0 <= dispatched_ms(run)[0] - at.timestamp() * 1_000 < 200
    past = simulation.submit(work, start_at=at)
    assert past.result().text == "done"
    assert past.events[0].run is not None
    assert past.events[0].run.start_ms is None


def test_a_cancel_meanwhile_ends_it(simulation: Simulation) -> None:
    run = simulation.submit(work, start_in=DAY)
    simulation.until(lambda: run.events)
    run.cancel()
    with pytest.raises(RunCancelled):
        run.result()
    simulation.skip(days=2)
    assert dispatched_ms(run) == []


def test_one_that_is_paused_starts_when_it_is_resumed(simulation: Simulation) -> None:
    run = simulation.submit(work, start_in=DAY)
    simulation.until(lambda: run.events)
    run.pause()
    simulation.skip(days=2)
    assert dispatched_ms(run) == []
    run.resume()
    assert run.result().text == "done"


def test_a_resume_before_its_time_starts_nothing(simulation: Simulation) -> None:
    run = simulation.submit(work, start_in=DAY)
    simulation.until(lambda: run.events)
    run.pause()
    run.resume()
    simulation.skip(hours=20)
    assert dispatched_ms(run) == []
    assert run.result().text == "done"


def test_the_deadline_counts_from_the_start(simulation: Simulation) -> None:
    plan = Plan("late", deadline_s=3_600)
    plan.task("one", hang)
    run = simulation.submit(plan, start_in=DAY)
    with pytest.raises(RunFailed, match="deadline"):
        run.result()
    first, last = run.events[0], run.events[-1]
    assert last.at_ms - first.at_ms >= (24 + 1) * 3_600_000


def test_a_repeated_submission_changes_nothing(simulation: Simulation) -> None:
    first = simulation.submit(work, run_id="same", start_in=DAY)
    second = simulation.submit(work, run_id="same", start_in=2 * DAY)
    assert first.result().text == second.result().text == "done"
    assert len(dispatched_ms(first)) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start_at": datetime(2030, 1, 1), "start_in": DAY}, "not both"),
        ({"start_at": datetime(2030, 1, 1)}, "has no time zone"),
        ({"start_in": -DAY}, "is not between 0 and"),
        ({"start_in": timedelta(days=9_000)}, "is not between 0 and 3660 days"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    simulation: Simulation, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        simulation.submit(work, **settings)  # type: ignore[call-overload]
