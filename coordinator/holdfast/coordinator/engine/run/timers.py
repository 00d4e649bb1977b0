"""What time brings: retries, queue time-outs, deadlines, the end of a run's or a cancel's grace.

A timer is a field of the state. That one is due is only a hint to look: what is not there any
more, or is due later by now, does nothing.
"""

from __future__ import annotations

from holdfast.coordinator.engine.run.asks import on_ask_timer
from holdfast.coordinator.engine.run.cancelling import cut
from holdfast.coordinator.engine.run.continuing import go_on_all, retry
from holdfast.coordinator.engine.run.ending import fail_run, settle
from holdfast.coordinator.engine.run.failing import failure_of
from holdfast.coordinator.engine.run.results import after_end
from holdfast.coordinator.engine.run.rows import touch_run, touch_task
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.coordinator.engine.states import RUN_ENDS
from holdfast.schemas.records import (
    AskEntry,
    ControlAction,
    EventType,
    FailureKind,
    RunEntry,
    TaskEntry,
    TaskState,
)

__all__ = ["on_timer"]


def on_timer(t: Transition, name: str) -> None:
    """Look at the timer of the run (`name` "") or of one of its tasks."""
    entry = t.overlay.get(name)
    if not isinstance(entry, RunEntry | TaskEntry | AskEntry):
        return
    if entry.timer_ms is None or entry.timer_ms > t.now_ms:
        return
    if isinstance(entry, TaskEntry):
        _task_due(t, entry)
    elif isinstance(entry, AskEntry):
        on_ask_timer(t, entry)
    elif entry.row.state not in RUN_ENDS:
        deadline_ms = entry.row.deadline_ms
        overdue = deadline_ms is not None and deadline_ms <= t.now_ms
        if not t.ending and not overdue and entry.timer_ms == entry.row.start_ms:
            _begin(t, entry)
        elif not t.ending:
            fail_run(t, failure_of(FailureKind.DEADLINE, "the run's deadline passed"))
        settle(t)


def _begin(t: Transition, entry: RunEntry) -> None:
    """A run that was to start later may start; one that is paused does when it is resumed."""
    after = touch_run(entry)
    after.timer_ms = entry.row.deadline_ms
    t.overlay.put("", after)
    t.emit_run(EventType.RUN_RESUMED, "the time of its start has come")
    go_on_all(t)


def _task_due(t: Transition, entry: TaskEntry) -> None:
    if entry.row.state is TaskState.RETRYING and t.starting:
        retry(t, entry)
        return
    if entry.row.state is TaskState.CANCELLING:
        after_end(t, t.node_of(entry.row.task_id), cut(t, entry, FailureKind.CANCELLED))
        return
    after = touch_task(entry)
    after.timer_ms = None
    if entry.row.state is TaskState.DISPATCHED:
        # It stays DISPATCHED: an agent that has begun with it goes on, and its result will count.
        after.cancel_kind = FailureKind.QUEUE_TIMEOUT
        after.cancel_sent = True
        t.send_control(after.row, ControlAction.EXPIRE, FailureKind.QUEUE_TIMEOUT)
    t.put(after)
