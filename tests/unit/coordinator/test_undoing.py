"""Compensation: what had succeeded is undone before a run ends badly, the last success first."""

from __future__ import annotations

import json
from typing import Any

import pytest

from holdfast.schemas.codec import encode_json
from holdfast.schemas.errors import PlanError
from holdfast.schemas.plan import Expression, Plan, Retry
from holdfast.schemas.records import (
    Ask,
    Command,
    CommandAction,
    CoordinatorEnvelope,
    DeadLetterReason,
    Event,
    FailureKind,
    Outcome,
    SleepAsk,
)
from tests.unit.coordinator.host import Host, Raised, given, resolved


def trip(**settings: Any) -> str:
    """Return a plan of three bookings that wait for each other, and a last task."""
    plan = Plan("trip", **settings)
    hotel = plan.task("hotel", "a.book", who=plan.input("who"), compensate="a.release")
    flight = plan.task(
        "flight",
        "a.book",
        after=[hotel],
        n=2,
        compensate={
            "task": "a.release",
            "input": {"id": Plan.result["id"], "n": Plan.given["n"], "who": plan.input("who")},
            "retry": {"attempts": 2},
        },
    )
    car = plan.task("car", "a.book", after=[flight])
    plan.task("pay", "a.pay", after=[car], retry=Retry(attempts=1))
    return resolved(plan)


def book(envelope: Any) -> Any:
    if envelope.task == "pay":
        raise Raised(retryable=False)
    return {"id": f"{envelope.task_id}-1"}


def undone(host: Host, run_id: str = "run-1") -> list[str]:
    """Return what was handed out to undo something, in order."""
    return [e.task_id for _, e in host.sent if e.task_id.startswith("!") and e.run_id == run_id]


def end(host: Host, run_id: str = "run-1") -> str:
    row = host.last_run(run_id).run
    assert row is not None
    return str(row.state)


def cancel(host: Host, run_id: str = "run-1", **arguments: Any) -> Event:
    said = json.dumps(arguments)
    command = Command("c", CommandAction.CANCEL, None, said, "ann", "enough")
    host.deliver(CoordinatorEnvelope(run_id, host.now_ms, command))
    seen = len(host.events)
    host.pump()
    return next(e for e in host.events[seen:] if e.command is not None)


def test_a_run_that_fails_undoes_what_succeeded_in_reverse_order_and_then_fails():
    host = Host()
    host.submit(trip(), {"who": "ann"})
    host.work(book)
    assert undone(host) == ["!flight", "!hotel"]
    assert [given(e) for _, e in host.sent if e.task_id.startswith("!")] == [
        {"id": "flight-1", "n": 2, "who": "ann"},
        {"id": "hotel-1"},
    ]
    assert end(host) == "failed"
    told = host.told()
    assert told.index("run.failing") < told.index("run.compensating")
    assert told.index("task.succeeded !flight") < told.index("task.dispatched !hotel")
    assert told[-1] == "run.failed"
    assert not [key for key in host.journal if key.startswith("run/")]


def test_the_failure_of_the_run_is_what_made_it_fail():
    host = Host()
    host.submit(trip(), {"who": "ann"})
    host.work(book)
    failure = host.last_run().run.failure
    assert failure is not None
    assert failure.kind is FailureKind.ERROR
    assert "'pay'" in failure.message


@pytest.mark.parametrize(
    ("on", "arguments", "expected"),
    [
        ("both", {}, True),
        ("cancel", {}, True),
        ("failure", {}, False),
        ("never", {}, False),
        ("both", {"compensate": False}, False),
        ("never", {"compensate": True}, True),
    ],
)
def test_a_cancel_undoes_as_it_says_or_as_the_plan_says(on, arguments, expected):
    host = Host()
    host.submit(trip(compensate_on=on), {"who": "ann"})
    for _ in range(2):
        host.work_one(book)
        host.pump()
    cancel(host, **arguments)
    host.work(book)
    assert undone(host) == (["!flight", "!hotel"] if expected else [])
    assert end(host) == "cancelled"


@pytest.mark.parametrize(("on", "expected"), [("failure", True), ("cancel", False)])
def test_a_failure_undoes_as_the_plan_says(on, expected):
    host = Host()
    host.submit(trip(compensate_on=on), {"who": "ann"})
    host.work(book)
    assert bool(undone(host)) is expected
    assert end(host) == "failed"


