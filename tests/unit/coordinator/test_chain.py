"""Plans that run as they should: chains, diamonds, a lone task, outputs."""

from __future__ import annotations

from holdfast.schemas.plan import Plan
from tests.unit.coordinator.host import Host, given, resolved


def chain() -> str:
    plan = Plan("chain")
    one = plan.task("one", "a.first", value=plan.input("value"))
    two = plan.task("two", "b.second", value=one["value"])
    plan.task("three", "c.third", value=two["value"])
    return resolved(plan)


def add_one(envelope):
    return {"value": given(envelope)["value"] + 1}


def test_a_chain_runs_one_task_after_the_other_and_answers_with_the_last_ones_output():
    host = Host()
    host.submit(chain(), {"value": 1})
    host.work(add_one)
    assert host.told() == [
        "run.started",
        "task.dispatched one",
        "task.succeeded one",
        "task.dispatched two",
        "task.succeeded two",
        "task.dispatched three",
        "task.succeeded three",
        "run.succeeded",
    ]
    assert host.output() == {"value": 4}


def test_a_finished_run_leaves_memory_and_journal_but_for_its_marker():
    host = Host()
    host.submit(chain(), {"value": 1})
    host.work(add_one)
    assert not host.machine.state.entities
    assert [key.partition("/")[0] for key in host.journal] == ["closed"]
