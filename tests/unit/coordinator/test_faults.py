"""Faults that must stay with the run they met: poison records, plans, lists, topics gone."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from holdfast.bus.errors import BusUnavailable
from holdfast.coordinator.engine import graphs as graph_module
from holdfast.schemas.codec import encode
from holdfast.schemas.errors import PlanError, Undecodable
from holdfast.schemas.plan import Plan, Retry
from holdfast.schemas.records import (
    BlobReference,
    Command,
    CommandAction,
    CoordinatorEnvelope,
    Failure,
    FailureKind,
    Outcome,
    RunState,
    TaskResult,
    TaskState,
)
from tests.unit.coordinator.host import TOPICS, Host, Raised, given, resolved

UNDECODABLE = Failure(FailureKind.UNDECODABLE, "Undecodable", "rubbish", "", False)


def lone(**settings) -> str:
    plan = Plan("lone", on_dead_letter=settings.pop("on_dead_letter", "fail"))
    plan.task("one", "a.t", x=1, **settings)
    return resolved(plan)


def mapped(**settings) -> str:
    plan = Plan("mapped", on_dead_letter=settings.pop("on_dead_letter", "fail"))
    plan.map("work", "w.t", over=plan.input("items"), retry=Retry(attempts=1), **settings)
    return resolved(plan)


def answer_undecodable(host: Host, *headers: tuple[str, bytes]) -> None:
    """Answer as an agent whose task record could not be read (docs/protocol.md)."""
    result = TaskResult("one", 1, Outcome.FAILED, None, UNDECODABLE, [], 0, 0, 0, "a1", "b1")
    host.deliver_bytes(encode(CoordinatorEnvelope("run-1", 0, result)), "run-1", headers)
    host.pump()


# --- one dead letter for one poison record -----------------------------------------------------


def test_a_record_that_its_agent_has_buried_gets_no_second_dead_letter():
    host = Host()
    host.submit(lone())
    answer_undecodable(host, ("holdfast-dead-letter", b"test.tasks.a/0/0"))
    assert host.last_run().type == "run.failed"
    assert host.last_run().run.failure.kind is FailureKind.UNDECODABLE
    assert not host.dead_letters


def test_a_task_whose_buried_record_waits_for_people_is_replayed():
    host = Host()
    host.submit(lone(on_dead_letter="wait"))
    answer_undecodable(host, ("holdfast-dead-letter", b"test.tasks.a/0/0"))
    assert host.told()[-2:] == ["task.dead one", "run.waiting"]
    assert not host.dead_letters
    host.command(CommandAction.REPLAY, "one")
    host.work(given)
    assert host.output() == {"x": 1}


def test_a_payload_that_its_agent_cannot_decode_gets_the_coordinators_dead_letter():
    host = Host()
    host.submit(lone())
    answer_undecodable(host)
    (letter,) = host.dead_letters
    assert (letter.reason, letter.task_id) == ("undecodable", "one")


def test_a_result_that_cannot_be_read_is_one_dead_letter():
    host = Host()
    host.submit(lone())
    headers = (("holdfast-run", b"run-1"), ("holdfast-task", b"one"), ("holdfast-attempt", b"1"))
    host.deliver_bytes(b"rubbish", "run-1", headers)
    host.pump()
    assert host.last_run().type == "run.failed"
    (letter,) = host.dead_letters
    assert letter.source.value == b"rubbish"


def test_who_sent_a_submission_that_cannot_be_read_is_answered():
    host = Host()
    received = host.deliver_bytes(b"rubbish", "run-1", (("holdfast-run", b"run-1"),))
    host.pump()
    assert len(host.dead_letters) == 1
    (answer,) = host.events
    assert (str(answer.type), answer.run_id) == ("command.refused", "run-1")
    assert (answer.cause.partition, answer.cause.offset) == (received.partition, received.offset)
    assert "cannot be read" in answer.message


@pytest.mark.parametrize("run_id", ["run-1/one", "", "x" * 129, "ä"])
def test_a_run_id_that_no_journal_key_can_hold_is_a_poison_record(run_id):
    host = Host()
    host.submit(lone())
    host.submit(lone(), run_id=run_id)
    assert len(host.dead_letters) == 1
    assert "is no run id" in host.dead_letters[0].failure.message
    host.restart()
    host.work(given)
    assert host.output() == {"x": 1}


@pytest.mark.parametrize("task_id", ["", "work", "work/items/0", "none", "work.99", "x" * 300])
def test_a_result_or_a_command_for_what_is_no_task_harms_no_run(task_id):
    host = Host()
    host.submit(mapped(), {"items": [1, 2]})
    result = TaskResult(task_id, 1, Outcome.SUCCEEDED, None, None, [], 0, 0, 0, "a1", "b1")
    command = Command("c1", CommandAction.REPLAY, task_id, "{}", "ann", "")
    for body in (result, command):
        host.deliver(CoordinatorEnvelope("run-1", host.now_ms, body))
    host.pump()
    host.work(given)
    assert host.output() == [1, 2]


def test_records_with_huge_headers_or_texts_harm_nobody():
    host = Host()
    host.control.limit = 20_000
    host.submit(lone())
    huge = b"n" * 15_000
    host.deliver_bytes(b"rubbish", "run-1", (("holdfast-run", huge), ("holdfast-task", huge)))
    command = Command("c1", CommandAction.PAUSE, None, "{}", "ann", "r" * 19_000)
    host.deliver(CoordinatorEnvelope("run-1", host.now_ms, command))
    host.pump()
    assert host.told()[-1] == "command.refused"
    host.progress(host.sent[0][1], "p" * 19_900)
    assert host.told()[-1] == "task.progressed one"
    host.work(given)
    assert host.output() == {"x": 1}
    (letter,) = host.dead_letters
    assert letter.source.sha256 == hashlib.sha256(b"rubbish").hexdigest()


async def test_a_damaged_blob_ends_its_run_and_is_not_asked_for_for_ever():
    plan = Plan("chain")
    one = plan.task("one", "a.t", x=plan.input("x"))
    plan.task("two", "a.t", x=one["x"])
    host = Host()
    host.submit(resolved(plan), {"x": 1})
    host.blobs.error = Undecodable("blob run-1/bad is not what it is named by")
    host.answer(host.sent[0][1], payload=BlobReference("run-1/bad", 9))
    await host.settle()
    assert host.last_run().type == "run.failed"
    assert "run-1/bad" in host.last_run().message


def test_what_the_deadline_cuts_off_in_the_dead_letters_is_not_put_there_again():
    plan = Plan("two", on_dead_letter="wait", deadline_s=60)
    plan.task("bad", "a.t", retry=Retry(attempts=1))
    plan.task("slow", "b.t")
    host = Host()
    host.submit(resolved(plan))

    def fail(envelope):
        raise Raised(FailureKind.ERROR)

    host.work_one(fail)
    host.pump()
    host.pass_time(60_000)
    host.work(given)
    assert host.last_run().type == "run.failed"
    found = sorted((letter.task_id, str(letter.reason)) for letter in host.dead_letters)
    assert found == [("bad", "exhausted"), ("slow", "deadline")]
    rows = {e.task.task_id: e.task for e in host.events if e.task}
    assert rows["bad"].state is TaskState.FAILED
    assert rows["bad"].failure.kind is FailureKind.ERROR, "the reason it is there for stays"


# --- a run that cannot go on blocks nobody ------------------------------------------------------


def test_a_restored_plan_that_this_version_cannot_read_ends_its_run_and_no_other(monkeypatch):
    host = Host()
    host.submit(lone(), run_id="old")
    other = Plan("other")
    other.task("one", "a.t", x=2)
    host.submit(resolved(other), run_id="fine")
    compile_graph = graph_module.compile_graph

    def refusing(source: str):
        if '"other"' not in source:
            raise PlanError("this plan is of another version")
        return compile_graph(source)

    monkeypatch.setattr(graph_module, "compile_graph", refusing)
    host.restart()
    host.pump()
    assert host.last_run("old").run.state is RunState.FAILED
    assert "another version" in host.last_run("old").message
    host.work(given)
    assert host.output("fine") == {"x": 2}


@pytest.mark.parametrize("in_commit", [True, False])
def test_a_run_whose_agents_control_topic_is_gone_still_ends(in_commit):
    host = Host()
    host.submit(lone(), run_id="run-1")
    gone = TOPICS.control("a")
    if in_commit:
        host.refuse_next = lambda record: record.topic == gone
    else:
        host.control.refused_topics.add(gone)
    command = Command("c1", CommandAction.CANCEL, None, "{}", "ann", "")
    asked = host.deliver(CoordinatorEnvelope("run-1", host.now_ms, command))
    host.pump()
    assert host.last_run().run.state is RunState.FAILED
    answer = next(e for e in host.events if e.type == "command.refused")
    assert answer.cause.offset == asked.offset, "who gave the command hears of it"
    assert not host.machine.state.entities
    other = Plan("other")
    other.task("one", "b.t", x=2)
    host.submit(resolved(other), run_id="fine")
    host.work(given)
    assert host.output("fine") == {"x": 2}


def test_the_list_of_a_refused_submission_is_not_that_of_the_next_one():
    host = Host()
    host.control.limit = 5_000
    host.submit(mapped(), {"items": ["x" * 6_000, 2]})
    assert host.told() == ["run.refused"]
    host.submit(mapped(), {"items": [10, 20, 30]})
    host.work(given)
    assert host.output() == [10, 20, 30]


def test_an_item_without_its_order_key_is_never_sent():
    host = Host()
    plan = mapped(on_dead_letter="wait", order_key=Plan.item["key"])
    host.submit(plan, {"items": [{"key": "a"}, {"key": ["no", "text"]}]})
    host.work(given)
    assert host.told()[-1] == "run.waiting"
    host.command(CommandAction.REPLAY, "work.1")
    assert [key for key, _ in host.sent] == ["o:a"]
    assert host.last_run().type == "run.failed"


# --- agents that are not known yet --------------------------------------------------------------


async def test_a_bus_that_is_away_refuses_no_submission(monkeypatch):
    from holdfast.coordinator import needs

    monkeypatch.setattr(needs, "FIRST_PAUSE_S", 0.0)
    host = Host()
    host.agents.trouble = "no agent 'a' is known"
    host.agents.started = True
    refresh, faults = host.agents.refresh, [BusUnavailable("away"), RuntimeError("odd")]

    async def failing() -> None:
        if faults:
            raise faults.pop()
        await refresh()

    monkeypatch.setattr(host.agents, "refresh", failing)
    host.submit(lone())
    for _ in range(50):
        await asyncio.sleep(0)
        host.pump()
    assert "run.started" in host.told()
    host.work(given)
    assert host.output() == {"x": 1}
