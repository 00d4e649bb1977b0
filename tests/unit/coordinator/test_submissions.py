"""One run id, one run: repeats, conflicts, refusals, markers."""

from __future__ import annotations

from holdfast.coordinator.engine import EngineLimits
from holdfast.schemas.plan import Plan
from holdfast.schemas.records import RunEntry
from tests.unit.coordinator.host import Host, given, resolved

DAY_MS = 86_400_000


def lone(name="lone") -> str:
    plan = Plan(name)
    plan.task("one", "a.t", x=1)
    return resolved(plan)


def test_a_submission_that_comes_again_is_answered_and_starts_nothing():
    host = Host()
    host.ends.end = 41
    host.submit(lone())
    host.ends.end = 99
    host.submit(lone())
    assert host.told() == ["run.started", "task.dispatched one", "run.repeated"]
    assert host.events[-1].events_from == 41
    host.work(given)
    host.restart()
    host.submit(lone())
    assert host.told()[-1] == "run.repeated"
    assert host.events[-1].events_from == 41
    assert len(host.sent) == 1


def test_the_same_id_with_another_plan_or_input_is_a_conflict():
    host = Host()
    host.submit(lone())
    host.submit(lone(), {"other": 1})
    assert host.told()[-1] == "run.conflicted"
    host.work(given)
    host.submit(lone("other"))
    assert host.told()[-1] == "run.conflicted"
    assert "choose another run id" in host.events[-1].message


async def test_a_plan_that_the_agents_cannot_run_is_refused_and_its_id_stays_free():
    host = Host()
    host.agents.trouble = "task 'one': no agent 'a'"
    host.submit(lone())
    await host.settle()
    assert host.told() == ["run.refused"]
    assert host.events[-1].message == "task 'one': no agent 'a'"
    host.agents.trouble = None
    host.submit(lone())
    assert "run.started" in host.told()


async def test_an_agent_that_was_just_started_is_looked_for_before_its_run_is_refused():
    host = Host()
    host.agents.trouble, host.agents.started = "task 'one': no agent 'a'", True
    host.submit(lone())
    assert not host.events
    await host.settle()
    assert host.told() == ["run.started", "task.dispatched one"]


def test_a_plan_that_cannot_be_read_is_refused():
    host = Host()
    host.submit('{"plan": {"name": "x", "tasks": {}}, "tasks": {}}')
    assert host.told() == ["run.refused"]
    host.submit("not json", run_id="run-2")
    assert host.told("run-2") == ["run.refused"]


def test_the_started_event_carries_the_plan_and_the_whole_row():
    host = Host()
    host.submit(lone(), {"a": 1}, order_key="k")
    event = host.events[0]
    assert event.plan == lone()
    assert event.cause.offset == 0
    assert event.run.order_key == "k"
    assert host.read(event.run.input) == {"a": 1}


def test_runs_of_one_order_key_hand_it_to_their_tasks_and_answer_under_it():
    host = Host()
    host.submit(lone(), order_key="customer-7")
    key, envelope = host.sent[0]
    assert (key, envelope.order_key, envelope.reply_key) == (
        "o:customer-7",
        "customer-7",
        "customer-7",
    )


def test_runs_of_one_plan_share_its_text():
    host = Host()
    for number in range(3):
        host.submit(lone(), run_id=f"r{number}")
    host.restart()
    state = host.machine.state
    entries = [state.entity(key).get("") for key in state.entities]
    assert len({id(e.plan) for e in entries if isinstance(e, RunEntry)}) == 1


def test_markers_are_forgotten_after_their_time():
    host = Host()
    host.submit(lone())
    host.work(given)
    host.pass_time(7 * DAY_MS - 1)
    host.submit(lone())
    assert host.told()[-1] == "run.repeated"
    host.restart()
    host.pass_time(1)
    assert not host.journal
    host.submit(lone())
    assert host.told()[-1] == "task.dispatched one"


def test_markers_are_bounded_in_number_and_the_oldest_go_first():
    host = Host(EngineLimits(markers_max=3))
    for number in range(6):
        host.submit(lone(), run_id=f"r{number}")
        host.work(given)
        host.now_ms += 1
    assert len(host.journal) == len(host.machine.state.closed) == 3
    host.restart()
    host.submit(lone(), run_id="r5")
    assert host.told("r5")[-1] == "run.repeated"
    host.submit(lone(), run_id="r2")
    assert host.told("r2")[-1] == "task.dispatched one"


def test_many_runs_closed_in_one_commit_keep_the_bound_too():
    host = Host(EngineLimits(markers_max=3))
    for number in range(8):
        host.submit(lone(), run_id=f"r{number}")
    while host.tasks:
        host.work_one(given)
    host.pump()
    assert len(host.machine.state.closed) == len(host.journal) == 3
