"""Attempts that fail: retries, dead letters, waiting for people, mapping failures."""

from __future__ import annotations

import pytest

from holdfast.coordinator.engine.run.retrying import backoff_ms
from holdfast.schemas.plan import Plan, Retry
from holdfast.schemas.records import (
    CommandAction,
    ControlAction,
    FailureKind,
    RetryPolicy,
    RunState,
    TaskState,
)
from tests.unit.coordinator.host import Host, Raised, given, resolved


def lone(**settings) -> str:
    plan = Plan("lone", on_dead_letter=settings.pop("on_dead_letter", "fail"))
    plan.task("one", "a.t", x=1, **settings)
    return resolved(plan)


def fails(kind=FailureKind.ERROR, *, times=99, retryable=True):
    def handler(envelope):
        if envelope.attempt <= times:
            raise Raised(kind, retryable=retryable)
        return given(envelope)

    return handler


def test_a_failed_attempt_is_followed_by_another_after_a_growing_pause():
    host = Host()
    host.submit(lone())
    host.work(fails(times=2))
    assert host.told()[-1] == "task.retrying one"
    host.pass_time(999)
    assert not host.tasks
    host.pass_time(1)
    host.work(fails(times=2))
    host.pass_time(1_999)
    assert not host.tasks
    host.pass_time(1)
    host.work(fails(times=2))
    assert host.output() == {"x": 1}
    assert [e.attempt for _, e in host.sent] == [1, 2, 3]


def test_the_pause_is_bounded_and_jittered_the_same_way_each_time():
    policy = RetryPolicy(attempts=10_000, initial_ms=1_000, factor=10, max_ms=60_000, jitter=0.5)
    delays = [backoff_ms(policy, f"r{i}", "t", 1, 0) for i in range(200)]
    assert delays == [backoff_ms(policy, f"r{i}", "t", 1, 0) for i in range(200)]
    assert len(set(delays)) > 100
    assert all(500 <= delay <= 1_500 for delay in delays)
    assert backoff_ms(policy, "r", "t", 9_999, 0) <= 90_000


def test_when_all_attempts_are_used_the_task_is_in_the_dead_letters_and_the_run_fails():
    host = Host()
    host.submit(lone(retry=Retry(attempts=2, jitter=0)))
    host.work(fails())
    host.pass_time(60_000)
    host.work(fails())
    assert host.told()[-4:] == [
        "task.dispatched one",
        "task.failed one",
        "run.failing",
        "run.failed",
    ]
    (letter,) = host.dead_letters
    assert (letter.reason, letter.attempt, letter.task_id) == ("exhausted", 2, "one")
    assert host.read(letter.input) == {"x": 1}
    assert "error raised" in host.last_run().message
    release = host.controlled[-1][1]
    assert (release.action, release.attempt) == (ControlAction.RELEASE, 2)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (FailureKind.POISON, "poison"),
        (FailureKind.SCHEMA, "schema"),
        (FailureKind.UNDECODABLE, "undecodable"),
        (FailureKind.UNKNOWN_TASK, "unknown_task"),
        (FailureKind.MISMATCH, "mismatch"),
        (FailureKind.OUTCOME_UNKNOWN, "outcome_unknown"),
        (FailureKind.ERROR, "exhausted"),
    ],
)
def test_a_failure_that_cannot_be_retried_goes_to_the_dead_letters_at_once(kind, reason):
    host = Host()
    host.submit(lone())
    host.work(fails(kind, retryable=False))
    assert [letter.reason for letter in host.dead_letters] == [reason]
    assert host.last_run().run.state is RunState.FAILED


def test_a_dead_letter_that_is_waited_for_leaves_the_run_open_and_a_replay_continues_it():
    host = Host()
    host.submit(lone(on_dead_letter="wait", retry=Retry(attempts=1)))
    host.work(fails(times=1))
    assert host.told()[-2:] == ["task.dead one", "run.waiting"]
    assert host.command(CommandAction.REPLAY, "one").type == "command.accepted"
    assert host.sent[-1][1].attempt == 2
    assert host.last_run().run.state is RunState.RUNNING
    host.work(fails(times=1))
    assert host.output() == {"x": 1}


def test_a_replayed_task_has_all_its_retries_again():
    host = Host()
    host.submit(lone(on_dead_letter="wait", retry=Retry(attempts=2, jitter=0)))
    for _ in range(2):
        host.work(fails())
        host.pass_time(60_000)
    assert host.told()[-1] == "run.waiting"
    host.command(CommandAction.REPLAY, "one")
    host.work(fails())
    assert host.told()[-1] == "task.retrying one"


def test_a_discarded_dead_letter_fails_its_run():
    host = Host()
    host.submit(lone(on_dead_letter="wait", retry=Retry(attempts=1)))
    host.work(fails())
    host.command(CommandAction.DISCARD, "one")
    assert host.last_run().type == "run.failed"
    assert not host.machine.state.entities


def test_other_branches_go_on_while_a_dead_letter_waits():
    plan = Plan("branches", on_dead_letter="wait")
    plan.task("bad", "a.t", retry=Retry(attempts=1))
    good = plan.task("good", "a.t", x=1)
    plan.task("next", "a.t", x=good["x"])
    host = Host()
    host.submit(resolved(plan))

    def handler(envelope):
        if envelope.task_id == "bad":
            raise Raised
        return given(envelope)

    host.work(handler)
    assert "task.succeeded next" in host.told()
    assert host.told()[-1] == "run.waiting"