def test_a_cancel_may_name_from_where_on_to_undo():
    host = Host()
    host.submit(trip(compensate_on="never"), {"who": "ann"})
    for _ in range(3):
        host.work_one(book)
        host.pump()
    answer = cancel(host, compensate_from="flight")
    assert answer.message == "cancel, undoing 'flight' and what came of it, by ann: enough"
    host.work(book)
    assert undone(host) == ["!flight"]
    assert end(host) == "cancelled"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"compensate_from": "flihgt"}, "did you mean 'flight'?"),
        ({"compensate_from": "flight", "compensate": False}, "compensate says not to"),
        ({"compensate": "yes"}, "compensate: Input should be a valid boolean"),
        ({"undo": True}, "undo: Extra inputs are not permitted"),
    ],
)
def test_a_cancel_that_cannot_be_understood_is_refused_and_changes_nothing(arguments, said):
    host = Host()
    host.submit(trip(), {"who": "ann"})
    answer = cancel(host, **arguments)
    assert answer.type == "command.refused"
    assert said in answer.message
    assert host.told()[-1] == "command.refused"
    assert "run.cancelling" not in host.told()


def test_nothing_is_undone_before_all_that_is_open_has_ended():
    plan = Plan("two")
    plan.task("done", "a.t", compensate="a.undo")
    plan.task("open", "a.slow")
    host = Host()
    host.submit(resolved(plan))
    slow = next(e for _, e in host.tasks if e.task == "slow")
    host.work_one(lambda _: 1)
    host.pump()
    cancel(host)
    assert undone(host) == []
    assert "run.compensating" not in host.told()
    host.answer(slow, outcome=Outcome.CANCELLED)
    host.pump()
    assert undone(host) == ["!done"]


def test_a_task_that_succeeds_while_it_is_being_cancelled_is_undone_first():
    plan = Plan("two")
    plan.task("early", "a.t", compensate="a.undo")
    plan.task("late", "a.slow", compensate="a.undo")
    host = Host()
    host.submit(resolved(plan))
    slow = next(e for _, e in host.tasks if e.task == "slow")
    host.work_one(lambda _: 1)
    cancel(host)
    host.answer(slow, 2)
    host.pump()
    host.tasks.popleft()  # the one that has answered
    host.controls.clear()
    host.work(lambda _: None)
    assert undone(host) == ["!late", "!early"]
    assert end(host) == "cancelled"


def test_a_compensation_is_tried_again_by_its_policy_and_then_waits_for_a_person():
    def handler(envelope):
        if envelope.task_id == "!flight":
            raise Raised
        return book(envelope)

    host = Host()
    host.submit(trip(on_dead_letter="fail"), {"who": "ann"})
    host.work(handler)
    for _ in range(2):
        host.pass_time(5_000)
        host.work(handler)
    assert undone(host) == ["!flight"] * 3
    assert end(host) == "compensating"
    assert host.told()[-1] == "task.dead !flight"
    letters = [(d.task_id, d.reason) for d in host.dead_letters]
    assert letters[-1] == ("!flight", DeadLetterReason.COMPENSATION)
    host.restart()
    assert host.command(CommandAction.REPLAY, "!flight").type == "command.accepted"
    host.work(book)
    assert undone(host) == [*["!flight"] * 4, "!hotel"]
    assert end(host) == "failed"


def test_a_stuck_compensation_may_be_given_up_and_the_next_follows():
    def handler(envelope):
        if envelope.task_id == "!flight":
            raise Raised(retryable=False)
        return book(envelope)

    host = Host()
    host.submit(trip(), {"who": "ann"})
    host.work(handler)
    answer = host.command(CommandAction.DISCARD, "!flight")
    assert (answer.type, answer.command.actor) == ("command.accepted", "ann")
    host.work(handler)
    assert undone(host) == ["!flight", "!hotel"]
    assert "task.failed !flight" in host.told()
    assert end(host) == "failed"
    assert not [key for key in host.journal if key.startswith("run/")]


def test_a_compensation_whose_input_cannot_be_made_is_stuck_and_cannot_be_replayed():
    plan = Plan("odd")
    plan.task("a", "a.t", compensate={"task": "a.undo", "input": Expression("abs(output)")})
    plan.task("b", "a.fail", after=["a"])

    def handler(envelope):
        if envelope.task == "fail":
            raise Raised(retryable=False)
        return "no number"

    host = Host()
    host.submit(resolved(plan))
    host.work(handler)
    assert (end(host), host.told()[-1]) == ("compensating", "task.dead !a")
    refused = host.command(CommandAction.REPLAY, "!a")
    assert refused.type == "command.refused"
    assert "undo it by hand, and discard this" in refused.message
    host.command(CommandAction.DISCARD, "!a")
    assert end(host) == "failed"


