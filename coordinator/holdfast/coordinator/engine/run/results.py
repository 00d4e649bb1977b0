"""What agents say of attempts: their end, and how far they are."""

from __future__ import annotations

from holdfast.coordinator.engine.graph import Node
from holdfast.coordinator.engine.run import maps
from holdfast.coordinator.engine.run.asks import (
    close_asks,
    on_called_ended,
    on_child_ended,
)
from holdfast.coordinator.engine.run.cancelling import end_cancelled
from holdfast.coordinator.engine.run.ending import settle
from holdfast.coordinator.engine.run.failing import fail_attempt, failure_of
from holdfast.coordinator.engine.run.folding import is_fold
from holdfast.coordinator.engine.run.inner import inner_ended
from holdfast.coordinator.engine.run.restarting import begin_anew
from holdfast.coordinator.engine.run.rows import copy_task, crowded, move_copy, touch_task
from holdfast.coordinator.engine.run.ruling import end_ruled
from holdfast.coordinator.engine.run.starting import advance, fail_node, go_on_parts
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.coordinator.engine.run.undoing import note_success
from holdfast.coordinator.engine.states import TASK_ENDS
from holdfast.schemas.records import (
    ChildEnded,
    EventType,
    Failure,
    FailureKind,
    Outcome,
    TaskEntry,
    TaskProgress,
    TaskResult,
    TaskState,
)

__all__ = ["after_end", "on_child", "on_progress", "on_result"]

MESSAGE_CHARS_MAX = 2_000
"""Of what a handler says of how far it is: more must not make an event too large."""
_WITH_AGENT = (TaskState.DISPATCHED, TaskState.CANCELLING)


def on_result(t: Transition, result: TaskResult, *, buried: bool = False) -> None:
    """Take the end of an attempt; one that nobody waits for changes nothing.

    `buried`: what made it fail stands in the dead letters already.
    """
    entry = t.task(result.task_id)
    problem = _unwanted(entry, result)
    if problem is not None or entry is None:
        what = f"attempt {result.attempt} of {result.task_id!r} ({result.outcome})"
        t.emit_note(EventType.RESULT_IGNORED, f"{what} from {result.instance!r}: {problem}")
        return
    entry = _told(entry, result)
    node = t.node_of(result.task_id)
    if entry.row.ruling is not None:
        after = end_ruled(t, entry)  # whatever it says: somebody has said otherwise before
    elif result.outcome is Outcome.SUCCEEDED:
        after = _succeed(t, entry, result)
    elif entry.restarting and not t.ending:
        after = begin_anew(t, entry)
    elif result.outcome is Outcome.CANCELLED:
        after = _cancelled(t, node, entry)
    else:
        failure = result.failure or failure_of(FailureKind.ERROR, "the agent gave no reason")
        after = fail_attempt(t, node, entry, failure, buried=buried)
    after_end(t, node, after)


def after_end(t: Transition, node: Node, entry: TaskEntry) -> None:
    """Draw the conclusions from a task that may have ended: for map, run, those that wait."""
    state = entry.row.state
    if state in TASK_ENDS:
        close_asks(t, entry.row.task_id)
        if node.undoes:
            t.overlay.put(entry.row.task_id, None)
        elif entry.call is not None:
            _called_ended(t, entry)
        elif node.over is not None and entry.row.task_id != node.id:
            maps.count_item(t, node, entry)
        elif node.has_parts:
            pass  # a round, or the task itself: `go_on_parts` looks at both
        elif state is not TaskState.FAILED:
            advance(t, node.dependants)  # cancelled by a change of the plan: passed over
        elif entry.row.failure is not None:
            fail_node(t, entry, entry.row.failure)
    if node.has_parts and not t.ending:
        go_on_parts(t, node)
    settle(t)


def _called_ended(t: Transition, entry: TaskEntry) -> None:
    """A task has ended that no plan has: its caller hears of it, a handler or a map."""
    assert entry.call is not None, f"{entry.row.task_id} was not called"
    caller = t.graph.nodes.get(entry.call.caller)
    if caller is None or not is_fold(caller, entry):
        on_called_ended(t, entry)
        return
    t.overlay.put(entry.row.task_id, None)
    maps.on_folded(t, caller, entry)
    if not t.ending:
        go_on_parts(t, caller)


def on_child(t: Transition, ended: ChildEnded) -> None:
    """Take the end of a run that a task asked for, or is worked by."""
    entry = t.task(ended.task_id)
    if entry is None or entry.row.child is None:
        on_child_ended(t, ended)
        return
    after = inner_ended(t, entry, ended)
    if after is not None:
        if after.row.state is TaskState.SUCCEEDED:
            note_success(t, entry, ended.output)
        after_end(t, t.node_of(ended.task_id), after)


def on_progress(t: Transition, progress: TaskProgress) -> None:
    """Pass on what a handler said; it also shows that the attempt has left the queue."""
    entry = t.task(progress.task_id)
    if entry is None or entry.row.attempt != progress.attempt:
        return
    if entry.row.state is not TaskState.DISPATCHED:
        return
    if entry.timer_ms is not None:
        entry = touch_task(entry)
        entry.timer_ms = None
        t.put(entry)
    share = "" if progress.fraction is None else f" ({progress.fraction:.0%})"
    said = progress.message[:MESSAGE_CHARS_MAX]
    t.emit_task(EventType.TASK_PROGRESSED, entry.row, said + share)


def _unwanted(entry: TaskEntry | None, result: TaskResult) -> str | None:
    """Return why a result is ignored, or None."""
    if entry is None:
        return "the run has no such task at work"
    if entry.row.attempt != result.attempt:
        return f"attempt {entry.row.attempt} is the newest"
    if entry.row.state not in _WITH_AGENT:
        return f"this attempt has ended already; the task is {entry.row.state}"
    return None


def _told(entry: TaskEntry, result: TaskResult) -> TaskEntry:
    """Return the task with what the agent told of its attempt; not another version yet."""
    told = copy_task(entry)
    told.timer_ms = None
    row = told.row
    row.steps = result.steps
    row.resumes = result.resumes
    row.instance = result.instance
    row.build_id = result.build_id
    row.started_ms = result.started_ms
    row.finished_ms = result.finished_ms
    return told


def _succeed(t: Transition, entry: TaskEntry, result: TaskResult) -> TaskEntry:
    """`entry`: a copy that nobody else has seen."""
    note_success(t, entry, result.output)
    after = move_copy(t.run_id, entry, TaskState.SUCCEEDED)
    after.row.output = result.output
    if crowded(after.row.input, result.output):
        after.row.input = None
    after.cancel_kind = None
    t.put(after)
    t.emit_task(EventType.TASK_SUCCEEDED, after.row)
    if after.cancel_sent:
        # The agent has forgotten the task, and perhaps noted the cancel that came too late.
        t.release(after.row, "task succeeded")
    return after


def _cancelled(t: Transition, node: Node, entry: TaskEntry) -> TaskEntry:
    kind = entry.cancel_kind
    if entry.row.state is TaskState.CANCELLING:
        return end_cancelled(t, entry, kind or FailureKind.CANCELLED)
    if kind is FailureKind.QUEUE_TIMEOUT:
        queue_s = (node.queue_timeout_ms or 0) / 1_000
        message = f"no place at {node.agent!r} became free within {queue_s:g} s"
        return fail_attempt(t, node, entry, failure_of(kind, message, retryable=True))
    # Nobody here asked for it: an operator at the agent, perhaps. The task is still to be done.
    failure = Failure(FailureKind.CANCELLED, "", "the agent cancelled the attempt", "", True)
    return fail_attempt(t, node, entry, failure)
