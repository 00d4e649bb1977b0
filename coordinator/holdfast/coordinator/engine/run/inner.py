"""A plan that stands in a task: a child run does the work, whose end is the task's.

It is submitted in the commit that starts the task, as a handler's `start_run` does it, and answers
by the same record. A task that is to end before that tells its run to, and does not wait for it.
"""

from __future__ import annotations

from holdfast.coordinator.engine.graph import Inner, Node
from holdfast.coordinator.engine.run.children import child_id, plan_hash
from holdfast.coordinator.engine.run.failing import end_task
from holdfast.coordinator.engine.run.rows import crowded, next_task, touch_task
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.coordinator.engine.templates import MappingFailed
from holdfast.schemas.errors import HoldfastError
from holdfast.schemas.records import (
    ChildEnded,
    EventType,
    Parent,
    Payload,
    Submission,
    TaskEntry,
    TaskState,
)
from holdfast.schemas.resolution import render_order_key

__all__ = ["begin_inner", "inner_ended", "inner_order_key"]


def inner_order_key(t: Transition, inner: Inner, payload: Payload) -> str | None:
    """Return the order key of a child run. Raises `MappingFailed`."""
    if inner.order_key is None:
        return None
    try:
        return render_order_key(inner.order_key, {"input": t.scope.values.document(payload)})
    except HoldfastError as error:
        raise MappingFailed(f"the order key of plan {inner.name!r}: {error}") from error


def begin_inner(t: Transition, node: Node, entry: TaskEntry, payload: Payload) -> None:
    """Submit the child run of a task; `row.order_key` is the run's."""
    inner = node.inner
    assert inner is not None, f"{node.id} has no plan"
    run, task_id = t.run, entry.row.task_id
    after = next_task(t.run_id, entry, TaskState.EXPANDED)
    after.row.child = child_id(t.run_id, task_id, "", "")
    after.child_key = after.row.order_key or after.row.child
    after.row.started_ms = t.now_ms
    t.put(after)
    t.emit_task(EventType.TASK_EXPANDED, after.row, f"worked by run {after.row.child}")
    bounds = [] if node.timeout_ms is None else [t.now_ms + node.timeout_ms]
    if run.row.deadline_ms is not None:
        bounds.append(run.row.deadline_ms)
    submission = Submission(
        plan=inner.source,
        input=payload,
        input_hash=plan_hash(inner.source, payload),
        # Effects keep their idempotency keys where this run is forked, so those of a child do.
        origin=child_id(run.row.origin, task_id, "", ""),
        submitted_by=f"{t.run_id}/{task_id}",
        order_key=after.row.order_key,
        parent=Parent(t.run_id, run.reply_key, task_id, "", ""),
        deadline_ms=min(bounds, default=None),
    )
    t.tell(after.child_key, after.row.child, submission)


def inner_ended(t: Transition, entry: TaskEntry, ended: ChildEnded) -> TaskEntry | None:
    """End a task whose run has; None: nobody waits for that run, or it goes on as another."""
    if entry.row.child != ended.child_run_id or entry.row.state is not TaskState.EXPANDED:
        t.emit_note(EventType.RESULT_IGNORED, f"nobody waits for run {ended.child_run_id!r}")
        return None
    if ended.successor is not None:
        after = touch_task(entry)
        after.row.child, after.child_key = ended.successor, ended.successor_key
        t.put(after)
        t.emit_task(EventType.TASK_PROGRESSED, after.row, f"worked by run {ended.successor}")
        return None
    if ended.failure is not None:
        return end_task(t, entry, TaskState.FAILED, ended.failure)
    after = next_task(t.run_id, entry, TaskState.SUCCEEDED)
    after.row.output = ended.output
    after.row.finished_ms = t.now_ms
    if crowded(after.row.input, ended.output):
        after.row.input = None
    t.put(after)
    t.emit_task(EventType.TASK_SUCCEEDED, after.row)
    return after
