"""What a client is told of its commands and signals."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from holdfast.bus.port import Position
from holdfast.schemas import Event, EventType

__all__ = ["CommandReceipt", "SignalOutcome", "SignalReceipt", "signal_receipt"]


@dataclass(frozen=True, slots=True)
class CommandReceipt:
    """A command that was accepted. `position`: its record; a read of the projection may name it."""

    command_id: str
    position: Position
    message: str


class SignalOutcome(StrEnum):
    """What became of a signal."""

    TAKEN = "taken"  # by the task that has waited longest for one of its name
    KEPT = "kept"  # until a task waits for it
    REPEATED = "repeated"  # one of this id came before: it counts once


@dataclass(frozen=True, slots=True)
class SignalReceipt(CommandReceipt):
    """A signal that was accepted; `command_id` is its id. `task_id`: the task that has it."""

    outcome: SignalOutcome
    task_id: str | None


def signal_receipt(signal_id: str, position: Position, event: Event) -> SignalReceipt:
    """Return what an event says of a signal."""
    told, outcome, task_id = "kept until a task waits for it", SignalOutcome.KEPT, None
    if event.type is EventType.SIGNAL_REPEATED:
        told, outcome = "it came before: it counts once", SignalOutcome.REPEATED
    elif event.ask is not None:
        task_id = event.ask.task_id
        told, outcome = f"task {task_id!r} has it", SignalOutcome.TAKEN
    return SignalReceipt(signal_id, position, told, outcome, task_id)
