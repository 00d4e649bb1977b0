"""Plans that stand in tasks, and runs that are continued as new: who tells whom, and who hears."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.schemas.codec import decode
from holdfast.schemas.plan import Plan
from holdfast.schemas.records import (
    ChildEnded,
    CommandAction,
    CoordinatorEnvelope,
    Outcome,
    Submission,
)
from tests.unit.coordinator.host import Host, Raised, given, resolved
from tests.unit.coordinator.test_joins import ended, inputs_of


def inner(**settings: Any) -> Plan:
    plan = Plan("inner", **settings)
    first = plan.task("first", "a.run", value=plan.input("value"))
    plan.task("second", "a.run", value=first["value"])
    return plan


def counted(envelope: Any) -> Any:
    asked = given(envelope)
    return {"value": asked["value"] + 1} if "value" in asked else asked


def child_of(host: Host) -> str:
    return next(e.run_id for e in host.events if e.run_id != "run-1")


def submissions(host: Host) -> list[Submission]:
    told = [decode(CoordinatorEnvelope, record.value) for record in host.log if record.value]
    return [e.body for e in told if isinstance(e.body, Submission)]


def test_a_plan_in_a_task_is_a_run_whose_output_is_the_tasks():
    plan = Plan("outer", deadline_s=60)
    part = plan.task("part", inner(), value=plan.input("value"))
    plan.task("end", "a.end", part=part)
    host = Host()
    host.submit(resolved(plan), {"value": 1})
    host.work_all(counted)
    assert inputs_of(host, "end") == [{"part": {"value": 3}}]
    assert ended(host)[0] == "succeeded"
    (_, child) = submissions(host)
    assert child.deadline_ms == host.events[0].run.deadline_ms
    row = next(e.task for e in host.events if e.task and e.task.task_id == "part")
    assert (row.state, row.child, row.attempt) == ("expanded", child_of(host), 0)
    assert {key.partition("/")[0] for key in host.journal} == {"closed"}


def test_a_time_out_of_the_task_is_a_deadline_of_its_run():
    plan = Plan("outer", deadline_s=60)
    plan.task("part", inner(), value=1, timeout_s=5)
    host = Host()
    host.submit(resolved(plan))
    host.relay()
    host.pass_time(5_000)
    host.answer_cancels()
    host.pump()
    host.relay()
    assert "the run's deadline passed" in ended(host)[1]


def test_a_run_that_fails_fails_its_task_with_the_reason():
    def handler(envelope):
        if envelope.task_id == "second":
            raise Raised(retryable=False)
        return counted(envelope)

    plan = Plan("outer")
    plan.task("part", inner(), value=1)
    host = Host()
    host.submit(resolved(plan))
    host.work_all(handler)
    assert ended(host) == (
        "failed",
        f"task 'part' failed: run '{child_of(host)}' failed: task 'second' failed: error raised",
    )
    assert [letter.run_id for letter in host.dead_letters] == [child_of(host)], "one for both"


@pytest.mark.parametrize("how", ["cancel", "lost"])
def test_the_run_is_told_when_its_task_is_to_end(how):
    plan = Plan("outer")
    part = plan.task("part", inner(), value=1)
    fast = plan.task("fast", "a.fast")
    plan.task("end", "a.end", part=part, fast=fast, join="first-success")
    host = Host()
    host.submit(resolved(plan))
    host.relay()
    if how == "cancel":
        host.command(CommandAction.CANCEL)
    else:
        host.work_one(counted)
    host.pump()
    host.relay()
    assert host.last_run(child_of(host)).run.state == "cancelling"
    host.work_all(counted)
    assert host.last_run(child_of(host)).run.state == "cancelled"
    assert ended(host)[0] == ("cancelled" if how == "cancel" else "succeeded")


def test_a_run_closed_by_force_tells_the_runs_it_started():
    plan = Plan("outer")
    plan.map("part", inner(), over=[{"value": 1}, {"value": 2}])
    lone = plan.task("lone", inner(), value=3)
    fast = plan.task("fast", "b.fast")
    plan.task("late", "b.late", fast=fast)
    plan.task("end", "b.end", lone=lone)
    host = Host()
    host.submit(resolved(plan))
    host.relay()
    host.refuse_next = lambda record: record.topic == "test.tasks.b"
    index = next(i for i, (_, e) in enumerate(host.tasks) if e.task_id == "fast")
    host.work_one(lambda _: {}, index)
    host.pump()
    host.refuse_next = None
    assert ended(host)[0] == "failed", "its records cannot be written"
    host.relay()
    host.work_all(counted)
    states = {e.run_id: str(e.run.state) for e in host.events if e.run}
    assert sorted(states.values()) == ["cancelled", "cancelled", "cancelled", "failed"]


@pytest.mark.parametrize("kind", ["map", "loop", "nested"])
def test_plans_may_be_mapped_repeated_and_nested(kind):
    plan = Plan("outer")
    if kind == "map":
        part = plan.map("part", inner(), over=[{"value": n} for n in range(5)], max_parallel=2)
        expected: Any = [{"value": n + 2} for n in range(5)]
    elif kind == "loop":
        repeat = {"until": f"{Plan.result['value']} > `6`", "at_most": 9}
        part = plan.task("part", inner(), value=Plan.round, repeat=repeat)
        expected = {"value": 7}
    else:
        middle = Plan("middle")
        middle.task("inner", inner(), value=middle.input("value"))
        part = plan.task("part", middle, value=1)
        expected = {"value": 3}
    plan.task("end", "a.end", part=part)
    host = Host()
    host.submit(resolved(plan))
    host.work_all(counted)
    assert inputs_of(host, "end") == [{"part": expected}]
    assert ended(host)[0] == "succeeded"


def test_a_plan_in_a_task_has_an_order_key_of_its_own():
    plan = Plan("outer")
    key = Plan("x").input("who")
    plan.task("part", inner(order_key=key), who="ann", value=1)
    host = Host()
    host.submit(resolved(plan))
    (record,) = host.forwarded
    assert record.key == b"ann"
    host.work_all(counted)
    assert ended(host)[0] == "succeeded"
    plan = Plan("outer")
    plan.task("part", inner(order_key=key), who=["ann"], value=1)
    host = Host()
    host.submit(resolved(plan))
    assert "the order key of plan 'inner'" in ended(host)[1]


# --- continue as new ---------------------------------------------------------------------------


def endless(until: int = 3, **settings: Any) -> Plan:
    after = {
        "when": f"{Plan.result['value']} < `{until}`",
        "input": {"value": Plan.result["value"]},
    }
    plan = Plan("endless", continue_as_new=after, **settings)
    plan.task("step", "a.run", value=plan.input("value"))
    return plan


def test_a_run_goes_on_as_another_and_leaves_its_marker_alone():
    host = Host()
    host.submit(resolved(endless()), {"value": 0})
    host.work_all(counted)
    rows = [e.run for e in host.events if e.type == "run.succeeded"]
    assert [(r.run_id, r.predecessor, r.successor) for r in rows] == [
        ("run-1", None, "run-1~1"),
        ("run-1~1", "run-1", "run-1~2"),
        ("run-1~2", "run-1~1", None),
    ]
    assert [host.read(r.input) for r in rows] == [{"value": n} for n in range(3)]
    assert len({r.origin for r in rows}) == 3, "effects of each have keys of their own"
    assert {key.partition("/")[0] for key in host.journal} == {"closed"}


def test_a_cancel_of_a_run_that_went_on_reaches_the_one_that_is_open():
    host = Host()
    host.submit(resolved(endless(100)), {"value": 0})
    for _ in range(3):
        host.work_one(counted)
        host.pump()
        host.relay()
    answer = host.command(CommandAction.CANCEL)
    assert answer.type == "command.accepted"
    assert answer.message == "run 'run-1' goes on as 'run-1~1', which is told"
    host.restart()
    host.relay()
    host.work_all(counted)
    assert host.last_run("run-1~3").run.state == "cancelled"
    refused = host.command(CommandAction.PAUSE)
    assert refused.message == "run 'run-1' is closed; it goes on as 'run-1~1'"


def test_who_waits_for_a_run_waits_for_the_last_in_the_row():
    plan = Plan("outer")
    part = plan.task("part", endless(), value=0)
    plan.task("end", "a.end", part=part)
    host = Host()
    host.submit(resolved(plan))
    host.work_all(counted)
    assert inputs_of(host, "end") == [{"part": {"value": 3}}]
    told = [decode(CoordinatorEnvelope, r.value).body for r in host.log if r.value]
    ends = [body for body in told if isinstance(body, ChildEnded)]
    assert [body.successor is not None for body in ends] == [True, True, False]


def test_a_cancelled_task_reaches_the_run_that_works_it_now():
    plan = Plan("outer")
    plan.task("part", endless(100), value=0)
    host = Host()
    host.submit(resolved(plan))
    host.relay()
    for _ in range(2):
        host.work_one(counted)
        host.pump()
        host.relay()
    host.command(CommandAction.CANCEL)
    host.relay()
    host.work_all(counted)
    assert host.last_run(f"{child_of(host)}~2").run.state == "cancelled"
    assert not host.machine.state.entities


def test_what_follows_that_can_not_be_made_fails_the_run():
    host = Host()
    plan = endless()
    plan.continue_as_new = {"when": "length(output.value) > `1`", "input": {}}
    host.submit(resolved(plan), {"value": 0})
    host.work_all(counted)
    assert ended(host)[0] == "failed"
    assert "the end of run 'run-1' cannot be made: continue_as_new.when" in ended(host)[1]


def test_an_order_key_is_made_of_the_next_input():
    host = Host()
    plan = endless(2)
    plan.order_key = plan.input("value")
    host.submit(resolved(plan), {"value": 0}, order_key="0")
    host.work_one(counted)
    host.pump()
    (record,) = host.forwarded
    assert record.key == b"1"
    row = next(e.run for e in host.events if e.type == "run.succeeded")
    assert (row.successor, row.successor_key) == ("run-1~1", "1")


def test_a_run_waits_for_nobody_as_long_as_a_plan_within_it_is_worked():
    """What is dead needs a person; but the run says so only when nothing else can go on."""
    plan = Plan("outer", on_dead_letter="wait")
    plan.task("part", inner(), value=1)
    plan.task("dead", "a.dies", value=1)
    host = Host()
    host.submit(resolved(plan))
    dead = next(e for _, e in host.sent if e.task_id == "dead")
    failure = Raised(retryable=False).failure
    host.tasks.clear()
    host.answer(dead, outcome=Outcome.FAILED, failure=failure)
    host.pump()
    assert "run.waiting" not in host.told()
    host.work_all(counted)
    assert host.told()[-1] == "run.waiting"
