"""I14 finds what it is there for: histories of the simulation, each with one thing changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

from holdfast.bus.port import Received
from holdfast.schemas import Plan, decode, encode, parse_state_key
from holdfast.schemas.records import AgentJournal, CoordinatorEnvelope, Event, Outcome, StateEntry
from holdfast.schemas.records import TaskResult as Result
from holdfast.testing import Simulation
from holdfast.testing.evidence import Evidence
from holdfast.testing.history import History
from holdfast.testing.invariants import check
from tests.unit.state.test_state import counter

Change = Callable[[Received], Received | None]


@cache
def recorded() -> tuple[History, Evidence]:
    plan = Plan("one")
    plan.task("t", "counter.add", order_key="k", n=1)
    with Simulation([counter()]) as simulation:
        simulation.submit(plan, run_id="a").result()
        simulation.submit(plan, run_id="b").result()
        simulation.state("counter", "k").delete(reason="she asked")
        assert simulation.violations() == []
        return simulation._deployment.history(), simulation._deployment.evidence


def found(change: Change) -> str:
    """Return what I14 says of the history, with each record changed, or left out (None)."""
    history, evidence = recorded()
    records = {
        partition: [new for record in log if (new := change(record)) is not None]
        for partition, log in history.records.items()
    }
    changed = History(history.namespace, records, history.offsets, commits=history.commits)
    return check(changed, evidence, only=["I14"]).report()


def of_state(record: Received, edit: Callable[[StateEntry], StateEntry]) -> Received:
    if parse_state_key((record.key or b"").decode()) is None or record.value is None:
        return record
    journal = decode(AgentJournal, record.value)
    assert isinstance(journal.body, StateEntry)
    return record._replace(value=encode(replace(journal, body=edit(journal.body))))


def test_what_happened_is_right() -> None:
    assert "values written and removed" in found(lambda record: record)
    assert "I14 at" not in found(lambda record: record)


def test_a_value_of_an_attempt_that_did_not_succeed() -> None:
    def failed(record: Received) -> Received:
        if record.topic.endswith(".coordinator") and "journal" not in record.topic:
            envelope = decode(CoordinatorEnvelope, record.value or b"")
            body = envelope.body
            if isinstance(body, Result):
                envelope = replace(envelope, body=replace(body, outcome=Outcome.FAILED))
                return record._replace(value=encode(envelope))
        return record

    assert "which did not succeed" in found(failed)


def test_a_value_that_stands_in_the_commit_of_another() -> None:
    def of_a(record: Received) -> Received:
        return of_state(record, lambda entry: replace(entry, task="a/t"))

    report = found(of_a)
    assert "not in the commit of a/t attempt 1" in report
    assert "wrote /state/total/k twice" in report


def test_a_value_of_another_order_key() -> None:
    def elsewhere(record: Received) -> Received:
        if parse_state_key((record.key or b"").decode()) is None:
            return record
        return record._replace(key=(record.key or b"") + b"2")

    assert "of another order key" in found(elsewhere)


def test_a_deletion_that_nobody_was_told_of() -> None:
    def untold(record: Received) -> Received | None:
        if record.topic.endswith(".events"):
            event = decode(Event, record.value or b"")
            return None if event.deletion is not None else record
        return record

    assert "has 0 events" in found(untold)
