"""What operators do with one task: skip, override, retry."""

from __future__ import annotations

import pytest

from holdfast.coordinator import metrics
from holdfast.schemas.codec import encode_json
from holdfast.schemas.plan import Plan, Retry
from holdfast.schemas.records import (
    Command,
    CommandAction,
    ControlAction,
    CoordinatorEnvelope,
    Event,
    Outcome,
    RulingAction,
    RunState,
    TaskState,
)
from tests.unit.coordinator.host import Host, Raised, given, resolved
from tests.unit.coordinator.test_asks import ask, begun, call, values


def pair(**settings) -> str:
    plan = Plan("pair", **settings)
    one = plan.task("one", "a.t", x=1, retry=Retry(attempts=2, jitter=0))
    plan.task("two", "b.t", x=one["x"], y=plan.input("y"))
    plan.task("three", "b.t", x=1)
    return resolved(plan)


def failing(envelope):
    raise Raised


def tell(host: Host, action: CommandAction, task_id: str, output=None) -> Event:
    command = Command("c1", action, task_id, "{}", "ann", "because")
    if action is CommandAction.OVERRIDE:
        command.output = encode_json(output)
    host.deliver(CoordinatorEnvelope("run-1", host.now_ms, command))
    seen = len(host.events)
    host.pump()
    return next(e for e in host.events[seen:] if e.command is not None)


def skip(host: Host, task_id: str) -> Event:
    return tell(host, CommandAction.SKIP, task_id)


def override(host: Host, task_id: str, output) -> Event:
    return tell(host, CommandAction.OVERRIDE, task_id, output)


def row(host: Host, task_id: str):
    return [e.task for e in host.events if e.task is not None and e.task.task_id == task_id][-1]


def test_what_is_at_work_is_asked_to_end_and_then_skipped():
    host = Host()
    host.submit(pair(), {"y": 2})
    assert skip(host, "one").type == "command.accepted"
    assert row(host, "one").state is TaskState.CANCELLING
    assert row(host, "one").ruling.actor == "ann"
    host.restart()
    host.work(given)
    assert row(host, "one").state is TaskState.SKIPPED
    assert row(host, "one").ruling.reason == "because"
    assert row(host, "two").state is TaskState.SKIPPED, "as by a condition that does not hold"
    assert host.last_run().run.state is RunState.SUCCEEDED
    actions = [c.action for _, c in host.controlled if c.task_id == "one"]
    assert actions == [ControlAction.CANCEL, ControlAction.RELEASE]


def test_an_override_gives_the_output_whatever_the_attempt_still_says():
    host = Host()
    host.submit(pair(), {"y": 2})
    override(host, "one", {"x": "ann's"})
    late = next(e for _, e in host.sent if e.task_id == "one")
    host.answer(late, {"x": "the agent's"})
    host.pump()
    done = row(host, "one")
    assert (done.state, host.read(done.output)) == (TaskState.SUCCEEDED, {"x": "ann's"})
    assert done.ruling.action is RulingAction.OVERRIDE
    host.work(given)
    assert host.read(row(host, "two").output) == {"x": "ann's", "y": 2}
    host.answer(late, {"x": "again"})
    host.pump()
    assert host.told()[-1] == "result.ignored"


def test_an_agent_that_does_not_answer_is_fenced_after_the_grace():
    host = Host()
    host.submit(pair(), {"y": 2})
    override(host, "one", {"x": 5})
    host.pass_time(host.limits.grace_ms - 1)
    assert row(host, "one").state is TaskState.CANCELLING
    host.restart()
    host.pass_time(1)
    assert row(host, "one").state is TaskState.SUCCEEDED
    assert host.controlled[-1][1].action is ControlAction.RELEASE
    assert row(host, "two").state is TaskState.DISPATCHED


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.CANCELLED, Outcome.SUCCEEDED])
def test_every_answer_of_a_ruled_attempt_is_only_the_sign_that_it_is_over(outcome):
    host = Host()
    host.submit(pair(), {"y": 2})
    skip(host, "one")
    late = next(e for _, e in host.sent if e.task_id == "one")
    host.answer(late, {"x": 1}, outcome=outcome)
    host.pump()
    assert row(host, "one").state is TaskState.SKIPPED
    assert row(host, "one").output is None
    assert not host.dead_letters


