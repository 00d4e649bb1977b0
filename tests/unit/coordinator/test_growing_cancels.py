"""Tasks that a change of the plan cancels: they end, and the run goes on without them."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.coordinator.engine import EngineLimits
from holdfast.schemas.codec import decode, encode_json
from holdfast.schemas.plan import Plan
from holdfast.schemas.plan_change import PlanChange
from holdfast.schemas.plan_versions import ResolvedChange
from holdfast.schemas.records import (
    Ask,
    CallAsk,
    ControlAction,
    CoordinatorEnvelope,
    EventType,
    FailureKind,
    Outcome,
    RunState,
    TaskState,
)
from tests.unit.coordinator.growing import (
    begun,
    cancelling,
    change,
    echo,
    revisions,
    state_of,
    version,
)
from tests.unit.coordinator.host import Raised, given


def test_a_cancelled_task_ends_and_its_dependants_go_on_as_if_it_was_skipped() -> None:
    plan = Plan("growing")
    plan.task("planner", "a.work")
    slow = plan.task("slow", "a.work")
    plan.task("both", "a.work", slow=slow, after=["planner"])
    plan.task("alone", "a.work", after=[slow])
    host = begun(plan)
    assert version(change(host, cancelling("slow"))) == 2
    assert state_of(host, "slow") is TaskState.CANCELLING
    host.answer_cancels()
    host.pump()
    assert state_of(host, "slow") is TaskState.CANCELLED
    assert state_of(host, "alone") is TaskState.SKIPPED
    seen: dict[str, Any] = {}
    host.work(lambda e: seen.setdefault(e.task_id, given(e)))
    assert seen["both"] == {"slow": None}
    assert host.last_run().type is EventType.RUN_SUCCEEDED
    assert host.dead_letters == []


@pytest.mark.parametrize("retryable", [True, False])
def test_a_cancelled_attempt_that_fails_meanwhile_does_not_fail_the_run(retryable: bool) -> None:
    plan = Plan("growing")
    plan.task("planner", "a.work")
    plan.task("slow", "a.work")
    host = begun(plan)
    change(host, cancelling("slow"))
    envelope = next(e for _, e in host.sent if e.task_id == "slow")
    host.tasks = type(host.tasks)(t for t in host.tasks if t[1].task_id != "slow")
    host.controls.clear()
    failure = Raised(FailureKind.ERROR, retryable=retryable).failure
    host.answer(envelope, outcome=Outcome.FAILED, failure=failure)
    host.pump()
    assert state_of(host, "slow") is TaskState.CANCELLED
    host.work(echo)
    assert host.last_run().type is EventType.RUN_SUCCEEDED


def test_a_result_that_came_first_holds() -> None:
    plan = Plan("growing")
    plan.task("planner", "a.work")
    slow = plan.task("slow", "a.work")
    plan.task("after", "a.work", slow=slow)
    host = begun(plan)
    change(host, cancelling("slow"))
    envelope = next(e for _, e in host.sent if e.task_id == "slow")
    host.tasks = type(host.tasks)(t for t in host.tasks if t[1].task_id != "slow")
    host.controls.clear()
    host.answer(envelope, {"made": 1})
    seen: dict[str, Any] = {}
    host.work(lambda e: seen.setdefault(e.task_id, given(e)))
    assert seen["after"] == {"slow": {"made": 1}}


def test_a_task_that_waits_for_its_next_attempt_or_for_a_person_is_cancelled_at_once() -> None:
    plan = Plan("growing", on_dead_letter="wait")
    plan.task("planner", "a.work")
    plan.task("retrying", "a.work")
    plan.task("dead", "a.work")
    host = begun(plan)

    def fails(envelope: Any) -> Any:
        raise Raised(retryable=envelope.task_id == "retrying")

    host.work_one(fails, index=1)
    host.work_one(fails, index=1)
    host.pump()
    assert state_of(host, "dead") is TaskState.DEAD
    change(host, cancelling("retrying", "dead"))
    assert state_of(host, "retrying") is TaskState.CANCELLED
    assert state_of(host, "dead") is TaskState.CANCELLED
    host.work(echo)
    assert host.last_run().type is EventType.RUN_SUCCEEDED


def test_what_has_not_been_started_is_skipped_and_what_has_ended_stays() -> None:
    plan = Plan("growing")
    plan.task("done", "a.work")
    plan.task("planner", "a.work", after=["done"])
    plan.task("later", "a.work", after=["planner"])
    host = begun(plan)
    host.work_one(echo)
    host.pump()
    assert version(change(host, cancelling("done", "later"))) == 2
    assert list(ResolvedChange.from_json(revisions(host)[0].revision.change).change.cancel) == [  # type: ignore[union-attr]
        "later"
    ]
    assert state_of(host, "later") is TaskState.SKIPPED


@pytest.mark.parametrize("limits", [None, EngineLimits(records_per_event=34, chunk_items=3)])
def test_a_cancelled_map_lets_its_items_go(limits: EngineLimits | None) -> None:
    plan = Plan("growing")
    plan.task("planner", "a.work")
    each = plan.map("each", "a.work", over=list(range(40)), max_parallel=20)
    plan.task("after", "a.work", each=each)
    host = begun(plan, limits)
    change(host, cancelling("each"))
    host.restart()
    host.pump()
    assert state_of(host, "each") is TaskState.CANCELLED
    assert state_of(host, "after") is TaskState.SKIPPED
    cancels = [c for _, c in host.controlled if c.action is ControlAction.CANCEL]
    assert len(cancels) == 20
    host.work_one(echo)  # the planner; the items are answered last
    host.pump()
    assert host.last_run().run.state is RunState.RUNNING  # type: ignore[union-attr]
    host.work(echo)
    assert host.last_run().type is EventType.RUN_SUCCEEDED
    assert max(map(len, host.commits)) < 500


def test_a_cancelled_handlers_asks_are_closed() -> None:
    plan = Plan("growing")
    plan.task("planner", "a.work")
    plan.task("caller", "a.work")
    host = begun(plan)
    envelope = next(e for _, e in host.sent if e.task_id == "caller")
    call = Ask("caller", 1, "call", "", CallAsk("b", "work", encode_json({})))
    host.deliver(CoordinatorEnvelope("run-1", host.now_ms, call), envelope.reply_key)
    host.pump()
    change(host, cancelling("caller"))
    host.answer_cancels()
    host.pump()
    assert "ask.closed" in host.told()
    host.work(echo)
    assert host.last_run().type is EventType.RUN_SUCCEEDED


def test_a_cancelled_loop_lets_its_round_go() -> None:
    plan = Plan("growing")
    plan.task("planner", "a.work")
    again = plan.task("again", "a.work", repeat={"until": "output.done", "at_most": 5})
    plan.task("after", "a.work", after=[again])
    host = begun(plan)
    change(host, cancelling("again"))
    assert state_of(host, "again") is TaskState.CANCELLED
    assert state_of(host, "after") is TaskState.SKIPPED
    cancelled = [c.task_id for _, c in host.controlled if c.action is ControlAction.CANCEL]
    assert len(cancelled) == 1
    host.work(echo)
    assert host.last_run().type is EventType.RUN_SUCCEEDED


def test_the_run_of_a_cancelled_plan_within_the_plan_is_cancelled() -> None:
    inner = Plan("inner")
    inner.task("one", "a.work")
    plan = Plan("growing")
    plan.task("planner", "a.work")
    plan.task("sub", inner)
    host = begun(plan)
    change(host, cancelling("sub"))
    assert state_of(host, "sub") is TaskState.CANCELLED
    bodies = [decode(CoordinatorEnvelope, record.value or b"").body for record in host.forwarded]
    assert [type(body).__name__ for body in bodies] == ["Submission", "Command"]
    host.work(echo)
    assert host.last_run().type is EventType.RUN_SUCCEEDED


def test_a_plan_within_the_plan_and_a_reducer_may_be_added() -> None:
    inner = Plan("inner")
    inner.task("one", "c.work")
    host = begun()
    what = PlanChange()
    what.task("sub", inner)
    what.map("each", "b.work", over=[{}, {}])
    assert version(change(host, what)) == 2
    assert state_of(host, "sub") is TaskState.EXPANDED
    host.restart()
    host.pump()
    change(host, cancelling("sub"), key="2")
    host.work(echo)
    assert host.last_run().type is EventType.RUN_SUCCEEDED


@pytest.mark.parametrize("how", ["skip", "cancel"])
@pytest.mark.parametrize("begun_before", [True, False])
def test_what_only_a_dropped_task_could_go_on_without_fails_the_run(
    begun_before: bool, how: str
) -> None:
    """The failure of `a` was none of the run's while `end` had `b` as well."""
    plan = Plan("growing")
    planner = plan.task("planner", "a.work")
    a = plan.task("a", "a.work", after=[] if begun_before else [planner])
    b = plan.task("b", "a.work", after=[planner])
    plan.task("end", "a.work", a=a, b=b, join="first-success", losers="leave")
    host = begun(plan)
    what = PlanChange()
    getattr(what, how)("end")
    if begun_before:
        host.work_one(_raise, next(i for i, (_, e) in enumerate(host.tasks) if e.task_id == "a"))
        host.pump()
        assert state_of(host, "a") is TaskState.FAILED
    assert version(change(host, what)) == 2
    host.work(lambda e: _raise(e) if e.task_id == "a" else echo(e))
    assert host.last_run().type is EventType.RUN_FAILED
    assert "task 'a' failed" in host.last_run().message


def _raise(_: Any) -> Any:
    raise Raised(retryable=False)


def test_a_failure_stays_tolerated_while_another_one_goes_on_without_it() -> None:
    plan = Plan("growing")
    plan.task("planner", "a.work")
    a, b = plan.task("a", "a.work"), plan.task("b", "a.work")
    plan.task("end", "a.work", a=a, b=b, join="first-success")
    plan.task("report", "a.work", after=[a])
    host = begun(plan)
    what = PlanChange()
    what.skip("report")
    assert version(change(host, what)) == 2
    host.work(lambda e: _raise(e) if e.task_id == "a" else echo(e))
    assert host.last_run().type is EventType.RUN_SUCCEEDED
