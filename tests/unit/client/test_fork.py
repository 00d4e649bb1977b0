"""What a fork takes over from the old run, and what it works again."""

from __future__ import annotations

import pytest

from holdfast.client import ClientError
from holdfast.client.fork import Changed, Fork, downstream, retry_ids
from holdfast.schemas import EventType, Plan, encode_json, parse_plan
from holdfast.schemas.plan_versions import ResolvedPlan
from holdfast.schemas.records import (
    Event,
    Ruling,
    RulingAction,
    RunRow,
    RunState,
    TaskRow,
    TaskState,
)
from tests.unit.coordinator.host import resolved
from tests.unit.projection.conftest import run_row, task_row


def diamond() -> Plan:
    plan = Plan("diamond")
    top = plan.task("top", "a.t", x=1)
    left = plan.task("left", "a.t", x=top["x"])
    right = plan.map("right", "a.t", over=top["list"])
    plan.task("bottom", "a.t", left=left, right=right)
    plan.task("beside", "a.t", x=2)
    return plan


def event(kind: EventType, run: RunRow | None = None, task: TaskRow | None = None) -> Event:
    return Event("r1", kind, 1, None, run, task, "")


def old(state: RunState = RunState.SUCCEEDED, *tasks: TaskRow) -> Fork:
    fork = Fork()
    begun = event(EventType.RUN_STARTED, run_row("r1", 1))
    begun.plan = resolved(diamond())
    fork.take(begun)
    for task in tasks or [done(n) for n in ("top", "left", "right", "bottom", "beside")]:
        fork.take(event(EventType.TASK_SUCCEEDED, None, task))
    fork.take(event(EventType.RUN_SUCCEEDED, run_row("r1", 2, state)))
    return fork


def done(task_id: str, state: TaskState = TaskState.SUCCEEDED) -> TaskRow:
    row = task_row(task_id, 2, state)
    row.output = encode_json(task_id)
    return row


@pytest.mark.parametrize(
    ("task_id", "reused"),
    [
        ("top", {"beside"}),
        ("left", {"top", "right", "beside"}),
        ("right", {"top", "left", "beside"}),
        ("bottom", {"top", "left", "right", "beside"}),
        ("beside", {"top", "left", "right", "bottom"}),
    ],
)
def test_what_does_not_follow_is_reused(task_id: str, reused: set[str]) -> None:
    made = old().submission_from(task_id, "ann", "new")
    assert set(made.reused) == reused
    assert made.origin == "r1"


def test_what_a_task_has_added_follows_from_it() -> None:
    plan = parse_plan(
        """
name: grown
tasks:
  planner: {task: a.t}
  added: {task: a.t, added_by: planner}
  reads: {task: a.t, input: {x: "${tasks.added.x}"}}
  other: {task: a.t}
"""
    )
    assert downstream(plan, "planner") == {"planner", "added", "reads"}
    assert downstream(plan, "other") == {"other"}


@pytest.mark.parametrize(
    ("task_id", "told"),
    [
        ("right.3", "fork from 'right'"),
        ("left/inner", "fork from 'left'"),
        ("!top", "fork from 'top'"),
        ("~00ff", "called by a handler"),
        ("botom", "did you mean 'bottom'?"),
    ],
)
def test_what_is_no_start_is_told_with_what_is(task_id: str, told: str) -> None:
    with pytest.raises(ClientError) as caught:
        old().submission_from(task_id, "ann", "new")
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("task_id", "reused"),
    [
        ("read", {"first"}),  # nobody has kept the items, so its task works again, and what is
        ("told", {"first"}),  # behind that: another map over the same items
        ("find", {"first"}),
        ("end", {"first", "find", "read", "told"}),
    ],
)
def test_who_handed_out_items_works_again_with_the_map_over_them(
    task_id: str, reused: set[str]
) -> None:
    plan = Plan("arriving")
    first = plan.task("first", "a.t")
    found = plan.task("find", "a.t", after=[first])
    read = plan.map("read", "a.t", over=found.emitted)
    plan.map("told", "a.t", over=found.emitted)
    plan.task("end", "a.t", read=read)
    fork = Fork()
    begun = event(EventType.RUN_STARTED, run_row("r1", 1))
    begun.plan = resolved(plan)
    fork.take(begun)
    for name in ("first", "find", "read", "told", "end"):
        fork.take(event(EventType.TASK_SUCCEEDED, None, done(name)))
    fork.take(event(EventType.RUN_SUCCEEDED, run_row("r1", 2, RunState.SUCCEEDED)))
    assert set(fork.submission_from(task_id, "ann", "new").reused) == reused


def test_the_hash_says_what_was_asked_for() -> None:
    fork = old()
    changed = Changed(encode_json({"x": 2}), "key", "digest")
    hashes = {
        fork.submission_from("left", "ann", "new").input_hash,
        fork.submission_from("right", "ann", "new").input_hash,
        fork.submission_from("left", "ann", "new", changed).input_hash,
        run_row("r1", 1).input_hash,
    }
    assert len(hashes) == 4
    again = fork.submission_from("left", "bob", "other")
    assert again.input_hash == fork.submission_from("left", "ann", "new").input_hash
    made = fork.submission_from("left", "ann", "new", changed)
    assert (made.input, made.order_key) == (changed.input, "key")


def test_what_was_skipped_by_an_operator_stays_so_unless_it_is_worked_again() -> None:
    skipped = done("left", TaskState.SKIPPED)
    skipped.ruling = Ruling(RulingAction.SKIP, "ann", "", "c1", 1)
    by_condition = done("beside", TaskState.SKIPPED)
    fork = old(RunState.SUCCEEDED, done("top"), skipped, by_condition, done("right"))
    plan = ResolvedPlan.from_json(fork.submission_from("bottom", "ann", "new").plan).plan
    assert plan.tasks["left"].dropped == "skip"
    assert plan.tasks["beside"].dropped is None
    plan = ResolvedPlan.from_json(fork.submission_from("top", "ann", "new").plan).plan
    assert plan.tasks["left"].dropped is None


def test_what_was_undone_is_done_anew_under_an_origin_of_its_own() -> None:
    fork = old(RunState.FAILED, done("top"), done("left"), done("beside"), done("!left"))
    made = fork.submission("ann", "new")
    assert set(made.reused) == {"top", "beside"}
    assert made.origin == "new"


def test_a_whole_run_is_forked_only_if_it_was_lost() -> None:
    with pytest.raises(ClientError, match="name the task to fork it from"):
        old().submission("ann", "new")
    assert old(RunState.FAILED).submission("ann", "new").origin == "r1"
    assert not old(RunState.RUNNING).ended


def test_retries_are_counted_from_the_first_run() -> None:
    assert retry_ids("audit")[:2] == ["audit.r1", "audit.r2"]
    assert retry_ids("audit.r7")[0] == "audit.r1"
    assert retry_ids("audit~3")[0] == "audit-3.r1"
    assert len(retry_ids("x" * 128)[-1]) <= 128


@pytest.mark.parametrize("task_id", ["~7df5fd8fb224b4e9", "~7df5fd8fb224b4e97df5"])
def test_what_handlers_called_and_what_reduced_is_not_taken_over(task_id: str) -> None:
    """No plan has such a task: the coordinator would refuse the fork."""
    fork = old(RunState.FAILED, done("top"), done(task_id))
    assert set(fork.submission("ann", "r2").reused) == {"top"}
    assert set(fork.submission_from("left", "ann", "r2").reused) == {"top"}
