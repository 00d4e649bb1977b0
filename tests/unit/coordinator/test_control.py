"""What operators and time do to a run: cancel, pause, deadlines, queue time-outs, grace."""

from __future__ import annotations

import pytest

from holdfast.schemas.plan import Plan, Retry
from holdfast.schemas.records import (
    CommandAction,
    ControlAction,
    Outcome,
    RunState,
    TaskState,
)
from tests.unit.coordinator.host import Host, Raised, given, resolved


def pair(**settings) -> str:
    plan = Plan("pair", **settings)
    one = plan.task("one", "a.t", x=1, retry=Retry(attempts=2, jitter=0))
    plan.task("two", "b.t", x=one["x"])
    return resolved(plan)


def failing(envelope):
    raise Raised


def test_a_cancelled_run_ends_when_its_agents_have_answered():
    host = Host()
    host.submit(pair())
    host.command(CommandAction.CANCEL)
    assert host.told()[-3:] == ["command.accepted", "run.cancelling", "task.cancelling one"]
    host.work(given)
    assert host.told()[-2:] == ["task.cancelled one", "run.cancelled"]
    assert [c.action for _, c in host.controlled] == [ControlAction.CANCEL, ControlAction.RELEASE]
    assert host.last_run().message == "because"


def test_a_run_of_which_nothing_is_under_way_is_cancelled_at_once():
    host = Host()
    host.submit(pair())
    host.work(failing)
    host.command(CommandAction.CANCEL)
    assert host.told()[-2:] == ["task.cancelled one", "run.cancelled"]
    assert host.controlled[-1][1].action is ControlAction.RELEASE
    host.pass_time(10_000)
    assert len(host.sent) == 1, "the retry's timer died with the run"


def test_a_run_whose_agent_never_answers_is_closed_when_its_grace_is_over():
    host = Host()
    host.submit(pair())
    host.command(CommandAction.CANCEL)
    late = host.sent[0][1]
    host.pass_time(host.limits.grace_ms - 1)
    assert host.told()[-1] == "task.cancelling one"
    host.restart()
    host.pass_time(1)
    assert host.told()[-2:] == ["task.cancelled one", "run.cancelled"]
    assert host.controlled[-1][1].action is ControlAction.RELEASE
    host.answer(late, outcome=Outcome.CANCELLED)
    host.pump()
    assert host.told()[-1] == "result.ignored"


def test_a_paused_run_starts_nothing_and_goes_on_when_resumed():
    host = Host()
    host.submit(pair())
    assert host.command(CommandAction.PAUSE).type == "command.accepted"
    host.work(given)
    assert host.told()[-1] == "task.succeeded one"
    host.restart()
    host.pump()
    host.command(CommandAction.RESUME)
    assert host.told()[-2:] == ["run.resumed", "task.dispatched two"]
    host.work(given)
    assert host.output() == {"x": 1}


def test_a_retry_that_comes_due_while_paused_waits_for_the_resume():
    host = Host()
    host.submit(pair())
    host.command(CommandAction.PAUSE)
    host.work(failing)
    host.pass_time(60_000)
    assert len(host.sent) == 1
    host.restart()
    host.pass_time(60_000)
    assert len(host.sent) == 1
    host.command(CommandAction.RESUME)
    assert [e.attempt for _, e in host.sent] == [1, 2]


def test_the_last_task_of_a_paused_run_still_ends_it():
    plan = Plan("lone")
    plan.task("one", "a.t", x=1)
    host = Host()
    host.submit(resolved(plan))
    host.command(CommandAction.PAUSE)
    host.work(given)
    assert host.output() == {"x": 1}


@pytest.mark.parametrize(
    ("before", "action", "says"),
    [
        ([], CommandAction.RESUME, "is running"),
        ([CommandAction.PAUSE], CommandAction.PAUSE, "is paused"),
        ([CommandAction.CANCEL], CommandAction.CANCEL, "is cancelling"),
        ([CommandAction.CANCEL], CommandAction.PAUSE, "is cancelling"),
        ([], CommandAction.REPLAY, "not in the dead letters"),
        ([], CommandAction.DISCARD, "not in the dead letters"),
    ],
)
def test_a_command_that_does_not_fit_is_refused_with_the_state(before, action, says):
    host = Host()
    host.submit(pair())
    for each in before:
        host.command(each)
    event = host.command(action, "one")
    assert event.type == "command.refused"
    assert says in event.message
    assert event.command is not None