def test_commands_to_a_run_that_is_compensating_are_told_what_can_be_done():
    host = Host()
    host.submit(trip(), {"who": "ann"})
    for _ in range(4):
        host.work_one(book)
        host.pump()
    assert end(host) == "compensating"
    for action in (CommandAction.CANCEL, CommandAction.PAUSE, CommandAction.RESUME):
        answer = host.command(action)
        assert answer.type == "command.refused"
        assert "is compensating" in answer.message
        assert "holdfast dead-letters replay" in answer.message
    host.work(book)
    assert end(host) == "failed"


def test_neither_deadline_nor_grace_cuts_compensations_off():
    host = Host()
    host.submit(trip(deadline_s=60), {"who": "ann"})
    for _ in range(2):
        host.work_one(book)
        host.pump()
    host.pass_time(61_000)
    host.answer_cancels()
    host.pump()
    assert undone(host) == ["!flight"]
    assert next(e for _, e in host.sent if e.task_id == "!flight").deadline_ms is None
    host.pass_time(86_400_000)
    assert end(host) == "compensating"
    host.work(book)
    assert undone(host) == ["!flight", "!hotel"]
    assert end(host) == "failed"


def test_items_of_a_map_are_undone_in_its_window_by_their_outputs_after_all_that_came_later():
    plan = Plan("many")
    first = plan.task("first", "a.t", compensate="a.undo")
    items = plan.map(
        "items", "a.t", over=[1, 2, 3, 4, 5], max_parallel=2, after=[first], compensate="a.undo"
    )
    last = plan.task("last", "a.t", after=[items], compensate="a.undo")
    plan.task("end", "a.fail", after=[last])

    def handler(envelope):
        if envelope.task == "fail":
            raise Raised(retryable=False)
        return f"did {envelope.task_id}"

    host = Host()
    host.submit(resolved(plan))
    while not undone(host):
        host.work_one(handler)
        host.pump()
    assert undone(host) == ["!last"]
    host.work_one(handler)
    host.pump()
    assert undone(host)[1:] == ["!items.4", "!items.3"], "the map's window"
    host.work_one(handler)
    host.pump()
    assert undone(host)[3:] == ["!items.2"]
    host.restart()
    host.work(handler)
    assert undone(host)[1:] == [f"!items.{n}" for n in (4, 3, 2, 1, 0)] + ["!first"]
    assert given(next(e for _, e in host.sent if e.task_id == "!items.3")) == "did items.3"
    assert end(host) == "failed"


def test_rounds_of_a_loop_are_undone_each():
    plan = Plan("loop")
    repeat = {"until": "round == `3`", "at_most": 5}
    plan.task("draft", "a.t", n=Plan.round, repeat=repeat, compensate="a.undo")
    plan.task("end", "a.fail", after=["draft"])

    def handler(envelope):
        if envelope.task == "fail":
            raise Raised(retryable=False)
        return given(envelope)

    host = Host()
    host.submit(resolved(plan))
    host.work(handler)
    assert undone(host) == ["!draft.3", "!draft.2", "!draft.1"]
    assert [given(e) for _, e in host.sent if e.task == "undo"] == [{"n": 3}, {"n": 2}, {"n": 1}]


def test_a_plan_within_the_plan_is_undone_by_what_its_task_says_and_by_its_own_when_it_fails():
    inner = Plan("inner")
    inner.task("x", "a.t", inner.input(), compensate="a.undo")
    plan = Plan("outer")
    plan.task("good", inner, {"n": 1}, compensate={"task": "a.undo", "input": Plan.given})
    bad = Plan("bad")
    bad.task("x", "a.t", compensate="a.undo")
    bad.task("y", "a.fail", after=["x"])
    plan.task("bad", bad, after=["good"])

    def handler(envelope):
        if envelope.task == "fail":
            raise Raised(retryable=False)
        return "x"

    host = Host()
    host.submit(resolved(plan))
    host.work_all(handler)
    sent = [(e.run_id == "run-1", e.task_id) for _, e in host.sent if e.task == "undo"]
    assert sent == [(False, "!x"), (True, "!good")], "the child that fails undoes its own first"
    assert given(host.sent[-1][1]) == {"n": 1}
    assert end(host) == "failed"


