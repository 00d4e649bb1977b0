"""Tasks that are to end before they are done."""

from __future__ import annotations

from holdfast.coordinator.engine.run.failing import end_task, failure_of
from holdfast.coordinator.engine.run.rows import next_task
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.schemas.records import (
    ControlAction,
    DeadLetterReason,
    EventType,
    FailureKind,
    TaskEntry,
    TaskState,
)

__all__ = ["ask_to_cancel", "cut", "end_cancelled"]

_CANCELLED_FOR = {
    FailureKind.CANCELLED: "the run was cancelled",
    FailureKind.DEADLINE: "the run's deadline passed",
    FailureKind.UPSTREAM: "another task of the run failed",
}


def ask_to_cancel(t: Transition, entry: TaskEntry, kind: FailureKind) -> None:
    """Ask the agent for the end of an attempt; the task waits for the answer."""
    after = next_task(t.run_id, entry, TaskState.CANCELLING)
    after.cancel_kind = kind
    after.cancel_sent = True
    after.timer_ms = None
    t.put(after)
    t.emit_task(EventType.TASK_CANCELLING, after.row)
    t.send_control(after.row, ControlAction.CANCEL, kind)


def cut(t: Transition, entry: TaskEntry, kind: FailureKind) -> TaskEntry:
    """End a task without waiting for an answer."""
    if entry.row.state is TaskState.DISPATCHED:
        t.send_control(entry.row, ControlAction.CANCEL, kind)
    return end_cancelled(t, entry, entry.cancel_kind or kind)


def end_cancelled(t: Transition, entry: TaskEntry, kind: FailureKind) -> TaskEntry:
    """End a task that was cancelled, as what it was cancelled for.

    What the run's deadline cut off has failed, and is kept whole in the dead letters.
    """
    if entry.row.state is TaskState.DEAD and kind is FailureKind.DEADLINE:
        return end_task(t, entry, TaskState.FAILED, entry.row.failure)  # it is kept already
    if kind is not FailureKind.DEADLINE or entry.row.state is TaskState.EXPANDED:
        failure = entry.row.failure or failure_of(kind, _CANCELLED_FOR[kind])
        return end_task(t, entry, TaskState.CANCELLED, failure)
    failure = failure_of(kind, _CANCELLED_FOR[kind])
    t.park(entry.row, DeadLetterReason.DEADLINE, failure)
    return end_task(t, entry, TaskState.FAILED, failure)