@pytest.mark.parametrize("action", [CommandAction.SKIP, CommandAction.OVERRIDE])
def test_a_task_that_waits_for_its_next_attempt_or_for_a_person_ends_at_once(action):
    host = Host()
    host.submit(pair(on_dead_letter="wait"), {"y": 2})
    host.work_one(failing)
    host.pump()
    assert row(host, "one").state is TaskState.RETRYING
    tell(host, action, "one", {"x": 7})
    ended = row(host, "one")
    assert ended.state in (TaskState.SKIPPED, TaskState.SUCCEEDED)
    assert ended.failure is None
    assert ended.retry_ms is None
    host.work(given)
    host.pass_time(100_000)
    assert host.last_run().run.state is RunState.SUCCEEDED


def test_a_dead_task_is_overridden_and_its_run_goes_on():
    host = Host()
    host.submit(pair(on_dead_letter="wait"), {"y": 2})
    for _ in range(3):
        host.work(lambda e: failing(e) if e.task_id == "one" else given(e))
        host.pass_time(100_000)
    assert host.last_run().run.state is RunState.WAITING
    override(host, "one", {"x": 7})
    host.work(given)
    assert host.output() == {"three": {"x": 1}, "two": {"x": 7, "y": 2}}


def test_what_has_not_begun_is_skipped_or_overridden_before_its_turn():
    host = Host()
    host.submit(pair(), {"y": 2})
    skip(host, "two")
    assert row(host, "two").state is TaskState.SKIPPED
    host.work(given)
    assert host.last_run().run.state is RunState.SUCCEEDED
    host = Host()
    host.submit(pair(), {"y": 2})
    override(host, "two", "by hand")
    host.work(given)
    assert host.output()["two"] == "by hand"
    assert len(host.sent) == 2


def test_in_a_paused_run_a_ruling_counts_and_nothing_starts():
    host = Host()
    host.submit(pair(), {"y": 2})
    host.command(CommandAction.PAUSE)
    override(host, "one", {"x": 3})
    host.answer_cancels()
    host.pump()
    assert row(host, "one").state is TaskState.SUCCEEDED
    assert "task.dispatched two" not in host.told()
    host.command(CommandAction.RESUME)
    assert "task.dispatched two" in host.told()


def mapped(**settings) -> str:
    plan = Plan("mapped")
    items = plan.map("items", "a.t", over=plan.input("list"), **settings)
    plan.task("sum", "b.t", all=items)
    return resolved(plan)


def test_an_item_that_is_skipped_has_no_output_and_fails_no_map():
    host = Host()
    host.submit(mapped(), {"list": [{"n": i} for i in range(4)]})
    skip(host, "items.2")
    override(host, "items.3", {"n": 33})
    host.work(given)
    assert host.output() == {"all": [{"n": 0}, {"n": 1}, {"n": 33}]}
    assert row(host, "items").failed == 0


def test_a_map_that_is_overridden_lets_its_items_end():
    host = Host()
    host.submit(mapped(), {"list": [{"n": i} for i in range(4)]})
    host.work_one(given)
    host.pump()
    override(host, "items", [1, 2])
    assert row(host, "items").state is TaskState.SUCCEEDED
    host.work(given)
    assert host.output() == {"all": [1, 2]}
    assert {row(host, f"items.{i}").state for i in range(1, 4)} == {TaskState.CANCELLED}
    refused = override(host, "items", [1])
    assert refused.type == "command.refused"


def test_the_output_of_a_map_must_be_a_list():
    host = Host()
    host.submit(mapped(), {"list": [1]})
    refused = override(host, "items", {"n": 1})
    assert refused.type == "command.refused"
    assert "is a list" in refused.message
    assert row(host, "items").ruling is None


def test_a_round_is_overridden_but_not_skipped_and_its_loop_is():
    plan = Plan("looped")
    plan.task("loop", "a.t", n=1, repeat={"until": "${output.done}", "at_most": 3})
    host = Host()
    host.submit(resolved(plan))
    refused = skip(host, "loop.1")
    assert "is a round of a loop" in refused.message
    override(host, "loop.1", {"done": True, "by": "ann"})
    host.answer_cancels()
    host.pump()
    assert host.output() == {"done": True, "by": "ann"}
    host = Host()
    host.submit(resolved(plan))
    skip(host, "loop")
    assert row(host, "loop").state is TaskState.SKIPPED
    host.work(given)
    assert host.last_run().run.state is RunState.SUCCEEDED


