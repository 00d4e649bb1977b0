"""A history in which an operator's word does not hold is found."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from holdfast.bus.port import Received
from holdfast.schemas.records import (
    Command,
    CommandAction,
    Event,
    EventType,
    Ruling,
    RulingAction,
    TaskRow,
    TaskState,
)
from holdfast.testing.history import Decoded
from holdfast.testing.invariants.rulings import rulings_hold
from tests.unit.projection.conftest import task_row


def accepted(action: CommandAction = CommandAction.SKIP, command_id: str = "c1") -> Event:
    event = Event("r", EventType.COMMAND_ACCEPTED, 1, None, None, None, "")
    event.command = Command(command_id, action, "a", "{}", "ann", "why")
    return event


def row(state: TaskState, ruling: Ruling | None) -> Event:
    task: TaskRow = task_row("a", 1, state)
    task.ruling = ruling
    return Event("r", EventType.TASK_SKIPPED, 1, None, None, task, "")


SKIP = Ruling(RulingAction.SKIP, "ann", "why", "c1", 1)
OVERRIDE = Ruling(RulingAction.OVERRIDE, "ann", "why", "c1", 1)
CANCELLING, SKIPPED, SUCCEEDED = TaskState.CANCELLING, TaskState.SKIPPED, TaskState.SUCCEEDED


def problems(*events: Event) -> list[str]:
    found: list[str] = []
    findings = SimpleNamespace(
        looked=lambda *_: None, violated=lambda what, where: found.append(what)
    )
    received = Received("events", 0, 0, None, None, (), 0)
    rulings_hold("r", [Decoded(received, each) for each in events], findings)  # type: ignore[arg-type]
    return found


def test_a_word_that_holds() -> None:
    assert problems(accepted(), row(CANCELLING, SKIP), row(SKIPPED, SKIP)) == []
    override = accepted(CommandAction.OVERRIDE)
    assert problems(override, row(CANCELLING, OVERRIDE), row(SUCCEEDED, OVERRIDE)) == []
    assert problems(row(SUCCEEDED, None)) == []


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ((row(SKIPPED, SKIP),), "by no command"),
        ((accepted(command_id="c2"), row(SKIPPED, SKIP)), "by no command"),
        ((accepted(), row(SUCCEEDED, SKIP)), "against its ruling"),
        ((accepted(), row(CANCELLING, SKIP), row(SKIPPED, None)), "is lost"),
        ((accepted(),), "shows nowhere"),
        ((accepted(), row(CANCELLING, SKIP), accepted(command_id="c2")), "ruled on twice"),
    ],
)
def test_a_word_that_does_not_hold_is_found(events: tuple[Event, ...], told: str) -> None:
    assert any(told in each for each in problems(*events))
