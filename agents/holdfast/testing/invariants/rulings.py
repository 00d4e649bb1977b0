"""Tasks that an operator skipped, or gave an output: a part of I2."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.coordinator.engine import TASK_ENDS
from holdfast.schemas.records import (
    CommandAction,
    Event,
    EventType,
    Ruling,
    RulingAction,
    TaskState,
)
from holdfast.testing.history import Decoded
from holdfast.testing.invariants.verdict import Findings

__all__ = ["rulings_hold"]

_COMMANDS = {
    CommandAction.SKIP: RulingAction.SKIP,
    CommandAction.OVERRIDE: RulingAction.OVERRIDE,
}
_ENDS = {RulingAction.SKIP: TaskState.SKIPPED, RulingAction.OVERRIDE: TaskState.SUCCEEDED}


def rulings_hold(run_id: str, events: Sequence[Decoded[Event]], found: Findings) -> None:
    """Each ruling was asked for by a command that was accepted, and the task ends as it says.

    One that was accepted shows in a row of its task at once, is never taken back or changed, and no
    command about a task is accepted after it.
    """
    accepted: dict[str, tuple[str, RulingAction]] = {}
    rulings: dict[str, Ruling] = {}
    for event in events:
        body = event.body
        command = body.command
        if body.type is EventType.COMMAND_ACCEPTED and command is not None:
            ruling = _COMMANDS.get(command.action)
            if ruling is not None and command.task_id is not None:
                found.looked("rulings")
                if command.task_id in rulings:
                    found.violated(f"{run_id}/{command.task_id} was ruled on twice", event.place)
                accepted[command.task_id] = (command.command_id, ruling)
        row = body.task
        if row is None:
            continue
        name, before = f"{run_id}/{row.task_id}", rulings.get(row.task_id)
        if before is not None and row.ruling != before:
            found.violated(f"{name}: its ruling is lost, or is another", event.place)
        if row.ruling is None:
            continue
        rulings[row.task_id] = row.ruling
        said = (row.ruling.command_id, row.ruling.action)
        if accepted.get(row.task_id) != said:
            found.violated(f"{name} was ruled on by no command", event.place)
        if row.state in TASK_ENDS and row.state is not _ENDS[row.ruling.action]:
            found.violated(f"{name} is {row.state}, against its ruling", event.place)
    for task_id in accepted.keys() - rulings.keys():
        found.violated(f"{run_id}/{task_id}: a ruling was accepted, and shows nowhere", run_id)
