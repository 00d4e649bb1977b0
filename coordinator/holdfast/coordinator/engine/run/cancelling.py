"""Tasks that are to end before they are done."""

from __future__ import annotations

from holdfast.coordinator.engine.run.children import cancel_child
from holdfast.coordinator.engine.run.failing import end_task, failure_of
from holdfast.coordinator.engine.run.rows import next_task
from holdfast.coordinator.engine.run.ruling import end_ruled, told_ruling
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
    FailureKind.NOT_NEEDED: "all that waited for it goes on without it",
}


def ask_to_cancel(t: Transition, entry: TaskEntry, kind: FailureKind) -> None:
    """Ask the agent for the end of an attempt; the task waits for the answer.

    In a run that goes on it waits as long as the grace: an agent that is down must not hold it up.
    (A run that ends has a grace of its own.)
    """
    after = next_task(t.run_id, entry, TaskState.CANCELLING)
    after.cancel_kind = kind
    after.cancel_sent = True
    after.timer_ms = None if t.sweeping else t.now_ms + t.scope.limits.grace_ms
    t.put(after)
    ruling = after.row.ruling
    t.emit_task(EventType.TASK_CANCELLING, after.row, told_ruling(ruling) if ruling else "")
    t.send_control(after.row, ControlAction.CANCEL, kind)


def cut(t: Transition, entry: TaskEntry, kind: FailureKind) -> TaskEntry:
    """End a task without waiting for an answer."""
    row = entry.row
    if row.state is TaskState.DISPATCHED:
        t.send_control(row, ControlAction.CANCEL, kind)
    if row.state is TaskState.EXPANDED and row.child is not None and entry.child_key is not None:
        cancel_child(t, row.task_id, row.child, entry.child_key)
    if row.ruling is not None:
        return end_ruled(t, entry)
    return end_cancelled(t, entry, entry.cancel_kind or kind)


def end_cancelled(t: Transition, entry: TaskEntry, kind: FailureKind) -> TaskEntry:
    """End a task that was cancelled, as what it was cancelled for.

    What the run's deadline cut off has failed, and is kept whole in the dead letters.
    """
    if entry.row.state is TaskState.DEAD and kind is FailureKind.DEADLINE:
        return end_task(t, entry, TaskState.FAILED, entry.row.failure)  # it is kept already
    if kind is not FailureKind.DEADLINE or entry.row.state is TaskState.EXPANDED:
        why = _CANCELLED_FOR[kind]
        if kind is FailureKind.CANCELLED and not t.sweeping:
            why = "a change of the plan cancelled it"
        failure = entry.row.failure or failure_of(kind, why)
        return end_task(t, entry, TaskState.CANCELLED, failure)
    failure = failure_of(kind, _CANCELLED_FOR[kind])
    t.park(entry.row, DeadLetterReason.DEADLINE, failure)
    return end_task(t, entry, TaskState.FAILED, failure)
