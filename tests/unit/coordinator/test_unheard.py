"""Who waits for the end of a run hears of it, also where its submission or its end is broken."""

from __future__ import annotations

import json

import pytest

from holdfast.bus.port import Record
from holdfast.coordinator.engine import EngineLimits
from holdfast.schemas.codec import decode, encode_json
from holdfast.schemas.plan import Plan
from holdfast.schemas.records import (
    Ask,
    CommandAction,
    ControlAction,
    CoordinatorEnvelope,
    Event,
    EventType,
    FailureKind,
    Reply,
    RunAsk,
    SourceSlot,
    Submission,
)
from tests.unit.coordinator.host import TOPICS, Host, resolved
from tests.unit.coordinator.test_asks import ask, at_work, begun


def inner() -> Plan:
    plan = Plan("inner")
    plan.task("first", "a.work", value=plan.input("value"))
    return plan


def child() -> str:
    plan = Plan("child")
    plan.task("w", "a.work")
    return plan.to_json()


def with_inner() -> Host:
    plan = Plan("outer")
    plan.task("part", inner(), value=1)
    host = Host()
    host.submit(resolved(plan))
    return host


def starts_a_child(record: Record) -> bool:
    if record.topic != TOPICS.events or record.value is None:
        return False
    event = decode(Event, record.value)
    return event.run_id != "run-1" and event.type is EventType.RUN_STARTED


def test_a_child_whose_submission_breaks_tells_its_parent() -> None:
    host = with_inner()
    host.refuse_next = starts_a_child
    host.relay()
    assert "run.refused" in [str(e.type) for e in host.events]
    last = host.last_run()
    assert last.type is EventType.RUN_FAILED
    assert "task 'part' failed" in last.message
    assert "refused by the test" in last.message


def unreadable(host: Host) -> Record:
    """Make what was told last a record that this build cannot read; its headers stay."""
    record = host.forwarded.pop()
    assert record.value is not None
    damaged = Record(record.topic, record.key, record.value[:20], record.headers)
    host.forwarded.append(damaged)
    return damaged


def test_the_parent_of_a_submission_that_cannot_be_read_hears_of_it() -> None:
    host = with_inner()
    unreadable(host)
    host.relay()
    last = host.last_run()
    assert last.type is EventType.RUN_FAILED
    assert "cannot be read" in last.message
    assert len(host.dead_letters) == 1


def test_the_parent_of_an_end_that_cannot_be_read_hears_of_it() -> None:
    host = with_inner()
    host.relay()
    host.work(lambda _: {"y": 1})
    unreadable(host)
    host.relay()
    assert host.last_run().type is EventType.RUN_FAILED


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[]",
        b'["run-1"]',
        json.dumps(["a/b", "k", "part", "", "", "c"]).encode(),
        json.dumps(["run-1", "k", "t" * 300, "", "", "c"]).encode(),
        json.dumps(["run-1", "k", 5, "", "", "c"]).encode(),
        json.dumps(["run-1", "k" * 2_000_000, "part", "", "", "c"]).encode(),
        b"\xff\xfe",
    ],
)
def test_headers_that_name_no_parent_are_passed_over(header: bytes) -> None:
    host = Host()
    headers = (("holdfast-run", b"r"), ("holdfast-parent", header), ("holdfast-source", header))
    host.deliver_bytes(b"?", "r", headers)
    host.pump()
    assert not host.forwarded
    assert not host.reported
    assert [str(e.type) for e in host.events] == ["command.refused"]


def test_the_source_of_a_submission_that_cannot_be_read_hears_of_it() -> None:
    host = Host()
    headers = (("holdfast-run", b"orders-3-1"), ("holdfast-source", b"orders/3"))
    host.deliver_bytes(b"?", "orders-3-1", headers)
    host.pump()
    assert [(p, e.run_id, e.state) for _, p, e in host.reported] == [(3, "orders-3-1", None)]
    host.control.refused_topics.add("test.control.source-gone")  # its topics were removed since
    headers = (("holdfast-run", b"gone-3-1"), ("holdfast-source", b"gone/3"))
    host.deliver_bytes(b"?", "gone-3-1", headers)
    host.pump()
    assert len(host.reported) == 1
    assert len(host.dead_letters) == 2


def test_a_successor_of_a_sources_run_names_the_source_in_its_headers() -> None:
    host = Host()
    plan = Plan("poll", continue_as_new={"when": "`true`", "input": {"n": "1"}})
    plan.task("one", "a.t", x=1)
    source = SourceSlot("orders", 3)
    body = Submission(resolved(plan), encode_json({}), "h", "run-1", "orders", source=source)
    host.deliver(CoordinatorEnvelope("run-1", host.now_ms, body))
    host.work(lambda _: {"y": 1})
    assert dict(host.forwarded[-1].headers)["holdfast-source"] == b"orders/3"
    unreadable(host)
    host.relay()
    assert [(e.run_id, e.state) for _, _, e in host.reported] == [("run-1~1", None)]


@pytest.mark.parametrize("run_id", ["order 17/a", "", "a" * 129, "run-1~2", "a/b"])
def test_a_child_under_an_id_that_no_run_can_have_is_an_answer(run_id: str) -> None:
    host = begun()
    ask(host, RunAsk(child(), encode_json({}), run_id, False))
    replies = [c.reply for _, c in host.controlled if c.action is ControlAction.REPLY]
    assert len(replies) == 1
    assert isinstance(replies[0], Reply)
    failure = replies[0].failure
    assert failure is not None
    assert failure.kind is FailureKind.SCHEMA
    assert f"run id {run_id!r} cannot be used" in failure.message
    assert not host.forwarded


def test_a_cancel_reaches_the_successor_while_the_closed_run_is_being_removed() -> None:
    plan = Plan("endless", continue_as_new={"when": "`true`", "input": {"n": "1"}})
    for number in range(140):
        plan.task(f"t{number}", "a.run")
    host = Host(EngineLimits(records_per_event=40, chunk_items=4))
    host.submit(resolved(plan))
    while not any(e.type is EventType.RUN_SUCCEEDED for e in host.events):
        if not host.step():
            host.work_one(lambda _: {})
    assert sum(key.startswith("run/run-1/") for key in host.journal) > 50, "not removed at once"
    answered = host.command(CommandAction.CANCEL)
    assert answered.type is EventType.COMMAND_ACCEPTED
    assert "goes on as 'run-1~1'" in answered.message
    host.relay()
    host.work_all(lambda _: {})
    assert host.last_run("run-1~1").type is EventType.RUN_CANCELLED


def test_asks_of_a_run_that_is_not_there_are_answered_to_nobody() -> None:
    host = begun()
    envelope = at_work(host)
    body = Ask("one", envelope.attempt, "ask", "", RunAsk(child(), None, None, False))
    host.deliver(CoordinatorEnvelope("run-9", host.now_ms, body), "run-9")
    host.pump()
    assert host.events[-1].type is EventType.RESULT_IGNORED