def test_a_retry_does_not_wait_for_its_time():
    host = Host()
    host.submit(pair(), {"y": 2})
    host.work_one(failing)
    host.pump()
    assert tell(host, CommandAction.RETRY, "one").type == "command.accepted"
    assert (row(host, "one").state, row(host, "one").attempt) == (TaskState.DISPATCHED, 2)
    host.pass_time(100_000)
    assert row(host, "one").attempt == 2, "its timer is gone"
    host.work(given)
    assert host.last_run().run.state is RunState.SUCCEEDED


def test_a_retry_of_a_dead_task_is_a_replay():
    host = Host()
    host.submit(pair(on_dead_letter="wait"), {"y": 2})
    for _ in range(3):
        host.work(lambda e: failing(e) if e.task_id == "one" else given(e))
        host.pass_time(100_000)
    tell(host, CommandAction.RETRY, "one")
    assert (row(host, "one").state, row(host, "one").attempt) == (TaskState.DISPATCHED, 3)


@pytest.mark.parametrize("action", [CommandAction.SKIP, CommandAction.OVERRIDE, "retry"])
def test_what_has_ended_is_refused_with_the_remedy(action):
    host = Host()
    host.submit(pair(), {"y": 2})
    host.work_one(given)
    host.pump()
    before = host.machine._state.digest()
    refused = tell(host, CommandAction(action), "one", 1)
    assert refused.type == "command.refused"
    assert "task 'one' is succeeded" in refused.message
    assert "holdfast run retry run-1 one --cancel" in refused.message
    assert host.machine._state.digest() == before


def test_refusals_say_what_there_is():
    host = Host()
    host.submit(pair(), {"y": 2})
    assert "did you mean 'one'" in skip(host, "onne").message
    skip(host, "one")
    assert "skipped by ann: because" in override(host, "one", 1).message
    refused = tell(host, CommandAction.RETRY, "three")
    assert "it is at work" in refused.message
    host.command(CommandAction.CANCEL)
    assert "is cancelling" in skip(host, "three").message


def test_what_only_a_skipped_join_has_waited_for_is_dropped():
    plan = Plan("race")
    one, two = plan.task("one", "a.t", x=1), plan.task("two", "a.t", x=2)
    plan.task("first", "b.t", join="first-success", one=one, two=two)
    plan.task("beside", "b.t", x=1)
    host = Host()
    host.submit(resolved(plan))
    skip(host, "first")
    host.work(given)
    assert {row(host, name).state for name in ("one", "two")} == {TaskState.CANCELLED}
    assert host.last_run().run.state is RunState.SUCCEEDED


def test_what_operators_say_is_counted():
    def count(answer: str) -> float:
        return metrics.COMMANDS.labels("override", answer)._value.get()

    before = count("accepted"), count("refused")
    host = Host()
    host.submit(pair(), {"y": 2})
    override(host, "one", {"x": 1})
    override(host, "one", {"x": 1})
    assert (count("accepted"), count("refused")) == (before[0] + 1, before[1] + 1)


def test_the_output_of_a_map_with_a_reducer_is_what_that_would_give():
    plan = Plan("folded")
    plan.map("items", "a.t", over=plan.input("list"), reduce="b.fold")
    host = Host()
    host.submit(resolved(plan), {"list": [1, 2]})
    assert override(host, "items", {"sum": 3}).type == "command.accepted"
    host.answer_cancels()
    host.pump()
    assert host.output() == {"sum": 3}


async def test_a_called_task_is_overridden_but_not_skipped():
    host = begun()
    ask(host, call())
    await host.settle()
    (called,) = [e.task_id for _, e in host.sent if e.task_id != "one"]
    refused = skip(host, called)
    assert refused.type == "command.refused"
    assert "was called by 'one', which needs an output" in refused.message
    override(host, called, {"x": "ann's"})
    host.answer_cancels()
    host.pump()
    assert values(host) == [{"x": "ann's"}]
