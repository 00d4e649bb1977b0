"""Tasks that end by a word instead of by an attempt: skipped, or given an output by an operator.

A plan's condition, a change of the plan and an operator skip a task in the same way. What an
operator says stands from its event on: an attempt at work is asked to end, and whatever it answers
is only the sign that it is over. Else a result on its way could overrule the person who looked.
"""

from __future__ import annotations

from holdfast.coordinator.engine.run.failing import mark_steps
from holdfast.coordinator.engine.run.rows import crowded, next_task
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.coordinator.engine.run.undoing import note_success
from holdfast.schemas.records import EventType, Ruling, RulingAction, TaskEntry, TaskState

__all__ = ["end_ruled", "skip_task", "told_ruling"]

_PAST = {RulingAction.SKIP: "skipped", RulingAction.OVERRIDE: "overridden"}


def told_ruling(ruling: Ruling) -> str:
    """Return who said what, and why."""
    said = f"{_PAST[ruling.action]} by {ruling.actor}"
    return f"{said}: {ruling.reason}" if ruling.reason else said


def skip_task(t: Transition, entry: TaskEntry, message: str = "") -> TaskEntry:
    """End a task that is not to be worked: what depends on it goes on, and reads null."""
    return _end(t, next_task(t.run_id, entry, TaskState.SKIPPED), EventType.TASK_SKIPPED, message)


def end_ruled(t: Transition, entry: TaskEntry) -> TaskEntry:
    """End a task as its ruling says."""
    ruling = entry.row.ruling
    assert ruling is not None, f"{entry.row.task_id} has no ruling"
    if ruling.action is RulingAction.SKIP:
        mark_steps(t, entry.row.task_id)
        return skip_task(t, entry, told_ruling(ruling))
    note_success(t, entry, entry.ruled_output, whole=False)
    after = next_task(t.run_id, entry, TaskState.SUCCEEDED)
    after.row.output = entry.ruled_output
    if crowded(after.row.input, after.row.output):
        after.row.input = None
    return _end(t, after, EventType.TASK_SUCCEEDED, told_ruling(ruling))


def _end(t: Transition, after: TaskEntry, kind: EventType, message: str) -> TaskEntry:
    row = after.row
    # The events before have it: a reader would take it for the reason of this end.
    row.failure = None
    row.finished_ms = t.now_ms
    row.retry_ms = after.timer_ms = after.cancel_kind = after.ruled_output = None
    t.put(after)
    t.emit_task(kind, row, message)
    t.release(row, f"task {row.state}")
    return after
