"""Plans that live, from end to end: joins, loops, plans in plans, runs without end; with crashes.

Real agents, coordinator and engine in the simulated world, whose invariants are checked.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from holdfast.agents import Agent, Context, Retry
from holdfast.client import RunFailed
from holdfast.schemas import Plan
from holdfast.testing import Simulation

writer, critic = Agent("writer"), Agent("critic")


class Text(BaseModel):
    text: str
    score: int = 0


class Brief(BaseModel):
    topic: str
    round: int = 1
    previous: Text | None = None


class Texts(BaseModel):
    texts: list[Text | None]


class Fold(BaseModel):
    previous: Text | None
    items: list[Text]


async def noted(text: str) -> str:
    return text


@writer.task(retry=Retry(attempts=1))
async def write(ctx: Context, brief: Brief) -> Text:
    if brief.topic == "bad":
        raise ValueError("nothing to say")
    if brief.topic == "slow":
        await asyncio.sleep(3_600)
    text = await ctx.step("note", noted, f"{brief.topic} {brief.round}")
    return Text(text=text, score=brief.round)


@critic.task
async def judge(ctx: Context, texts: Texts) -> Text:
    said = [text.text for text in texts.texts if text is not None]
    return Text(text=" | ".join(said), score=len(said))


@critic.task
async def fold(ctx: Context, part: Fold) -> Text:
    before = "" if part.previous is None else part.previous.text
    return Text(text=before + "".join(text.text[0] for text in part.items))


AGENTS = [writer, critic]


def race(join: Any = "first-success", topics: tuple[str, ...] = ("slow", "a", "bad")) -> Plan:
    plan = Plan("race")
    runners = [plan.task(f"w{n}", write, topic=topic) for n, topic in enumerate(topics)]
    plan.task("judge", judge, join=join, texts=runners)
    return plan


def reflection() -> Plan:
    plan = Plan("reflection")
    plan.task(
        "draft",
        write,
        topic=plan.input("topic"),
        round=Plan.round,
        previous=Plan.previous,
        repeat={"until": f"{Plan.result['score']} >= `3`", "at_most": 5},
    )
    return plan


def debate() -> Plan:
    plan = Plan("debate")
    sides = [plan.task(name, reflection(), topic=name) for name in ("pro", "contra")]
    plan.task("judge", judge, texts=sides)
    return plan


def folded() -> Plan:
    plan = Plan("folded")
    over = [{"topic": letter} for letter in "abcdefgh"]
    plan.map("letters", write, over=over, reduce=fold)
    return plan


def endless() -> Plan:
    score = Plan.result["score"]
    after = {"when": f"{score} < `3`", "input": {"round": Plan.result["score"]}}
    plan = Plan("endless", continue_as_new=after)
    texts = plan.task("texts", write, topic="x", round=plan.input("round"))
    plan.task("next", judge, texts=[texts, texts, texts])
    return plan


def test_the_first_success_wins_and_the_others_are_stopped() -> None:
    with Simulation(AGENTS) as simulation:
        run = simulation.submit(race())
        assert run.result().get("text") == "a 1"
        assert simulation.violations() == []
        ends = {e.task.task_id: e.task.state for e in run.events if e.task is not None}
        assert ends == {
            "w0": "cancelled",
            "w1": "succeeded",
            "w2": ends["w2"],
            "judge": "succeeded",
        }
        assert ends["w2"] in ("failed", "cancelled")


def test_a_quorum_that_can_not_be_met_fails_with_what_it_had() -> None:
    with Simulation(AGENTS) as simulation:
        run = simulation.submit(race(2, ("bad", "a", "bad")))
        with pytest.raises(RunFailed, match="2 are needed; failed: w0, w2"):
            run.result()
        assert simulation.violations() == []


def test_a_draft_is_written_again_until_it_is_good_enough() -> None:
    with Simulation(AGENTS) as simulation:
        run = simulation.submit(reflection(), {"topic": "x"})
        assert run.result() == {"text": "x 3", "score": 3}
        assert simulation.violations() == []


def test_a_debate_of_two_plans_within_a_plan() -> None:
    with Simulation(AGENTS) as simulation:
        run = simulation.submit(debate())
        assert run.result()["text"] == "pro 3 | contra 3"
        assert simulation.violations() == []


def test_a_map_is_folded() -> None:
    with Simulation(AGENTS) as simulation:
        assert simulation.submit(folded()).result()["text"] == "abcdefgh"
        assert simulation.violations() == []


def test_the_result_of_a_run_without_end_is_that_of_its_last() -> None:
    with Simulation(AGENTS) as simulation:
        plan = endless()
        run = simulation.submit(plan, {"round": 1}, run_id="row")
        assert run.result() == {"text": "x 1 | x 1 | x 1", "score": 3}
        plan.continue_as_new = {"when": "input.round < `4`", "input": {"round": 4}}
        run = simulation.submit(plan, {"round": 1}, run_id="other")
        assert run.result()["text"] == "x 4 | x 4 | x 4"
        assert simulation.violations() == []


@pytest.mark.parametrize(
    "plan",
    [race(topics=("slow", "a")), reflection(), debate(), folded()],
    ids=["race", "reflection", "debate", "folded"],
)
def test_a_crash_at_any_step_changes_nothing(plan: Plan) -> None:
    given = {"topic": "x"}
    expected: Any = None
    for crash in Simulation.crashes(plan, given, agents=AGENTS):
        found = crash.run().result()
        expected = expected or found
        assert found == expected, crash
    assert expected is not None


def test_a_crash_at_any_step_of_a_run_that_goes_on() -> None:
    plan = endless()
    plan.continue_as_new = {"when": "input.round < `2`", "input": {"round": 2}}
    for crash in Simulation.crashes(plan, {"round": 1}, agents=AGENTS):
        assert crash.run().result()["text"] == "x 2 | x 2 | x 2", crash
