"""Tasks that are worked again: rounds, bounds, failures, and what stays in the state."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.schemas.plan import Plan
from holdfast.schemas.records import CommandAction
from tests.unit.coordinator.host import Host, Raised, given, resolved
from tests.unit.coordinator.test_joins import ended, inputs_of


def loop(until: str = "output.score >= `3`", at_most: int = 5, **settings: Any) -> str:
    plan = Plan("loop", **{k: settings.pop(k) for k in ("on_dead_letter",) if k in settings})
    repeat = {"until": until, "at_most": at_most, **settings}
    draft = plan.task(
        "draft",
        "a.write",
        topic=plan.input("topic"),
        before=Plan.previous,
        n=Plan.round,
        repeat=repeat,
    )
    plan.task("end", "a.end", got=draft)
    return resolved(plan)


def write(envelope: Any) -> Any:
    asked = given(envelope)
    return {"score": asked["n"]} if "n" in asked else asked


def test_a_task_is_repeated_until_the_condition_holds_and_reads_the_round_before():
    host = Host()
    host.submit(loop(), {"topic": "x"})
    host.work(write)
    assert [given(e) for _, e in host.sent][:3] == [
        {"topic": "x", "before": None, "n": 1},
        {"topic": "x", "before": {"score": 1}, "n": 2},
        {"topic": "x", "before": {"score": 2}, "n": 3},
    ]
    assert inputs_of(host, "end") == [{"got": {"score": 3}}]
    last = [e.task for e in host.events if e.task and e.task.task_id == "draft"][-1]
    assert (last.state, last.done, last.total) == ("succeeded", 3, 5)


def test_only_the_last_round_stays_in_the_state():
    host = Host()
    host.submit(loop("`false`", 1_000), {"topic": "x"})
    for _ in range(200):
        host.work_one(write)
        host.pump()
        rounds = [key for key in host.journal if key.startswith("run/run-1/draft.")]
        assert len(rounds) == 1
    host.restart()
    host.work(write)
    assert inputs_of(host, "end") == [{"got": {"score": 1_000}}]
    assert sum(t.startswith("task.succeeded draft.") for t in host.told()) == 1_000


@pytest.mark.parametrize("exhausted", ["succeed", "fail"])
def test_a_loop_ends_after_its_last_round_whatever_holds(exhausted):
    host = Host()
    host.submit(loop("`false`", 2, on_exhausted=exhausted), {"topic": "x"})
    host.work(write)
    assert len(host.sent) == (3 if exhausted == "succeed" else 2)
    if exhausted == "fail":
        assert ended(host) == (
            "failed",
            "task 'draft' failed: 'until' did not hold after 2 rounds, which is all it may have",
        )


def test_a_round_that_fails_for_good_fails_the_loop():
    def handler(envelope):
        if envelope.task_id == "draft.2":
            raise Raised(retryable=False)
        return write(envelope)

    host = Host()
    host.submit(loop(), {"topic": "x"})
    host.work(handler)
    assert ended(host) == ("failed", "task 'draft' failed: round 2 did not succeed: error raised")
    assert [letter.task_id for letter in host.dead_letters] == ["draft.2"]


def test_a_round_is_retried_and_replayed_like_any_task():
    def handler(envelope):
        if envelope.task_id != "end" and envelope.attempt < 5:
            raise Raised
        return write(envelope)

    host = Host()
    host.submit(loop(at_most=1, on_dead_letter="wait"), {"topic": "x"})
    for _ in range(3):
        host.work(handler)
        host.pass_time(100_000)
    assert ended(host)[0] == "waiting"
    assert host.command(CommandAction.REPLAY, "draft.1").type == "command.accepted"
    for _ in range(3):
        host.work(handler)
        host.pass_time(100_000)
    assert ended(host)[0] == "succeeded"
    assert given(host.sent[-2][1]) == {"topic": "x", "before": None, "n": 1}


def test_a_condition_that_fails_on_its_values_fails_the_loop():
    host = Host()
    host.submit(loop("length(output.score) > `1`"), {"topic": "x"})
    host.work(write)
    assert ended(host)[1].startswith("task 'draft' failed: after round 1: until: expression")


def test_an_input_that_can_not_be_made_fails_its_round():
    plan = Plan("loop")
    text = Plan.previous["text"]
    repeat = {"until": "`false`", "at_most": 3}
    plan.task("draft", "a.write", n=f"${{length({text})}}", repeat=repeat)
    document = plan.document().model_dump(mode="json")
    document["tasks"]["draft"]["input"] = {"n": "${length(previous.text)}"}
    host = Host()
    host.submit(resolved(type(plan.document()).model_validate(document)))
    host.work(lambda envelope: {"text": 1})
    assert "round 1: task 'draft': the input of a.write cannot be made" in ended(host)[1]


def test_a_paused_loop_begins_no_round():
    host = Host()
    host.submit(loop(), {"topic": "x"})
    host.command(CommandAction.PAUSE)
    host.work(write)
    assert len(host.sent) == 1
    host.restart()
    host.command(CommandAction.RESUME)
    host.work(write)
    assert ended(host)[0] == "succeeded"


def test_a_cancel_reaches_the_round():
    host = Host()
    host.submit(loop(), {"topic": "x"})
    host.command(CommandAction.CANCEL)
    host.work(write)
    assert ended(host)[0] == "cancelled"
    assert "task.cancelled draft.1" in host.told()
    assert "task.cancelled draft" in host.told()


def test_a_loop_that_loses_a_race_begins_no_further_round():
    plan = Plan("race")
    repeat = {"until": "`false`", "at_most": 100}
    slow = plan.task("slow", "a.write", n=Plan.round, repeat=repeat)
    fast = plan.task("fast", "a.fast")
    plan.task("end", "a.end", slow=slow, fast=fast, join="first-success")
    host = Host()
    host.submit(resolved(plan))
    host.work_one(lambda envelope: {"by": "fast"}, index=1)
    host.pump()
    host.work(write)
    assert {e.task_id for _, e in host.sent} == {"slow.1", "fast", "end"}
    assert ended(host)[0] == "succeeded"
