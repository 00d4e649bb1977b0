"""The public kit: agents and plans in one test, with virtual time."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import pytest
from pydantic import BaseModel

from holdfast.agents import Agent, Context, Fatal, Retry, SyncContext
from holdfast.client import RunCancelled, RunConflict, RunFailed
from holdfast.schemas import Plan, PlanError
from holdfast.schemas.records import EventType, RunState
from holdfast.testing import Simulation, SimulationError, StandStill

DAY_S = 86_400
REAL_S_MAX = 20.0
"""Days that are really lived through take minutes; this leaves room for a slow machine."""


class Word(BaseModel):
    text: str


scout = Agent("scout")
editor = Agent("editor")
mails: list[str] = []


def post(text: str, *, idempotency_key: str) -> str:
    if idempotency_key not in mails:
        mails.append(idempotency_key)
    return text


async def shout(text: str) -> str:
    await asyncio.sleep(3_600)
    return text.upper()


@scout.task
async def find(ctx: Context, word: Word) -> Word:
    return Word(text=await ctx.step("shout", shout, word.text))


@editor.task
def write(ctx: SyncContext, word: Word) -> Word:
    longer = ctx.step("longer", lambda text: text + "!", word.text)
    time.sleep(3_600)
    return Word(text=ctx.effect("post", post, longer, idempotent=True))


@editor.task
async def write_all(ctx: Context, word: Word) -> Word:
    parts = await asyncio.gather(
        *[ctx.step("part", lambda c=c: c * 2, key=str(n)) for n, c in enumerate(word.text)]
    )
    return Word(text="".join(parts))


failures: list[float] = []


@scout.task(retry=Retry(attempts=3, initial_s=DAY_S, max_s=2 * DAY_S, factor=2, jitter=0))
async def third_time(ctx: Context, word: Word) -> Word:
    if ctx.attempt < 3:
        failures.append(time.time())
        raise OSError(f"attempt {ctx.attempt}")
    return word


@scout.task(timeout_s=DAY_S, retry=Retry(attempts=1))
async def hang(ctx: Context, word: Word) -> Word:
    await asyncio.Event().wait()
    return word


@scout.task(retry=Retry(attempts=1))
async def breaks(ctx: Context, word: Word) -> Word:
    raise Fatal(f"{word.text} is broken")


@scout.task
async def patient(ctx: Context, word: Word) -> Word:
    for _ in range(5):
        await asyncio.sleep(60)
    return word


def two_tasks() -> Plan:
    plan = Plan("two")
    first = plan.task("find", find, text=plan.input("text"))
    plan.task("write", write, text=first["text"])
    return plan


@pytest.fixture(autouse=True)
def _clean() -> None:
    mails.clear()
    failures.clear()


def test_a_plan_is_run_and_what_happened_can_be_asked_for() -> None:
    with Simulation([scout, editor]) as simulation:
        began = simulation.now
        run = simulation.submit(two_tasks(), {"text": "a"})
        assert run.result() == {"text": "A!"}
        took = simulation.now - began
    assert timedelta(hours=2) < took < timedelta(hours=2, minutes=1)
    assert run.state is RunState.SUCCEEDED
    assert [event.type for event in run.events][:2] == [
        EventType.RUN_STARTED,
        EventType.TASK_DISPATCHED,
    ]
    assert run.effects("post") == len(run.calls("post")) == len(mails) == 1
    assert [step.name for step in run.steps("write")] == ["longer", "post"]
    [call] = run.calls("shout", kind="step")
    assert (call.arguments, call.outcome, call.process) == (("a",), "returned", "scout#1")


def test_a_typed_task_gives_its_type_and_one_of_a_name_is_plain() -> None:
    with Simulation([scout, editor]) as simulation:
        assert simulation.submit(find, Word(text="x")).result() == Word(text="X")
        assert simulation.submit("scout.find", {"text": "x"}).result() == {"text": "X"}
        assert simulation.submit(write_all, Word(text="ab")).result() == Word(text="aabb")


def test_a_seed_is_one_history() -> None:
    def history(seed: int) -> list[tuple[str, int]]:
        with Simulation([scout, editor], seed=seed) as simulation:
            run = simulation.submit(two_tasks(), {"text": "a"})
            run.result()
            return [(event.type.value, event.at_ms) for event in run.events]

    assert history(7) == history(7)
    assert history(7) != history(8)


def test_days_of_back_off_take_no_time() -> None:
    real = time.monotonic()
    with Simulation([scout]) as simulation:
        run = simulation.submit(third_time, Word(text="a"))
        simulation.skip(hours=12)
        assert run.tasks["task"].attempt == 1
        assert run.result() == Word(text="a")
    assert failures[1] - failures[0] == pytest.approx(DAY_S, abs=5)
    assert time.monotonic() - real < REAL_S_MAX


def test_months_can_be_skipped_and_all_are_still_there() -> None:
    with Simulation([scout, editor]) as simulation:
        assert simulation.submit(find, Word(text="x")).result()
        simulation.skip(days=100)
        assert simulation.submit(find, Word(text="x")).result() == Word(text="X")
        assert {call.process for call in simulation.calls} == {"scout#1"}


def test_a_handler_that_looks_every_minute_sees_every_minute() -> None:
    with Simulation([scout]) as simulation:
        began = simulation.now
        simulation.submit(patient, Word(text="a")).result()
        assert timedelta(minutes=5) < simulation.now - began < timedelta(minutes=5, seconds=30)
        assert simulation.violations() == []


def test_time_outs_and_deadlines_come_when_they_are_due() -> None:
    with Simulation([scout]) as simulation:
        began = simulation.now
        with pytest.raises(RunFailed, match="86400 s"):
            simulation.submit(hang, Word(text="a")).result()
        assert timedelta(days=1) < simulation.now - began < timedelta(days=1, minutes=2)
        run = simulation.submit(hang, Word(text="a"), deadline_s=3_600)
        with pytest.raises(RunFailed, match="deadline"):
            run.result()


def test_a_crashed_agent_comes_back_and_goes_on() -> None:
    with Simulation([scout, editor]) as simulation:
        run = simulation.submit(two_tasks(), {"text": "a"})
        simulation.until(lambda: run.calls("shout"))
        simulation.crash("scout")
        assert run.result() == {"text": "A!"}
        assert [call.process for call in run.calls("shout")] == ["scout#1", "scout#2"]
        assert run.calls("shout")[0].outcome == "running"
        assert simulation.violations() == []


def test_a_process_that_stays_dead_is_named_until_it_is_restarted() -> None:
    with Simulation([scout, editor], restart_after_s=None) as simulation:
        simulation.skip(seconds=5)
        simulation.crash("editor")
        run = simulation.submit(two_tasks(), {"text": "a"})
        with pytest.raises(StandStill, match="process editor is dead: killed by the test"):
            run.result(timeout_s=2 * DAY_S)
        simulation.restart("editor")
        assert run.result() == {"text": "A!"}
        with pytest.raises(SimulationError, match="editor is alive"):
            simulation.restart("editor")


def test_a_paused_agent_goes_on_or_ends_itself() -> None:
    with Simulation([scout, editor]) as simulation:
        run = simulation.submit(two_tasks(), {"text": "a"})
        simulation.until(lambda: run.calls("find"))
        simulation.pause("scout", seconds=2)
        simulation.skip(seconds=5)
        simulation.pause("scout", seconds=60)
        assert run.result() == {"text": "A!"}
        assert "scout#2" in {call.process for call in run.calls("find")}
        assert simulation.violations() == []


def test_a_run_can_be_steered() -> None:
    with Simulation([scout, editor]) as simulation:
        run = simulation.submit(two_tasks(), {"text": "a"})
        run.pause()
        simulation.skip(days=1)
        assert run.state is RunState.PAUSED
        run.resume()
        run.cancel(reason="enough")
        with pytest.raises(RunCancelled, match="enough"):
            run.result()


async def test_it_works_within_a_running_loop() -> None:
    task = asyncio.current_task()
    with Simulation([scout, editor]) as simulation:
        run = simulation.submit(two_tasks(), {"text": "a"})
        assert run.result() == {"text": "A!"}
    assert asyncio.current_task() is task
    await asyncio.sleep(0)


def test_the_real_clock_is_back_afterwards() -> None:
    before = time.time, time.sleep, time.monotonic
    with Simulation([scout]) as simulation:
        simulation.submit(find, Word(text="a")).result()
        assert (time.time, time.sleep, time.monotonic) == before
    with pytest.raises(SimulationError, match="closed"):
        simulation.skip(days=1)


# --- mistakes


def test_a_failure_shows_the_handlers_traceback() -> None:
    with Simulation([scout]) as simulation, pytest.raises(RunFailed, match="x is broken") as caught:
        simulation.submit(breaks, Word(text="x")).result()
    assert any("in breaks" in note for note in caught.value.__notes__)


def test_an_agent_that_is_missing_is_named() -> None:
    with (
        Simulation([scout]) as simulation,
        pytest.raises(SimulationError, match=r"'two' needs editor.*Simulation\(\[scout, editor\]"),
    ):
        simulation.submit(two_tasks(), {"text": "a"})


def test_a_plan_that_does_not_resolve_is_refused_as_by_a_client() -> None:
    with Simulation([scout]) as simulation:
        with pytest.raises(PlanError, match="did you mean"):
            simulation.submit("scout.fnd", {"text": "a"})
        simulation.submit(find, Word(text="a"), run_id="one")
        with pytest.raises(RunConflict):
            simulation.submit(find, Word(text="b"), run_id="one").result()


def test_a_run_that_never_ends_says_what_it_waits_for() -> None:
    waits = Agent("waits")

    @waits.task(name="wait")
    async def wait_for_ever(ctx: Context, word: Word) -> Word:
        await asyncio.Event().wait()
        return word

    with Simulation([waits]) as simulation, pytest.raises(StandStill) as caught:
        simulation.submit(wait_for_ever, Word(text="a"), run_id="r").result()
    told = str(caught.value)
    assert "run 'r' has not ended after 2.592e+06 s of virtual time" in told
    assert "task task (waits.wait), attempt 1: dispatched" in told
    assert "the handler 'wait' of r/task attempt 1 has run for" in told
    assert "test_kit.py" in told


def test_an_agent_that_cannot_start_says_why() -> None:
    with (
        Simulation([Agent("empty")]) as simulation,
        pytest.raises(
            SimulationError, match="empty cannot run: DefinitionError: agent 'empty' has no tasks"
        ),
    ):
        simulation.skip(seconds=5)


def test_two_agents_of_one_name_are_refused() -> None:
    with pytest.raises(SimulationError, match="two of the agents are named 'scout'"):
        Simulation([scout, Agent("scout")])


def test_a_wrong_name_is_told_apart() -> None:
    with Simulation([scout]) as simulation, pytest.raises(SimulationError, match="did you mean"):
        simulation.crash("scuot")
