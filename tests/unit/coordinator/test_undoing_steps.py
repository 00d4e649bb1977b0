"""Steps that can be undone, as the engine hears of them: noted, and undone with task or run."""

from __future__ import annotations

from typing import Any

from holdfast.schemas.codec import encode_json
from holdfast.schemas.plan import Plan, Retry
from holdfast.schemas.records import (
    Ask,
    CommandAction,
    CoordinatorEnvelope,
    DeadLetterReason,
    Outcome,
    UndoAsk,
)
from tests.unit.coordinator.host import Host, Raised, given, resolved
from tests.unit.coordinator.test_undoing import cancel, end, undone


def note(host: Host, envelope: Any, *names: str) -> None:
    """Let an agent tell of steps that it has journaled."""
    for name in names:
        what = UndoAsk("a", "undo", encode_json(f"{envelope.task_id}:{name}"))
        ask = Ask(envelope.task_id, envelope.attempt, name, "", what)
        host.deliver(CoordinatorEnvelope(envelope.run_id, host.now_ms, ask), envelope.reply_key)
    host.pump()


def given_back(host: Host) -> list[Any]:
    return [given(e) for _, e in host.sent if e.task_id.startswith("!")]


def tolerant(**settings: Any) -> str:
    """Return a plan that goes on without one of its two tasks."""
    plan = Plan("tolerant", **settings)
    bad = plan.task("bad", "a.bad", retry=Retry(attempts=1))
    good = plan.task("good", "a.good")
    plan.task("end", "a.end", after=[bad, good], join="any")
    return resolved(plan)


def handler(envelope: Any) -> Any:
    if envelope.task == "bad":
        raise Raised(retryable=False)
    return envelope.task_id


def began(**settings: Any) -> Host:
    """Return a run whose `bad` has told of two steps, and has not failed yet."""
    host = Host()
    host.submit(tolerant(**settings))
    note(host, next(e for _, e in host.tasks if e.task == "bad"), "one", "two")
    return host


def test_steps_of_a_task_that_failed_are_undone_at_once_and_the_run_waits_for_that():
    host = began()
    host.work_one(handler)
    host.pump()
    assert given_back(host) == ["bad:two"]
    host.work(handler)
    assert given_back(host) == ["bad:two", "bad:one"]
    assert end(host) == "succeeded"
    told = host.told()
    assert told[-1] == "run.succeeded"
    assert not [key for key in host.journal if key.startswith("run/")]


def test_steps_of_a_task_that_is_tried_again_are_kept():
    plan = Plan("again")
    plan.task("bad", "a.bad", retry=Retry(attempts=2))
    host = Host()
    host.submit(resolved(plan))
    note(host, host.tasks[0][1], "one")

    def once(envelope: Any) -> Any:
        if envelope.task == "bad" and envelope.attempt == 1:
            raise Raised
        return 1

    host.work(once)
    host.pass_time(10_000)
    host.work(once)
    assert end(host) == "succeeded"
    assert given_back(host) == []


def test_one_that_is_stuck_lets_the_run_wait_for_a_person():
    host = began()

    def stuck(envelope: Any) -> Any:
        if envelope.task_id.startswith("!"):
            raise Raised(retryable=False)
        return handler(envelope)

    host.work(stuck)
    assert end(host) == "waiting"
    assert given_back(host) == ["bad:two"]
    assert host.dead_letters[-1].reason is DeadLetterReason.COMPENSATION
    (name,) = undone(host)
    for action in (CommandAction.SKIP, CommandAction.OVERRIDE):
        refused = host.command(action, name)
        assert (refused.type, "replayed or discarded" in refused.message) == (
            "command.refused",
            True,
        )
    assert host.command(CommandAction.REPLAY, name).type == "command.accepted"
    host.work(handler)
    assert given_back(host) == ["bad:two", "bad:two", "bad:one"]
    assert end(host) == "succeeded"


def test_what_is_being_undone_is_not_cut_off_by_a_cancel_that_wants_no_more_of_it():
    host = began()
    host.work_one(handler)
    host.pump()
    cancel(host, compensate=False)
    host.work(lambda e: e.task_id, limit=50)
    assert given_back(host) == ["bad:two"]
    assert end(host) == "cancelled"


def test_a_stuck_one_keeps_a_cancelled_run_open():
    host = began()

    def stuck(envelope: Any) -> Any:
        if envelope.task_id.startswith("!"):
            raise Raised(retryable=False)
        return handler(envelope)

    host.work_one(stuck)
    host.pump()
    host.work_one(stuck, index=len(host.tasks) - 1)
    host.pump()
    cancel(host, compensate=False)
    host.answer_cancels()
    host.pump()
    assert end(host) == "compensating"
    assert host.machine.state.stuck == 1
    host.command(CommandAction.DISCARD, undone(host)[0])
    assert end(host) == "cancelled"
    assert given_back(host) == ["bad:two"]


def test_a_step_that_comes_when_its_task_was_given_up_is_undone_too():
    plan = Plan("late")
    plan.task("slow", "a.slow")
    plan.task("done", "a.t", compensate="a.undo")
    host = Host()
    host.submit(resolved(plan))
    slow = next(e for _, e in host.tasks if e.task == "slow")
    host.work_one(lambda _: 1, index=1)
    host.pump()
    cancel(host)
    host.pass_time(61_000)  # the grace is over: nobody waits for the agent any longer
    assert undone(host) == ["!done"]
    note(host, slow, "one")
    assert "came after its task had ended: it is undone" in host.events[-1].message
    host.answer(slow, outcome=Outcome.CANCELLED)
    host.work(lambda _: 1)
    assert given_back(host) == [1, "slow:one"]
    assert end(host) == "cancelled"


def test_a_step_that_a_restarted_task_does_again_is_undone_once():
    host = began()
    bad = next(e for _, e in host.tasks if e.task == "bad")
    note(host, bad, "two")
    host.work(handler)
    assert given_back(host) == ["bad:two", "bad:one"]


def test_nothing_is_handed_out_in_a_pause_and_all_of_it_after():
    host = began()
    host.command(CommandAction.PAUSE)
    host.work(handler)
    assert given_back(host) == []
    host.restart()
    host.command(CommandAction.RESUME)
    host.work(handler)
    assert given_back(host) == ["bad:two", "bad:one"]
    assert end(host) == "succeeded"


def test_an_operator_who_skips_a_task_has_its_steps_undone():
    host = began()
    host.command(CommandAction.SKIP, "bad")
    host.work(lambda e: e.task_id)
    assert given_back(host) == ["bad:two", "bad:one"]
    assert end(host) == "succeeded"


def test_a_machine_that_dies_after_every_commit_undoes_the_same():
    told = []
    for mortal in (False, True):
        host = Host()
        if mortal:
            host.after_commit = host.restart
        host.submit(tolerant())
        note(host, next(e for _, e in host.tasks if e.task == "bad"), "one", "two")
        host.work(handler)
        told.append(host.told())
    assert told[0] == told[1]


def test_what_undoes_is_not_undone():
    host = began()
    host.work_one(handler)
    host.pump()
    note(host, next(e for _, e in host.tasks if e.task_id.startswith("!")), "back")
    assert host.told()[-1] == "result.ignored"
    host.work(handler)
    assert given_back(host) == ["bad:two", "bad:one"]
