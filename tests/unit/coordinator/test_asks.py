"""What handlers wait for: asks and their answers; nothing is asked, answered or left twice."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from holdfast.schemas.codec import decode, decode_json, encode_json
from holdfast.schemas.plan import Plan, Retry
from holdfast.schemas.records import (
    Ask,
    AskBody,
    CallAsk,
    ChildEnded,
    Command,
    CommandAction,
    ControlAction,
    CoordinatorEnvelope,
    FailureKind,
    Outcome,
    Reply,
    RunAsk,
    Signal,
    SignalAsk,
    SleepAsk,
    Submission,
    TaskEnvelope,
)
from tests.unit.coordinator.host import START_MS, Host, Raised, given, resolved

NUMBERS = itertools.count()


def lone(**settings: Any) -> str:
    plan = Plan("lone", **settings)
    plan.task("one", "a.t", x=1, retry=Retry(attempts=2, jitter=0))
    return resolved(plan)


def begun(**settings: Any) -> Host:
    host = Host()
    host.submit(lone(**settings))
    return host


def at_work(host: Host, task_id: str = "one") -> TaskEnvelope:
    return [e for _, e in host.sent if e.task_id == task_id][-1]


def ask(host: Host, what: AskBody, name: str = "ask", task_id: str = "one", key: str = "") -> None:
    envelope = at_work(host, task_id)
    body = Ask(task_id, envelope.attempt, name, key, what)
    host.deliver(CoordinatorEnvelope(envelope.run_id, host.now_ms, body), envelope.reply_key)
    host.pump()


def signal(host: Host, name: str, payload: Any, signal_id: str | None = None) -> None:
    body = Signal(signal_id or f"s{next(NUMBERS)}", name, encode_json(payload), "ann")
    host.deliver(CoordinatorEnvelope("run-1", host.now_ms, body))
    host.pump()


def replies(host: Host) -> list[Reply]:
    return [
        c.reply
        for _, c in host.controlled
        if c.action is ControlAction.REPLY and c.reply is not None
    ]


def values(host: Host) -> list[Any]:
    return [None if r.result is None else decode_json(r.result) for r in replies(host)]  # type: ignore[arg-type]


def call(**settings: Any) -> CallAsk:
    return CallAsk("b", "work", encode_json({"x": 2}), **settings)


def child_of(host: Host) -> Submission:
    bodies = [decode(CoordinatorEnvelope, r.value or b"").body for r in host.forwarded]
    return next(b for b in bodies if isinstance(b, Submission))


def commands(host: Host) -> list[tuple[str, Command]]:
    envelopes = [decode(CoordinatorEnvelope, r.value or b"") for r in host.forwarded]
    return [(e.run_id, e.body) for e in envelopes if isinstance(e.body, Command)]


def asks_left(host: Host) -> list[str]:
    return [key for key in host.journal if "/ask/" in key]


# --- sleeping ----------------------------------------------------------------------------------


def test_a_sleep_is_answered_when_its_time_has_come() -> None:
    host = begun()
    ask(host, SleepAsk(3 * 86_400_000))
    host.pass_time(3 * 86_400_000 - 1)
    assert replies(host) == []
    host.restart()
    host.pass_time(1)
    assert values(host) == [None]
    assert asks_left(host) == []
    assert [e.type for e in host.events if e.ask] == ["task.asked", "task.answered"]


def test_a_sleep_that_is_over_already_is_answered_at_once_and_journals_nothing() -> None:
    host = begun()
    ask(host, SleepAsk(0))
    assert values(host) == [None]
    assert [str(e.type) for e in host.events if e.ask] == ["task.answered"]


def test_an_ask_stays_open_over_a_retry_and_is_answered_to_the_new_attempt() -> None:
    host = begun()
    ask(host, SleepAsk(10_000))
    host.work(lambda _: (_ for _ in ()).throw(Raised()))
    host.pass_time(1_000)
    assert at_work(host).attempt == 2
    host.pass_time(9_000)
    (control,) = [c for _, c in host.controlled if c.action is ControlAction.REPLY]
    assert control.attempt == 2


def test_an_ask_of_an_attempt_that_is_over_is_ignored() -> None:
    host = begun()
    envelope = at_work(host)
    host.work(given)
    body = Ask("one", envelope.attempt, "ask", "", SleepAsk(1))
    host.deliver(CoordinatorEnvelope("run-1", host.now_ms, body))
    host.pump()
    assert replies(host) == []
    assert asks_left(host) == []


def test_the_end_of_a_task_closes_what_it_waits_for() -> None:
    host = begun()
    ask(host, SleepAsk(10_000))
    host.work(given)
    assert "ask.closed" in host.told()
    assert asks_left(host) == []
    host.pass_time(10_000)
    assert replies(host) == []


def test_a_task_that_waits_for_too_much_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.coordinator.engine.run.asks.ASKS_PER_TASK_MAX", 2)
    host = begun()
    for number in range(3):
        ask(host, SleepAsk(10_000), key=str(number))
    (reply,) = replies(host)
    assert reply.failure is not None
    assert reply.failure.kind is FailureKind.TOO_LARGE


# --- signals -----------------------------------------------------------------------------------


def test_a_signal_goes_to_who_has_waited_longest() -> None:
    host = begun()
    for number in range(2):
        ask(host, SignalAsk("go", None, None), key=str(number))
        host.pass_time(1)
    signal(host, "go", "first")
    signal(host, "go", "second")
    assert [(r.key, v) for r, v in zip(replies(host), values(host), strict=True)] == [
        ("0", "first"),
        ("1", "second"),
    ]


def test_a_signal_that_nobody_waits_for_is_kept_also_over_a_restart() -> None:
    host = begun()
    signal(host, "go", 1)
    signal(host, "other", 2)
    signal(host, "go", 3)
    host.restart()
    ask(host, SignalAsk("go", None, None), key="a")
    ask(host, SignalAsk("go", None, None), key="b")
    assert values(host) == [1, 3]


def test_the_same_signal_counts_once_before_and_after_it_was_taken() -> None:
    host = begun()
    signal(host, "go", 1, "same")
    signal(host, "go", 1, "same")
    ask(host, SignalAsk("go", None, None), key="a")
    signal(host, "go", 1, "same")
    ask(host, SignalAsk("go", None, None), key="b")
    assert values(host) == [1]
    assert [str(e.type) for e in host.events].count("signal.repeated") == 2


def test_a_wait_that_was_in_vain_fails() -> None:
    host = begun()
    ask(host, SignalAsk("go", None, 60_000))
    host.pass_time(60_000)
    (reply,) = replies(host)
    assert reply.failure is not None
    assert reply.failure.kind is FailureKind.TIMEOUT
    assert "'go' came within 60 s" in reply.failure.message
    signal(host, "go", 1)
    assert len(replies(host)) == 1


def test_what_does_not_fit_is_refused_with_the_field_and_the_wait_goes_on() -> None:
    host = begun()
    schema = {"type": "record", "name": "Go", "fields": [{"name": "speed", "type": "long"}]}
    host.schemas.schemas[1_000] = schema
    signal(host, "go", {"speed": "kept, and wrong"})
    ask(host, SignalAsk("go", 1_000, None))
    signal(host, "go", {"speed": "fast"})
    refused = [e for e in host.events if e.type == "signal.refused"]
    assert len(refused) == 2
    assert all("speed" in e.message for e in refused)
    assert replies(host) == []
    signal(host, "go", {"speed": 3})
    assert len(replies(host)) == 1
    assert replies(host)[0].failure is None


def test_a_signal_to_a_run_that_is_closed_or_unknown_is_refused() -> None:
    host = begun()
    host.work(given)
    signal(host, "go", 1)
    assert host.events[-1].type == "signal.refused"
    assert "is closed (succeeded)" in host.events[-1].message


def test_signals_have_a_bound_and_those_taken_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.coordinator.engine.run.signals.SIGNALS_MAX", 2)
    host = begun()
    signal(host, "go", 0)
    ask(host, SignalAsk("go", None, None))
    signal(host, "go", 1)
    signal(host, "go", 2)
    assert host.events[-1].type == "signal.kept"
    signal(host, "go", 3)
    assert host.events[-1].type == "signal.refused"


# --- calls -------------------------------------------------------------------------------------


def test_a_called_task_is_one_of_the_run_and_its_end_is_the_answer() -> None:
    host = begun()
    ask(host, call())
    called = host.sent[-1][1]
    assert (called.task, called.run_id, called.order_key) == ("work", "run-1", None)
    assert called.task_id.startswith("~")
    host.restart()
    host.answer(called, {"y": 4})
    host.pump()
    assert values(host) == [{"y": 4}]
    assert not [key for key in host.journal if "~" in key], "a called task is forgotten at its end"
    host.answer(at_work(host), "done")
    host.pump()
    assert host.output() == "done"


def test_a_called_task_is_tried_again_and_its_failure_is_the_answer() -> None:
    host = begun(on_dead_letter="wait")
    ask(host, call())
    for _ in range(3):
        called = host.sent[-1][1]
        host.answer(called, outcome=Outcome.FAILED, failure=Raised().failure)
        host.pump()
        host.pass_time(60_000)
    (reply,) = replies(host)
    assert reply.failure is not None
    assert reply.failure.message == "error raised"
    assert host.dead_letters == [], "its caller hears of it, and decides"
    assert host.last_run().type == "run.started"


async def test_an_agent_that_nobody_knows_is_looked_for_once_more() -> None:
    host = begun()
    host.agents.trouble = "no agent 'b' is known; did you mean 'a'?"
    ask(host, call())
    await host.settle()
    (reply,) = replies(host)
    assert reply.failure is not None
    assert "did you mean" in reply.failure.message


def test_the_end_of_its_caller_cancels_a_called_task() -> None:
    host = begun()
    ask(host, call())
    called = host.sent[-1][1]
    host.answer(at_work(host), "done")
    host.pump()
    assert host.output() == "done", "nobody needs the end of what nobody waits for"
    told = [c.action for _, c in host.controlled if c.task_id == called.task_id]
    assert told == [ControlAction.CANCEL, ControlAction.RELEASE]
    host.answer(called, outcome=Outcome.CANCELLED)
    host.pump()
    assert host.events[-1].type == "result.ignored"


def test_a_cancel_of_the_run_reaches_what_was_called() -> None:
    host = begun()
    ask(host, call())
    host.command(CommandAction.CANCEL)
    host.work(given)
    assert host.last_run().type == "run.cancelled"
    cancelled = [c.task_id for _, c in host.controlled if c.action is ControlAction.CANCEL]
    assert "one" in cancelled
    assert any(task.startswith("~") for task in cancelled)
    assert asks_left(host) == []


# --- runs --------------------------------------------------------------------------------------


def small() -> str:
    plan = Plan("small", deadline_s=600)
    plan.task("t", "c.work")
    return plan.to_json()


def test_a_child_run_is_submitted_once_and_its_end_is_the_answer() -> None:
    host = begun(deadline_s=100)
    ask(host, RunAsk(small(), encode_json({"a": 1}), None, detached=False))
    child = child_of(host)
    (record,) = host.forwarded
    assert record.topic == "test.coordinator"
    run_id = decode(CoordinatorEnvelope, record.value or b"").run_id
    assert run_id.startswith("run-1.")
    assert child.deadline_ms == START_MS + 100_000
    host.deliver_bytes(record.value or b"", run_id)
    host.forwarded.clear()
    host.pump()
    host.answer(host.sent[-1][1], "made")
    host.pump()
    assert host.output(run_id) == "made"
    (told,) = host.forwarded
    host.deliver_bytes(told.value or b"", (told.key or b"").decode())
    host.pump()
    assert values(host) == ["made"]


def test_a_refused_child_is_an_answer_too() -> None:
    host = begun()
    ask(host, RunAsk(small(), None, "child", detached=False))
    (record,) = host.forwarded
    host.forwarded.clear()
    host.submit(lone(), run_id="child")
    host.deliver_bytes(record.value or b"", "child")
    host.pump()
    (told,) = host.forwarded
    body = decode(CoordinatorEnvelope, told.value or b"").body
    assert isinstance(body, ChildEnded)
    host.deliver_bytes(told.value or b"", (told.key or b"").decode())
    host.pump()
    (reply,) = replies(host)
    assert reply.failure is not None
    assert "was there before" in reply.failure.message


def test_a_detached_run_is_answered_by_its_start_and_lives_on() -> None:
    host = begun(deadline_s=100)
    ask(host, RunAsk(small(), None, "child", detached=True))
    assert values(host) == ["child"]
    child = child_of(host)
    assert child.parent is None
    assert child.deadline_ms is None
    host.work(given)
    assert commands(host) == []


def test_the_end_of_its_parent_cancels_a_child() -> None:
    host = begun()
    ask(host, RunAsk(small(), None, "child", detached=False))
    host.work(given)
    ((run_id, command),) = commands(host)
    assert (run_id, command.action) == ("child", CommandAction.CANCEL)


def test_a_run_that_is_closed_by_force_cancels_its_children() -> None:
    host = begun()
    ask(host, RunAsk(small(), None, "child", detached=False))
    host.command(CommandAction.CANCEL)
    host.pass_time(host.limits.grace_ms)
    assert host.last_run().type == "run.cancelled"
    assert [run_id for run_id, _ in commands(host)] == ["child"]


def test_what_is_called_in_a_pause_is_handed_out_after_it() -> None:
    host = begun()
    host.command(CommandAction.PAUSE)
    ask(host, call())
    host.restart()
    assert [e.task_id for _, e in host.sent] == ["one"]
    host.command(CommandAction.RESUME)
    (called,) = [e for _, e in host.sent if e.task_id != "one"]
    assert (called.task_id[0], called.attempt) == ("~", 1)


def test_what_was_called_in_a_pause_ends_with_its_run() -> None:
    host = begun()
    host.command(CommandAction.PAUSE)
    ask(host, call())
    host.command(CommandAction.CANCEL)
    host.answer_cancels()
    host.pump()
    assert host.last_run().type == "run.cancelled"
    assert [e.task_id for _, e in host.sent] == ["one"]
    assert [key for key in host.journal if key.startswith("run/")] == []


def test_an_ask_that_is_open_is_not_begun_again() -> None:
    host = begun()
    ask(host, call(), name="b.work")
    ask(host, call(), name="b.work")
    assert len([e for _, e in host.sent if e.task == "work"]) == 1
    assert len(asks_left(host)) == 1
    ask(host, SleepAsk(1_000), name="nap")
    ask(host, SleepAsk(1_000), name="nap")
    host.pass_time(1_000)
    assert [reply.name for reply in replies(host)] == ["nap"]
