"""What tasks hand out, as the events tell it: batch behind batch, and all of it in the list."""

from __future__ import annotations

from dataclasses import replace

from holdfast.bus.port import Received
from holdfast.coordinator.engine import Graphs
from holdfast.schemas import Plan
from holdfast.schemas.records import (
    EMIT_NAME,
    AskKind,
    AskRow,
    Event,
    EventType,
    Ruling,
    RulingAction,
    TaskState,
)
from holdfast.testing.history import Decoded
from holdfast.testing.invariants.emitted import handed_out_once
from holdfast.testing.invariants.verdict import Findings
from tests.unit.coordinator.host import resolved
from tests.unit.projection.conftest import task_row


def taken(first: int, last: int, message: str = "") -> Event:
    event = Event("r", EventType.TASK_ANSWERED, 1, None, None, None, message)
    subject = f"items {first} to {last}"
    event.ask = AskRow("find", EMIT_NAME, str(first), AskKind.EMIT, subject, None, None)
    return event


def ended(total: int, ruling: Ruling | None = None) -> Event:
    row = replace(task_row("m", 9, TaskState.SUCCEEDED), total=total, done=total, ruling=ruling)
    return Event("r", EventType.TASK_SUCCEEDED, 2, None, None, row, "")


def found(*events: Event) -> list[str]:
    plan = Plan("p")
    plan.map("m", "b.work", over=plan.task("find", "a.find").emitted)
    findings = Findings("I7")
    decoded = [
        Decoded(Received("events", 0, offset, b"r", b"", (), 0), event)
        for offset, event in enumerate(events)
    ]
    handed_out_once("r", Graphs().get(resolved(plan)), decoded, findings)
    return [each.what for each in findings.violations]


def test_batches_follow_on_each_other_and_the_list_has_all() -> None:
    assert found(taken(0, 4), taken(5, 5), ended(6)) == []
    assert found(taken(0, 4), taken(9, 9, "it begins with number 9"), ended(5)) == []


def test_a_batch_twice_and_one_that_is_missing() -> None:
    assert found(taken(0, 4), taken(0, 4)) == ["r/find hands out items 0 to 4 behind number 4"]
    assert found(taken(0, 4), taken(7, 8)) == ["r/find hands out items 7 to 8 behind number 4"]


def test_a_list_that_lost_some() -> None:
    assert found(taken(0, 4), ended(4)) == ["r/m has 4 items, 'find' has handed out 5"]
    by_ann = Ruling(RulingAction.OVERRIDE, "ann", "", "c", 1)
    assert found(taken(0, 4), ended(4, by_ann)) == []