def test_commands_for_runs_and_tasks_that_are_not_there_are_refused():
    host = Host()
    assert "no run 'run-1'" in host.command(CommandAction.CANCEL).message
    host.submit(pair())
    assert "no task 'uno'" in host.command(CommandAction.REPLAY, "uno").message
    assert "needs the id of a task" in host.command(CommandAction.DISCARD).message
    host.work(given)
    assert "closed (succeeded)" in host.command(CommandAction.CANCEL).message


def test_a_replay_while_paused_says_to_resume_first():
    plan = Plan("wait", on_dead_letter="wait")
    plan.task("one", "a.t", retry=Retry(attempts=1))
    host = Host()
    host.submit(resolved(plan))
    host.work(failing)
    host.command(CommandAction.PAUSE)
    assert "resume it first" in host.command(CommandAction.REPLAY, "one").message
    host.command(CommandAction.RESUME)
    assert host.told()[-1] == "run.waiting"


def test_a_run_that_passes_its_deadline_fails_and_keeps_what_it_cut_off():
    host = Host()
    host.submit(pair(deadline_s=10))
    assert host.sent[0][1].deadline_ms == host.now_ms + 10_000
    host.pass_time(9_999)
    host.restart()
    host.pass_time(1)
    assert host.told()[-2:] == ["run.failing", "task.cancelling one"]
    host.work(given)
    assert host.told()[-2:] == ["task.failed one", "run.failed"]
    assert host.last_run().run.failure.kind == "deadline"
    assert [letter.reason for letter in host.dead_letters] == ["deadline"]


def test_a_deadline_ends_a_run_that_waits_for_people_too():
    plan = Plan("wait", on_dead_letter="wait", deadline_s=10)
    plan.task("one", "a.t", retry=Retry(attempts=1))
    host = Host()
    host.submit(resolved(plan))
    host.work(failing)
    assert host.told()[-1] == "run.waiting"
    host.pass_time(10_000)
    assert host.last_run().run.state is RunState.FAILED


def queued() -> str:
    plan = Plan("queued")
    plan.task("one", "a.t", x=1)
    return resolved(plan, queue_timeout_ms=5_000)


def test_a_task_that_is_not_begun_in_time_is_cancelled_and_tried_again():
    host = Host()
    host.submit(queued())
    host.pass_time(5_000)
    expiry = host.controlled[-1][1]
    assert (expiry.action, expiry.reason) == (ControlAction.EXPIRE, "queue_timeout")
    host.answer_cancels()
    host.pump()
    row = host.events[-1].task
    assert (row.state, row.failure.kind) == (TaskState.RETRYING, "queue_timeout")
    host.pass_time(1_000)
    assert [e.attempt for _, e in host.sent] == [1, 2]
    host.work(given)
    assert host.output() == {"x": 1}
    assert host.controlled[-1][1].action is ControlAction.RELEASE


def test_a_queue_time_out_that_comes_too_late_lets_the_result_count():
    host = Host()
    host.submit(queued())
    host.pass_time(5_000)
    host.controls.clear()
    host.work(given)
    assert host.output() == {"x": 1}
    assert host.controlled[-1][1].action is ControlAction.RELEASE


def test_a_run_can_be_cancelled_while_a_queue_time_out_is_being_answered():
    host = Host()
    host.submit(queued())
    host.pass_time(5_000)
    host.command(CommandAction.CANCEL)
    host.work(given)
    assert host.told().count("result.ignored") == 1
    assert "run.cancelled" in host.told()


def test_progress_is_passed_on_and_ends_the_time_in_the_queue():
    host = Host()
    host.submit(queued())
    host.progress(host.sent[0][1], "half way")
    assert host.told()[-1] == "task.progressed one"
    assert "half way (50%)" in host.events[-1].message
    host.restart()
    host.pass_time(60_000)
    assert not host.controlled
    host.work(given)
    seen = len(host.events)
    host.progress(host.sent[0][1], "too late")
    assert len(host.events) == seen
