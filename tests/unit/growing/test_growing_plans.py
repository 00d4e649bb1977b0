"""Plans that grow, from end to end: real agents, coordinator and engine, simulated world."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from holdfast.agents import Agent, Context, PlanRefused, Retry, SyncContext
from holdfast.schemas import Plan, PlanChange, PlanVersion
from holdfast.testing import Simulation

boss, hand = Agent("boss", concurrency=1), Agent("hand")
ANSWERS: list[str] = []
"""What a model says, a new thing each time: it stands outside of all steps."""


class Topic(BaseModel):
    text: str


class Word(BaseModel):
    text: str


class Words(BaseModel):
    words: list[Word]


@hand.task
async def work(ctx: Context, topic: Topic) -> Word:
    if topic.text == "bad":
        raise ValueError("no such word")
    return Word(text=topic.text.upper())


@hand.task
async def join(ctx: Context, given: Words) -> Word:
    return Word(text=" ".join(word.text for word in given.words))


@boss.task
async def split(ctx: Context, topic: Topic) -> PlanChange:
    """Return a task for each word, and one that joins what they give."""
    change = PlanChange()
    parts = [change.task(f"w{n}", work, text=w) for n, w in enumerate(topic.text.split())]
    change.task("join", join, words=parts)
    return change


@boss.task
def split_in_thread(ctx: SyncContext, topic: Topic) -> PlanChange:
    change = PlanChange()
    change.task("one", work, text=topic.text)
    return change


@boss.task
async def invent(ctx: Context, topic: Topic) -> PlanChange:
    """Return another plan in each execution, as a model would whose answer is in no step."""
    ANSWERS.append(f"n{len(ANSWERS)}")
    change = PlanChange()
    change.task(ANSWERS[-1], work, text=topic.text)
    return change


@boss.task
async def steps(ctx: Context, topic: Topic) -> Word:
    """Add one task after the other; then let go of what is not needed."""
    first = await ctx.plan.add("first", work, text=topic.text)
    await ctx.plan.add("second", work, text=first["text"], after=[first])
    change = PlanChange()
    change.skip("spare")
    change.replace.task("last", work, text=change.existing("second")["text"])
    version = await ctx.plan.apply(change, key="tidy")
    return Word(text=f"version {version}")


@boss.task
def steps_in_thread(ctx: SyncContext, topic: Topic) -> Word:
    first = ctx.plan.add("first", work, text=topic.text)
    change = PlanChange()
    change.replace.task("last", work, text=first["text"])
    return Word(text=str(ctx.plan.apply(change)))


FICKLE: list[str] = []


@boss.task(retry=Retry(attempts=2, initial_s=1))
async def fickle(ctx: Context, topic: Topic) -> PlanChange:
    """Return a change that is refused first, and a better one after that."""
    change = PlanChange()
    change.task("x", work, text="x", after=[] if FICKLE else ["nobody"])
    FICKLE.append(topic.text)
    return change


class Refused(BaseModel):
    why: str


@boss.task
async def stubborn(ctx: Context, topic: Topic) -> Refused:
    change = PlanChange()
    change.task("x", work, text="x", after=["nobody"])
    try:
        await ctx.plan.apply(change)
    except PlanRefused as refused:
        return Refused(why=str(refused))
    raise AssertionError("it was taken")


def lone(task: Any, **more: Any) -> Plan:
    plan = Plan("grow")
    plan.task("planner", task, text=plan.input("text"))
    for name in more:
        plan.task(name, work, text=name, after=["planner"])
    return plan


@pytest.fixture(autouse=True)
def fresh() -> None:
    ANSWERS.clear()
    FICKLE.clear()


def test_a_planner_returns_the_plan_that_follows() -> None:
    with Simulation([boss, hand]) as simulation:
        run = simulation.submit(lone(split), {"text": "a b c"})
        assert run.result() == {"text": "A B C"}
        assert run.tasks["planner"].state == "succeeded"
        assert [e.revision.version for e in run.events if e.revision] == [2]
        assert simulation.violations() == []


def test_a_planner_that_is_submitted_alone_gives_what_its_plan_gives() -> None:
    with Simulation([boss, hand]) as simulation:
        run = simulation.submit(lone(split_in_thread), {"text": "x"})
        assert run.result() == {"text": "X"}
        assert simulation.violations() == []


def test_a_handler_adds_tasks_while_it_runs() -> None:
    with Simulation([boss, hand]) as simulation:
        run = simulation.submit(lone(steps, spare=1, last=1), {"text": "go"})
        assert run.result() == {"text": "GO"}
        assert run.tasks["spare"].state == "skipped"
        assert run.plan().tasks["spare"].dropped == "skip"
        assert list(run.plan(1).tasks) == ["planner", "spare", "last"]
        assert simulation.violations() == []


@boss.task(retry=Retry(by_error={PlanRefused: Retry(attempts=60, initial_s=10, factor=1)}))
async def early(ctx: Context, topic: Topic) -> PlanChange:
    """Name an agent that is not deployed yet."""
    change = PlanChange()
    change.task("search", "archive.search", text=topic.text)
    return change


def test_an_agent_that_is_not_there_yet_can_be_waited_for() -> None:
    with Simulation([boss, hand]) as simulation:
        run = simulation.submit(early, Topic(text="x"))
        simulation.skip(minutes=2)
        assert run.state == "running"
        assert run.tasks["task"].attempt > 8
        failure = run.tasks["task"].failure
        assert failure is not None
        assert "no agent 'archive' is known; there is " in failure.message


def test_a_refused_change_says_why_and_the_handler_goes_on() -> None:
    with Simulation([boss, hand]) as simulation:
        run = simulation.submit(lone(stubborn), {"text": "x"})
        assert "unknown task 'nobody'" in run.result()["why"]
        assert simulation.violations() == []


def test_a_synchronous_handler_changes_the_plan_too() -> None:
    with Simulation([boss, hand]) as simulation:
        run = simulation.submit(lone(steps_in_thread, last=1), {"text": "go"})
        assert run.result() == {"text": "GO"}
        assert simulation.violations() == []


def test_a_planner_whose_change_is_refused_is_tried_again() -> None:
    with Simulation([boss, hand]) as simulation:
        run = simulation.submit(lone(fickle), {"text": "x"})
        assert run.result() == {"text": "X"}
        assert run.tasks["planner"].attempt == 2
        assert simulation.violations() == []


def test_of_a_planner_that_says_something_else_each_time_the_first_word_stands() -> None:
    crashes = 0
    for crash in Simulation.crashes(lone(invent), {"text": "x"}, agents=[boss, hand]):
        ANSWERS.clear()
        run = crash.run()
        run.result()
        assert len([e for e in run.events if e.revision]) == 1
        crashes += 1
    assert crashes > 10


@pytest.mark.parametrize(("task", "more"), [(split, {}), (steps, {"spare": 1, "last": 1})])
def test_a_crash_at_any_step_changes_nothing(task: Any, more: dict[str, Any]) -> None:
    crashes = 0
    versions = set()
    for crash in Simulation.crashes(lone(task, **more), {"text": "a b"}, agents=[boss, hand]):
        run = crash.run()
        run.result()
        versions.add(tuple(e.revision.version for e in run.events if e.revision))
        crashes += 1
    assert crashes > 10
    assert len(versions) == 1


# --- a planner that sees results as they arrive, and planners under planners --------------------


class Round(BaseModel):
    number: int
    found: Word | None = None


@boss.task
async def rounds(ctx: Context, so_far: Round) -> PlanChange:
    """Give work, and come back for its result: three times."""
    change = PlanChange()
    if so_far.number < 3:
        n = so_far.number + 1
        found = change.task(f"work-{n}", work, text=f"{(so_far.found or Word(text='')).text}{n}")
        change.task(f"round-{n}", rounds, number=n, found=found)
    else:
        change.task("done", work, text=so_far.found.text if so_far.found else "")
    return change


def test_a_planner_comes_back_for_each_result() -> None:
    plan = Plan("rounds")
    plan.task("round-0", rounds, number=0)
    with Simulation([boss, hand]) as simulation:
        run = simulation.submit(plan)
        assert run.result() == {"text": "123"}
        assert run.events[-1].run is not None
        assert run.events[-1].run.plan_version == 5
        assert simulation.violations() == []


def test_a_failed_run_is_forked_with_the_plan_as_it_was() -> None:
    with Simulation([boss, hand]) as simulation:
        run = simulation.submit(lone(split), {"text": "a bad c"})
        with pytest.raises(Exception, match="no such word"):
            run.result()
        client = simulation._deployment.client
        assert client is not None
        forked = simulation.call(lambda: client.fork(run.id), 60.0, lambda: "no fork", run.id)
        fork = simulation.run(forked.id)
        plan = fork.plan()
        assert list(plan.tasks) == ["planner", "w0", "w1", "w2", "join"]
        assert plan.tasks["w1"].added_by == "planner"
        assert set(plan.tasks) == set(run.plan().tasks)
        with pytest.raises(Exception, match="no such word"):
            fork.result()
        assert {call.task_id for call in fork.calls(kind="handler")} == {"w1"}


def test_a_planners_type_is_the_version_that_it_made() -> None:
    assert split.output_type is PlanVersion
    assert split.returns_plan
    assert not work.returns_plan
