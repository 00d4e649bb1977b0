"""What a coordinator tells the source that submitted a run: one word for each submission."""

from __future__ import annotations

import pytest

from holdfast.schemas.codec import decode, encode_json
from holdfast.schemas.plan import Plan
from holdfast.schemas.records import (
    CommandAction,
    CoordinatorEnvelope,
    RunState,
    SourceSlot,
    Submission,
)
from tests.unit.coordinator.host import TOPICS, Host, resolved

CONTROL = "test.control.source-orders"


def lone(task: str = "a.t") -> str:
    plan = Plan("lone")
    plan.task("one", task, x=1)
    return resolved(plan)


def submit(host: Host, plan: str, run_id: str = "orders-3-17", given: object = None) -> None:
    submission = Submission(
        plan,
        encode_json(given),
        f"hash of {given}",
        run_id,
        "source orders",
        source=SourceSlot("orders", 3),
    )
    host.deliver(CoordinatorEnvelope(run_id, host.now_ms, submission))
    host.pump()


def told(host: Host) -> list[tuple[str, RunState | None]]:
    assert all((topic, slot) == (CONTROL, 3) for topic, slot, _ in host.reported)
    return [(ended.run_id, ended.state) for _, _, ended in host.reported]


def test_a_source_hears_of_the_end_in_its_own_slot_and_once() -> None:
    host = Host()
    submit(host, lone())
    assert told(host) == []
    host.restart()  # where a run came from is state
    host.work_one(lambda envelope: {"y": 1})
    host.pump()
    assert told(host) == [("orders-3-17", RunState.SUCCEEDED)]
    host.restart()
    host.pass_time(3_600_000)
    assert len(host.reported) == 1


def test_a_run_that_continues_as_new_has_not_ended() -> None:
    plan = Plan(
        "poll",
        continue_as_new={"when": f"{Plan.result['n']} < `1`", "input": {"n": Plan.result["n"]}},
    )
    plan.task("one", "a.t", n=plan.input("n"))
    host = Host()
    submit(host, resolved(plan), given={"n": 0})
    host.work_one(lambda envelope: {"n": 0})
    host.pump()
    assert host.forwarded, "its successor was submitted"
    assert told(host) == []
    sent = decode(CoordinatorEnvelope, host.forwarded[-1].value or b"")
    assert isinstance(sent.body, Submission)
    assert sent.body.source == SourceSlot("orders", 3)
    host.deliver(sent)
    host.pump()
    host.work_one(lambda envelope: {"n": 1})
    host.pump()
    assert told(host) == [("orders-3-17~1", RunState.SUCCEEDED)]


def test_it_hears_of_runs_that_do_not_succeed() -> None:
    host = Host()
    submit(host, lone())
    host.command(CommandAction.CANCEL, run_id="orders-3-17")
    host.answer_cancels()
    host.pump()
    assert told(host) == [("orders-3-17", RunState.CANCELLED)]


def test_it_hears_of_runs_that_never_were() -> None:
    host = Host()
    submit(host, "{no plan", "orders-3-1")
    assert host.events[-1].type == "run.refused"
    submit(host, lone(), "orders-3-2")
    submit(host, lone(), "orders-3-2")
    assert host.events[-1].type == "run.repeated"
    submit(host, lone(), "orders-3-2", given="another input")
    assert host.events[-1].type == "run.conflicted"
    assert told(host) == [("orders-3-1", None), ("orders-3-2", None), ("orders-3-2", None)]


@pytest.mark.parametrize("topic", [TOPICS.tasks("a"), TOPICS.events])
def test_it_hears_of_a_submission_whose_records_the_bus_does_not_take(topic: str) -> None:
    host = Host()
    refused = iter([True])
    host.refuse_next = lambda record: record.topic == topic and next(refused, False)
    submit(host, lone())
    assert told(host) == [("orders-3-17", None)]


@pytest.mark.parametrize("in_commit", [True, False])
def test_a_source_whose_topics_are_gone_holds_up_no_coordinator(in_commit: bool) -> None:
    host = Host()
    submit(host, lone())
    if in_commit:
        host.refuse_next = lambda record: record.topic == CONTROL
    else:
        host.control.refused_topics.add(CONTROL)
    host.work_one(lambda envelope: {"y": 1})
    host.pump()
    assert host.reported == []
    assert host.last_run("orders-3-17").run.state is RunState.SUCCEEDED, "it ended all the same"
    assert not host.machine.state.entities
    host.submit(lone(), run_id="another")
    host.work_one(lambda envelope: {"y": 1})
    host.pump()
    assert host.last_run("another").run.state is RunState.SUCCEEDED


@pytest.mark.parametrize(
    "source",
    [SourceSlot("a.b", 0), SourceSlot("", 0), SourceSlot("o" * 58, 0), SourceSlot("a", -1)],
)
def test_a_submission_of_what_is_no_source_is_kept_whole(source: SourceSlot) -> None:
    host = Host()
    submission = Submission(lone(), None, "hash", "run-1", "somebody", source=source)
    host.deliver(CoordinatorEnvelope("run-1", host.now_ms, submission))
    host.pump()
    assert "is no source" in host.dead_letters[0].failure.message
    assert host.reported == []