def test_a_compensation_has_the_order_key_of_what_it_undoes():
    plan = Plan("keyed")
    plan.task("a", "a.t", order_key=plan.input("customer"), compensate="a.undo")
    plan.task("b", "a.fail", after=["a"])

    def handler(envelope):
        if envelope.task == "fail":
            raise Raised(retryable=False)
        return 1

    host = Host()
    host.submit(resolved(plan), {"customer": "c-7"})
    host.work(handler)
    key, envelope = next((k, e) for k, e in host.sent if e.task_id == "!a")
    assert (key, envelope.order_key) == ("o:c-7", "c-7")


def test_what_a_fork_took_over_is_not_undone():
    host = Host()
    host.submit(trip(), {"who": "ann"}, reused={"hotel": b"\x00\x00\x00\x00\x01\x04{}"})
    host.work(book)
    assert undone(host) == ["!flight"]


def test_a_run_whose_records_cannot_be_written_is_undone_all_the_same():
    host = Host()
    host.submit(trip(), {"who": "ann"})
    host.work_one(book)
    host.pump()
    host.refuse_next = lambda record: b'"car-1"' in (record.value or b"")
    host.work(book)
    host.refuse_next = None
    assert undone(host) == ["!flight", "!hotel"]
    assert end(host) == "failed"
    assert host.last_run().run.failure.kind is FailureKind.TOO_LARGE


def test_what_breaks_a_run_that_is_compensating_ends_it_and_says_how_much_is_left():
    host = Host()
    host.submit(trip(), {"who": "ann"})
    host.refuse_next = lambda record: b"!hotel" in (record.key or b"")
    host.work(book)
    assert end(host) == "failed"
    assert "2 successes were not undone" in host.last_run().run.failure.message or (
        "1 successes were not undone" in host.last_run().run.failure.message
    )


def test_a_restart_at_any_moment_goes_on_where_it_was():
    straight, restarted = Host(), Host()
    restarted.after_commit = restarted.restart
    for host in (straight, restarted):
        host.submit(trip(), {"who": "ann"})
        host.work(book)
    assert restarted.told() == straight.told()
    assert undone(restarted) == undone(straight) == ["!flight", "!hotel"]


def test_an_output_that_an_operator_gave_is_undone_as_the_tasks_own():
    plan = Plan("given")
    plan.task("a", "a.t", retry=Retry(attempts=1), on_dead_letter="wait", compensate="a.undo")
    plan.task("b", "a.fail", after=["a"])

    def handler(envelope):
        if envelope.task in ("fail", "t"):
            raise Raised(retryable=False)

    host = Host()
    host.submit(resolved(plan))
    host.work(handler)
    command = Command("o", CommandAction.OVERRIDE, "a", "{}", "ann", "booked by phone")
    command.output = encode_json("phone-1")
    host.deliver(CoordinatorEnvelope("run-1", host.now_ms, command))
    host.work(handler)
    assert undone(host) == ["!a"]
    assert given(host.sent[-1][1]) == "phone-1"


def test_what_undoes_may_sleep_and_call_others_and_does_not_change_the_plan():
    host = Host()
    host.submit(trip(deadline_s=60), {"who": "ann"})
    for _ in range(4):
        host.work_one(book)
        host.pump()
    _, envelope = host.tasks.popleft()
    assert envelope.task_id == "!flight"
    ask = Ask("!flight", 1, "nap", "", SleepAsk(90_000))
    host.deliver(CoordinatorEnvelope("run-1", host.now_ms, ask))
    host.pump()
    host.pass_time(90_000)
    replies = [c.reply for _, c in host.controlled if c.reply is not None]
    assert [(r.name, r.failure) for r in replies] == [("nap", None)]
    host.answer(envelope, None)
    host.work(book)
    assert undone(host) == ["!flight", "!hotel"]
    assert end(host) == "failed"


def test_a_run_whose_plan_cannot_be_read_any_more_ends_and_says_what_was_not_undone(monkeypatch):
    host = Host()
    host.submit(trip(), {"who": "ann"})
    host.work_one(book)
    host.pump()

    def refusing(source):
        raise PlanError("this plan is of another version")

    monkeypatch.setattr("holdfast.coordinator.engine.graphs.compile_graph", refusing)
    host.restart()
    host.pump()
    assert end(host) == "failed"
    assert "1 successes were not undone" in host.last_run().run.failure.message