def test_when_a_task_fails_the_others_are_cancelled_and_the_run_waits_for_their_answers():
    plan = Plan("two")
    plan.task("bad", "a.t", retry=Retry(attempts=1))
    plan.task("slow", "b.t")
    plan.task("never", "b.t", after=["slow"])
    host = Host()
    host.submit(resolved(plan))
    host.work_one(fails())
    host.pump()
    assert host.told()[-2:] == ["run.failing", "task.cancelling slow"]
    cancel = host.controlled[-1][1]
    assert (cancel.action, cancel.task_id, cancel.attempt) == (ControlAction.CANCEL, "slow", 1)
    host.work(fails())
    assert host.told()[-2:] == ["task.cancelled slow", "run.failed"]
    assert "task.dispatched never" not in host.told()
    assert host.controlled[-1][1].action is ControlAction.RELEASE


def test_a_result_that_was_under_way_when_the_cancel_was_sent_stands():
    plan = Plan("two")
    plan.task("bad", "a.t", retry=Retry(attempts=1))
    plan.task("slow", "b.t")
    host = Host()
    host.submit(resolved(plan))
    host.work_one(fails())
    host.pump()
    slow = host.sent[1][1]
    host.answer(slow, "done")
    host.pump()
    assert host.told()[-2:] == ["task.succeeded slow", "run.failed"]
    # The agent cannot tell this cancel from one that came before the record: it must be released.
    assert host.controlled[-1][1].action is ControlAction.RELEASE
    host.answer_cancels()
    host.pump()
    assert host.told()[-1] == "result.ignored"


def test_a_retryable_failure_while_the_run_ends_is_not_retried_and_no_dead_letter():
    plan = Plan("two")
    plan.task("bad", "a.t", retry=Retry(attempts=1))
    plan.task("slow", "b.t")
    host = Host()
    host.submit(resolved(plan))
    host.work_one(fails())
    host.pump()
    host.work_one(fails())
    host.pump()
    assert host.told()[-2:] == ["task.cancelled slow", "run.failed"]
    assert [letter.task_id for letter in host.dead_letters] == ["bad"]


def test_an_input_that_cannot_be_mapped_fails_the_task_with_task_field_and_expression():
    plan = Plan("mapping")
    one = plan.task("one", "a.t", x="text")
    plan.task("two", "a.t", total=one.output.__class__(f"sum({one['x']})"))
    host = Host()
    host.submit(resolved(plan))
    host.work(given)
    message = host.last_run().message
    assert host.last_run().type == "run.failed"
    for part in ("'two'", "total", "sum(tasks.one.x)"):
        assert part in message
    assert host.dead_letters[0].reason == "schema"
    assert not [c for c in host.controlled if c[1].task_id == "two"], "it was never sent"


def test_an_input_that_does_not_fit_the_tasks_schema_names_the_field():
    host = Host()
    host.schemas.schemas[1000] = {
        "type": "record",
        "name": "In",
        "fields": [{"name": "number", "type": "long"}],
    }
    plan = Plan("schema")
    plan.task("one", "a.t", number=plan.input("n"))
    host.submit(resolved(plan, schema_id=1000), {"n": "seven"})
    failure = host.last_run().run.failure
    assert failure.kind is FailureKind.SCHEMA
    assert "number" in failure.message
    assert "${input.n}" in failure.message


def test_a_mapping_failure_waits_for_people_where_the_plan_says_so_and_can_be_discarded():
    plan = Plan("mapping", on_dead_letter="wait")
    plan.task("one", "a.t", total=Plan.item.__class__("sum(input.x)"))
    host = Host()
    host.submit(resolved(plan), {"x": "text"})
    assert host.told()[-2:] == ["task.dead one", "run.waiting"]
    host.command(CommandAction.REPLAY, "one")
    assert host.told()[-2:] == ["command.accepted", "task.dead one"]
    host.command(CommandAction.DISCARD, "one")
    assert host.told()[-1] == "run.failed"


def test_the_result_of_an_older_attempt_is_ignored_and_said_so():
    host = Host()
    host.submit(lone())
    first = host.sent[0][1]
    host.work(fails(times=1))
    host.pass_time(60_000)
    host.answer(first, "late")
    host.pump()
    assert host.told()[-1] == "result.ignored"
    assert "attempt 2 is the newest" in host.events[-1].message
    host.work(fails(times=1))
    assert host.output() == {"x": 1}


def test_a_result_that_comes_twice_counts_once():
    host = Host()
    host.submit(lone())
    first = host.sent[0][1]
    host.work(given)
    host.answer(first, "again")
    host.pump()
    assert host.told()[-2:] == ["run.succeeded", "result.ignored"]
    assert "closed (succeeded)" in host.events[-1].message


def test_a_cancelled_attempt_that_nobody_asked_for_is_tried_again():
    host = Host()
    host.submit(lone())
    from holdfast.schemas.records import Outcome

    host.answer(host.sent[0][1], outcome=Outcome.CANCELLED)
    host.pump()
    assert host.told()[-1] == "task.retrying one"
    row = host.events[-1].task
    assert row.state is TaskState.RETRYING
    assert row.failure.kind is FailureKind.CANCELLED
