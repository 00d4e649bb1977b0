"""Tasks that need less than all they wait for: who starts, who loses, what failures do."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.coordinator.engine import EngineLimits
from holdfast.schemas.plan import Plan
from holdfast.schemas.records import CommandAction, FailureKind, TaskEnvelope
from tests.unit.coordinator.host import Handler, Host, Raised, given, resolved

SMALL = EngineLimits(records_per_event=34, chunk_items=3)


def failing(*names: str) -> Handler:
    """Return a handler that fails for good in these tasks, and else says who it is."""

    def handler(envelope: TaskEnvelope) -> Any:
        if envelope.task_id in names:
            raise Raised(retryable=False)
        return {"by": envelope.task_id}

    return handler


def race(join: Any, losers: Any = "cancel", **settings: Any) -> str:
    """Return a plan in which `end` waits for a, b and c."""
    plan = Plan("race", **settings)
    runners = {name: plan.task(name, "a.run") for name in "abc"}
    plan.task("end", "a.end", join=join, losers=losers, **runners)
    return resolved(plan)


def ended(host: Host) -> tuple[str, str]:
    event = host.last_run()
    assert event.run is not None
    return str(event.run.state), event.message


def work_task(host: Host, task_id: str) -> None:
    """Let the agent of one task work it, before any other."""
    index = next(i for i, (_, e) in enumerate(host.tasks) if e.task_id == task_id)
    host.work_one(failing(), index)
    host.pump()


def inputs_of(host: Host, task_id: str) -> list[Any]:
    return [given(envelope) for _, envelope in host.sent if envelope.task_id == task_id]


@pytest.mark.parametrize(
    ("join", "failed", "read"),
    [
        ("any", "", "a"),
        ("any", "a", ""),
        ("first-success", "", "a"),
        ("first-success", "a", "b"),
        ("first-success", "ab", "c"),
        (2, "", "ab"),
        (2, "a", "bc"),
        (3, "", "abc"),
    ],
)
def test_a_join_that_is_met_reads_what_had_succeeded_and_null(join, failed, read):
    host = Host()
    host.submit(race(join))
    host.work(failing(*failed))
    assert ended(host)[0] == "succeeded"
    expected = {name: {"by": name} if name in read else None for name in "abc"}
    assert inputs_of(host, "end") == [expected]
    assert [key.partition("/")[0] for key in host.journal] == ["closed"]


@pytest.mark.parametrize(
    ("join", "failed", "said"),
    [
        ("first-success", "abc", "0 of 3 succeeded; 1 is needed; failed: a, b, c"),
        (2, "ab", "0 of 3 succeeded; 2 are needed; failed: a, b"),
        (3, "b", "1 of 3 succeeded; 3 are needed; failed: b"),
        ("all", "b", None),
    ],
)
def test_a_join_that_can_not_be_met_any_more_fails_with_what_it_had(join, failed, said):
    host = Host()
    host.submit(race(join))
    host.work(failing(*failed))
    expected = f"task 'end' failed: {said}" if said else "task 'b' failed: error raised"
    assert ended(host) == ("failed", expected)
    assert inputs_of(host, "end") == []
    assert ("task.failed end" in host.told()) is bool(said)


def test_losers_are_asked_to_end_and_the_run_waits_for_their_answer():
    host = Host()
    host.submit(race("first-success"))
    host.work_one(failing())
    host.pump()
    assert host.told()[-3:] == ["task.dispatched end", "task.cancelling b", "task.cancelling c"]
    assert [c.task_id for _, c in host.controls] == ["b", "c"]
    assert {c.reason for _, c in host.controls} == {FailureKind.NOT_NEEDED}
    host.work_one(failing(), index=2)
    host.pump()
    assert host.told()[-1] == "task.succeeded end", "b and c may still be at work"
    host.answer_cancels()
    host.pump()
    assert ended(host)[0] == "succeeded"


def test_losers_may_be_left():
    host = Host()
    host.submit(race(1, "leave"))
    host.work(failing("c"))
    assert "task.cancelling b" not in host.told()
    assert "task.succeeded b" in host.told()
    assert "task.failed c" in host.told(), "and their failure changes nothing"
    assert ended(host)[0] == "succeeded"


def test_a_loser_whose_agent_never_answers_is_ended_after_the_grace():
    host = Host()
    host.submit(race("any"))
    for _ in range(2):
        host.work_one(failing(), index=len(host.tasks) - 1)
        host.pump()
    host.controls.clear()
    assert ended(host)[0] == "running"
    host.restart()
    host.pass_time(host.limits.grace_ms)
    assert ended(host)[0] == "succeeded"
    assert host.told().count("task.cancelled a") == 1
    host.answer(host.sent[0][1], {"by": "a ghost"})
    host.pump()
    assert host.told()[-1] == "result.ignored", "what it still says is not heard"


def test_a_loser_that_succeeds_or_fails_before_it_hears_is_what_it_is():
    for handler, state in ((failing(), "succeeded"), (failing("b"), "cancelled")):
        host = Host()
        host.submit(race("first-success"))
        host.work_one(handler)
        host.pump()
        host.work_one(handler)  # b, which was asked to end
        host.pump()
        host.work(handler)
        assert f"task.{state} b" in host.told()
        assert ended(host)[0] == "succeeded"


def test_what_only_losers_need_is_ended_with_them():
    plan = Plan("deep")
    fast = plan.task("fast", "a.run")
    first = plan.task("first", "a.run")
    shared = plan.task("shared", "a.run")
    second = plan.task("second", "a.run", first=first, shared=shared)
    plan.task("end", "a.end", fast=fast, second=second, join="first-success")
    plan.task("other", "a.end", shared=shared)
    host = Host()
    host.submit(resolved(plan))
    host.work(failing())
    told = host.told()
    assert "task.cancelled second" in told, "it was never started"
    assert "task.cancelling first" in told
    assert "task.cancelling shared" not in told, "another task needs it"
    assert ended(host)[0] == "succeeded"


def test_the_failure_of_a_branch_of_several_tasks_is_tolerated_too():
    plan = Plan("branches")
    ends = []
    for name in ("left", "right"):
        first = plan.task(f"{name}-1", "a.run")
        ends.append(plan.task(f"{name}-2", "a.run", first=first))
    plan.task("end", "a.end", ends=ends, join=1)
    host = Host()
    host.submit(resolved(plan))
    host.work(failing("left-1"))
    lost = next(e for e in host.events if e.task and e.task.task_id == "left-2")
    assert lost.type == "task.failed"
    assert lost.task.failure.message == ("task 'left-1', which it waits for, failed: error raised")
    assert ended(host)[0] == "succeeded"
    assert [letter.task_id for letter in host.dead_letters] == ["left-1"], "it is kept all the same"


def test_a_failure_that_reaches_an_end_of_the_plan_another_way_is_fatal():
    plan = Plan("both")
    a, b = plan.task("a", "a.run"), plan.task("b", "a.run")
    plan.task("end", "a.end", a=a, b=b, join=1)
    plan.task("strict", "a.end", a=a)
    host = Host()
    host.submit(resolved(plan))
    host.work(failing("a"))
    assert ended(host) == ("failed", "task 'a' failed: error raised")


def test_a_join_on_a_join_carries_failures_on():
    plan = Plan("nested")
    runners = [plan.task(name, "a.run") for name in "abcd"]
    one = plan.task("one", "a.join", of=runners[:2], join=2)
    two = plan.task("two", "a.join", of=runners[2:], join=1)
    plan.task("end", "a.end", one=one, two=two, join="first-success")
    host = Host()
    host.submit(resolved(plan))
    host.work(failing("a", "c"))
    assert inputs_of(host, "end") == [{"one": None, "two": {"by": "two"}}]
    assert "task.failed one" in host.told()
    assert ended(host)[0] == "succeeded"


def test_what_was_skipped_neither_meets_a_join_nor_breaks_it():
    plan = Plan("skips")
    a = plan.task("a", "a.run", when="`false`")
    b = plan.task("b", "a.run", when="`false`")
    c = plan.task("c", "a.run")
    plan.task("one", "a.end", a=a, c=c, join=1)
    plan.task("none", "a.end", a=a, b=b, join=1)
    host = Host()
    host.submit(resolved(plan))
    assert "task.skipped none" in host.told()
    host.work(failing())
    assert inputs_of(host, "one") == [{"a": None, "c": {"by": "c"}}]
    plan.task("two", "a.end", a=a, c=c, join=2)
    host = Host()
    host.submit(resolved(plan))
    host.work(failing())
    assert ended(host)[1] == (
        "task 'two' failed: 0 of 2 succeeded; 2 are needed; failed: none; skipped or cancelled: a"
    )


def test_a_dead_letter_that_waits_is_a_loser_too():
    host = Host()
    host.submit(race("first-success", on_dead_letter="wait"))
    host.work_one(failing("a"))
    host.pump()
    assert host.told()[-1] == "task.dead a", "it may be replayed: the join can be met by it"
    host.work(failing())
    assert "task.cancelled a" in host.told()
    assert ended(host)[0] == "succeeded"


def test_a_run_waits_for_people_if_only_a_dead_letter_can_meet_its_join():
    host = Host()
    host.submit(race(3, on_dead_letter="wait"))
    host.work(failing("a"))
    assert ended(host)[0] == "waiting"
    host.command(CommandAction.REPLAY, "a")
    host.work(failing())
    assert ended(host)[0] == "succeeded"


def test_a_join_of_a_paused_run_starts_nothing_before_it_goes_on():
    host = Host()
    host.submit(race(1))
    host.command(CommandAction.PAUSE)
    host.work(failing())
    assert inputs_of(host, "end") == []
    host.restart()
    host.command(CommandAction.RESUME)
    host.work(failing())
    assert len(inputs_of(host, "end")) == 1
    assert ended(host)[0] == "succeeded"


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_map_that_loses_lets_its_items_end(cancelled):
    plan = Plan("wide")
    items = plan.map("items", "a.item", over=list(range(40)), max_parallel=30)
    fast = plan.task("fast", "a.run")
    plan.task("end", "a.end", items=items, fast=fast, join="first-success")
    host = Host(SMALL)
    host.submit(resolved(plan))
    work_task(host, "fast")
    assert "task.cancelled items" in host.told()
    if cancelled:
        assert host.command(CommandAction.CANCEL).type == "command.accepted"
    host.restart()
    host.work(failing())
    states = {e.task.task_id: e.task.state for e in host.events if e.task}
    assert {s for n, s in states.items() if n.startswith("items.")} == {"cancelled"}
    assert ended(host)[0] == ("cancelled" if cancelled else "succeeded")
    assert [key.partition("/")[0] for key in host.journal] == ["closed"]


def test_a_map_that_fails_is_tolerated_and_its_other_items_are_ended():
    plan = Plan("wide")
    items = plan.map("items", "a.item", over=list(range(5)))
    other = plan.task("other", "a.run")
    plan.task("end", "a.end", items=items, other=other, join=1)
    host = Host()
    host.submit(resolved(plan))
    host.work(failing("items.0"))
    told = host.told()
    assert "task.failed items" in told
    assert "task.cancelling items.1" in told
    assert inputs_of(host, "end") == [{"items": None, "other": {"by": "other"}}]
    assert ended(host)[0] == "succeeded"


def test_a_map_reads_what_had_succeeded_at_its_start_however_late():
    """With losers that are left: a chunk that is made later sees no more than the first."""
    plan = Plan("late")
    a, b = plan.task("a", "a.run"), plan.task("b", "a.run")
    over = list(range(8))
    plan.map(
        "items",
        "a.item",
        over=over,
        max_parallel=1,
        join=1,
        losers="leave",
        item=Plan.item,
        a=a,
        b=b,
    )
    host = Host(SMALL)
    host.submit(resolved(plan))
    host.work(failing())
    seen = [given(e)["b"] for _, e in host.sent if e.task_id.startswith("items.")]
    assert seen == [None] * len(over)


def test_a_deadline_while_losers_end_is_a_deadline():
    host = Host()
    host.submit(race(1, deadline_s=5))
    host.work_one(failing())
    host.pump()
    host.pass_time(6_000)
    host.answer_cancels()
    host.pump()
    assert ended(host) == ("failed", "the run's deadline passed")
