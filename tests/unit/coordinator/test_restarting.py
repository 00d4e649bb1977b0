"""Tasks that begin anew: when, with which numbers, and what is refused."""

from __future__ import annotations

import pytest

from holdfast.schemas.plan import Plan
from holdfast.schemas.records import (
    CallAsk,
    CommandAction,
    ControlAction,
    FailureKind,
    Outcome,
    SleepAsk,
    TaskState,
)
from tests.unit.coordinator.host import Host, Raised, given, resolved
from tests.unit.coordinator.test_asks import ask, at_work, begun

RESTART = CommandAction.RESTART


def parked() -> Host:
    host = begun(on_dead_letter="wait")
    failure = Raised(FailureKind.MISMATCH, retryable=False).failure
    host.answer(at_work(host), outcome=Outcome.FAILED, failure=failure)
    host.pump()
    return host


def test_a_parked_task_is_sent_anew_with_the_attempt_its_journal_begins_with() -> None:
    host = parked()
    assert host.command(RESTART, "one").type == "command.accepted"
    assert (at_work(host).attempt, at_work(host).journal_from) == (2, 2)
    failed = Raised().failure
    host.answer(at_work(host), outcome=Outcome.FAILED, failure=failed)
    host.pump()
    host.pass_time(60_000)
    assert (at_work(host).attempt, at_work(host).journal_from) == (3, 2)
    host.answer(at_work(host), {"y": 1})
    host.pump()
    assert host.last_run().type == "run.succeeded"


def test_a_task_at_work_is_cancelled_first_and_what_it_waited_for_is_closed() -> None:
    host = begun()
    ask(host, SleepAsk(1_000_000))
    assert host.command(RESTART, "one").type == "command.accepted"
    assert [c.action for _, c in host.controls] == [ControlAction.CANCEL]
    again = host.command(RESTART, "one")
    assert again.type == "command.refused"
    assert "is being restarted" in again.message
    ask(host, SleepAsk(1_000_000), "late")  # of the attempt that is to end
    assert "result.ignored" in host.told()
    host.answer_cancels()
    host.pump()
    host.pass_time(1)
    assert "ask.closed" in host.told()
    assert (at_work(host).attempt, at_work(host).journal_from) == (2, 2)


def test_a_success_that_comes_before_the_cancel_stands() -> None:
    host = begun()
    host.command(RESTART, "one")
    host.answer(at_work(host), {"y": 1})
    host.pump()
    assert host.last_run().type == "run.succeeded"
    assert at_work(host).attempt == 1


def test_a_run_that_is_cancelled_meanwhile_ends() -> None:
    host = begun()
    host.command(RESTART, "one")
    host.command(CommandAction.CANCEL)
    host.answer_cancels()
    host.pump()
    assert host.last_run().type == "run.cancelled"


def test_a_restarted_task_calls_under_the_old_id_with_attempts_above_the_old_ones() -> None:
    host = begun()
    ask(host, CallAsk("b", "t", None), "call")
    called = host.sent[-1][1]
    refused = host.command(RESTART, "one")
    assert refused.type == "command.refused"
    assert called.task_id in refused.message
    host.answer(called, {"y": 1})
    host.pump()
    host.command(RESTART, "one")
    host.answer_cancels()
    host.pump()
    host.pass_time(1)
    ask(host, CallAsk("b", "t", None), "call")
    again = host.sent[-1][1]
    assert again.task_id == called.task_id
    assert again.attempt == 2_000_001
    host.answer(again, outcome=Outcome.FAILED, failure=Raised().failure)
    host.pump()
    host.pass_time(60_000)
    assert host.sent[-1][1].attempt == 2_000_002  # its own retries are counted from there


@pytest.mark.parametrize("state", ["paused", "unknown", "none", "ended"])
def test_what_cannot_be_restarted_is_refused_with_what_can_be_done(state: str) -> None:
    host = parked()
    task: str | None = "one"
    if state == "paused":
        host.command(CommandAction.PAUSE)
    elif state == "ended":
        host.command(CommandAction.DISCARD, "one")
    else:
        task = None if state == "none" else "two"
    event = host.command(RESTART, task)
    assert event.type == "command.refused"
    told = {
        "paused": "resume it first",
        "unknown": "has no task 'two'",
        "none": "needs the id of a task",
        "ended": "closed",
    }
    assert told[state] in event.message


def test_a_restored_coordinator_goes_on_with_a_restart() -> None:
    host = begun()
    host.command(RESTART, "one")
    host.restart()
    host.answer(at_work(host), outcome=Outcome.CANCELLED)
    host.pump()
    host.pass_time(1)
    assert at_work(host).journal_from == 2
    rows = [e.task for e in host.events if e.task is not None]
    assert rows[-1].state is TaskState.DISPATCHED


def test_what_cannot_be_restarted_says_what_can_be_done() -> None:
    host = begun()
    refused = [host.command(RESTART, task_id).message for task_id in (None, "nobody")]
    assert "restart needs the id of a task" in refused[0]
    assert "has no task 'nobody' that was started" in refused[1]
    assert host.command(CommandAction.PAUSE).type == "command.accepted"
    assert "is paused: resume it first" in host.command(RESTART, "one").message
    assert host.command(CommandAction.RESUME).type == "command.accepted"
    assert host.command(CommandAction.SKIP, "one").type == "command.accepted"
    assert "is cancelling: it cannot be restarted now" in host.command(RESTART, "one").message
    assert host.command(CommandAction.CANCEL).type == "command.accepted"
    host.answer_cancels()
    host.pump()
    assert "it takes no more commands" in host.command(RESTART, "one").message


def test_what_has_ended_is_not_restarted_but_forked_from() -> None:
    host = Host()
    plan = Plan("two")
    one = plan.task("one", "worker.do", x=plan.input("x"))
    plan.task("two", "worker.do", x=one["x"])
    host.submit(resolved(plan), {"x": 1})
    host.work_one(given)
    host.pump()
    refused = host.command(RESTART, "one")
    assert refused.type == "command.refused"
    assert "`holdfast run fork run-1 --from one`" in refused.message
