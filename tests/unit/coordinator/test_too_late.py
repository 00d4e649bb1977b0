"""What comes for something that is no more, or never was: it changes nothing, and says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest

from holdfast.bus.port import Record
from holdfast.coordinator.engine import (
    Continuation,
    Documents,
    Engine,
    Graphs,
    Input,
    TimerDue,
    Values,
    View,
)
from holdfast.schemas.plan import Plan
from holdfast.schemas.records import (
    ChildEnded,
    Command,
    CommandAction,
    CoordinatorEnvelope,
    Outcome,
    RunAsk,
    ScheduleAction,
    SleepAsk,
    TaskProgress,
)
from tests.unit.coordinator.host import Host, resolved
from tests.unit.coordinator.test_asks import ask, at_work, begun, child_of, replies, small, values
from tests.unit.schedules.ground import KEY, Ground


def refuse_once(suits: Callable[[Record], bool]) -> Callable[[Record], bool]:
    left = [True]

    def refuse(record: Record) -> bool:
        refused = left[0] and suits(record)
        left[0] = left[0] and not refused
        return refused

    return refuse


def events(record: Record) -> bool:
    return record.topic == "test.events"


@pytest.mark.parametrize(
    "input_",
    [
        TimerDue("run/run-1", "nobody"),
        TimerDue("run/run-1", ""),
        TimerDue("run/run-1", "one"),
        TimerDue("run/run-2", ""),
        Continuation("run/run-2"),
        TimerDue(KEY, ""),
        TimerDue(KEY, "nobody"),
        Continuation(KEY),
        TimerDue("agent/worker", ""),
    ],
    ids=str,
)
def test_that_a_timer_is_due_is_a_hint_to_look(input_: Input) -> None:
    host = begun()
    engine = Engine(host.limits, Values(cast(Documents, None)), Graphs())
    reaction = engine.react(View(host.machine.state), input_, host.now_ms)
    assert (reaction.effects, reaction.overlay.changes, reaction.more) == ([], {}, False)


def test_a_schedule_that_is_not_due_yet_is_left_as_it_is() -> None:
    ground = Ground()
    ground.create(every_s=60)
    engine = Engine(ground.limits, Values(cast(Documents, None)), Graphs())
    for input_ in (TimerDue(KEY, ""), Continuation(KEY)):
        reaction = engine.react(View(ground.machine.state), input_, ground.now_ms)
        assert (reaction.effects, reaction.overlay.changes) == ([], {})


def test_the_end_of_a_run_that_nobody_waits_for_is_told() -> None:
    host = begun()
    ended = ChildEnded("child", "one", "ask", "", None, None)
    host.deliver(CoordinatorEnvelope("run-1", host.now_ms, ended))
    host.pump()
    assert host.told()[-1] == "result.ignored"
    assert host.events[-1].message == "nobody waits for run 'child'"
    assert replies(host) == []


async def test_who_waits_for_a_run_that_goes_on_as_another_waits_for_that() -> None:
    host = begun()
    ask(host, RunAsk(small(), None, "child", False))
    await host.settle()
    child = child_of(host)
    assert child.parent is not None
    for run_id, successor in (("child", "child-2"), ("child", None), ("child-2", None)):
        ended = ChildEnded(run_id, "one", "ask", "", None, None, successor, successor)
        host.deliver(CoordinatorEnvelope("run-1", host.now_ms, ended))
        host.pump()
        assert len(replies(host)) == (run_id == "child-2")
    assert values(host) == [None]


def test_a_run_waits_for_so_many_things_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.coordinator.engine.run.asks.ASKS_PER_RUN_MAX", 2)
    plan = Plan("two")
    plan.task("one", "a.t", x=1)
    plan.task("two", "a.t", x=1)
    host = Host()
    host.submit(resolved(plan))
    for name, task_id in (("first", "one"), ("second", "two"), ("third", "one")):
        ask(host, SleepAsk(1_000), name, task_id)
    (refused,) = replies(host)
    assert refused.name == "third"
    assert refused.failure is not None
    assert refused.failure.message == "the run waits for 2 things already"


def test_progress_of_what_is_not_at_work_is_not_passed_on() -> None:
    host = begun()
    envelope = at_work(host)
    for other in (replace(envelope, task_id="nobody"), replace(envelope, attempt=2)):
        body = TaskProgress(other.task_id, other.attempt, "on it", None)
        host.deliver(CoordinatorEnvelope("run-1", host.now_ms, body))
        host.pump()
    host.command(CommandAction.CANCEL)
    before = len(host.events)
    host.progress(envelope, "still on it")
    assert host.events[before:] == []
    host.answer(envelope, outcome=Outcome.CANCELLED)
    host.pump()
    assert host.last_run().type == "run.cancelled"


def test_an_answer_that_cannot_be_written_is_a_refusal_that_can() -> None:
    host = Host()
    for run_id in ("nobody", "agent/worker"):
        host.refuse_next = refuse_once(events)
        command = Command("c1", CommandAction.PAUSE, None, "{}", "ann", "because")
        host.deliver(CoordinatorEnvelope(run_id, host.now_ms, command))
        host.pump()
        assert host.events[-1].type == "command.refused"
        assert "refused by the test" in host.events[-1].message
    assert host.journal == {}


def test_a_schedule_that_cannot_be_written_is_not_made() -> None:
    ground = Ground()
    ground.refuse_next = refuse_once(events)
    refused = ground.create(every_s=60)
    assert refused.type == "schedule.refused"
    assert "refused by the test" in refused.message
    assert ground.word(ScheduleAction.PAUSE).type == "schedule.refused", "there is none"


@pytest.mark.parametrize("allowed", [0, 1])
def test_an_output_of_an_item_that_cannot_be_read_is_a_failure_of_the_item(allowed: int) -> None:
    plan = Plan("mapped")
    plan.map("each", "a.t", over=plan.input("items"), on_failure="collect" if allowed else "fail")
    host = Host()
    host.submit(resolved(plan), {"items": [1, 2]})
    first, second = (envelope for _, envelope in host.sent)
    host.answer(first, payload=b"rubbish")
    host.answer(second, "done")
    host.pump()
    if allowed:
        assert host.output() == ["done"]
    else:
        failed = host.last_run()
        assert failed.type == "run.failed"
        assert "its output cannot be read" in failed.message
