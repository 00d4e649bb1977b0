"""What becomes of an attempt that did not succeed: another one, a dead letter, or the end."""

from __future__ import annotations

from holdfast.coordinator.engine.counting import UNDO, UNDO_OF
from holdfast.coordinator.engine.graph import Node
from holdfast.coordinator.engine.run.retrying import next_attempt
from holdfast.coordinator.engine.run.rows import next_task
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.schemas.records import (
    DeadLetterReason,
    EventType,
    Failure,
    FailureKind,
    TaskEntry,
    TaskState,
    UndoEntry,
)

__all__ = ["end_task", "fail_attempt", "failure_of", "give_up", "mark_steps"]

_EXHAUSTED = DeadLetterReason.EXHAUSTED
_UNDECODABLE = FailureKind.UNDECODABLE
DEAD_LETTER_REASONS: dict[FailureKind, DeadLetterReason | None] = {
    FailureKind.ERROR: _EXHAUSTED,
    FailureKind.TIMEOUT: _EXHAUSTED,
    FailureKind.QUEUE_TIMEOUT: _EXHAUSTED,
    FailureKind.TOO_LARGE: _EXHAUSTED,
    FailureKind.DEADLINE: DeadLetterReason.DEADLINE,
    FailureKind.POISON: DeadLetterReason.POISON,
    FailureKind.UNDECODABLE: DeadLetterReason.UNDECODABLE,
    FailureKind.SCHEMA: DeadLetterReason.SCHEMA,
    FailureKind.UNKNOWN_TASK: DeadLetterReason.UNKNOWN_TASK,
    FailureKind.MISMATCH: DeadLetterReason.MISMATCH,
    FailureKind.OUTCOME_UNKNOWN: DeadLetterReason.OUTCOME_UNKNOWN,
    # Nobody has to look into these: someone asked for it, or another task is the cause.
    FailureKind.CANCELLED: None,
    FailureKind.UPSTREAM: None,
    FailureKind.NOT_NEEDED: None,
}


def failure_of(kind: FailureKind, message: str, *, retryable: bool = False) -> Failure:
    """Return a failure that the coordinator itself found."""
    return Failure(kind, "", message, "", retryable)


def fail_attempt(
    t: Transition, node: Node, entry: TaskEntry, failure: Failure, *, buried: bool = False
) -> TaskEntry:
    """Settle an attempt that failed; return the task as it is then.

    RETRYING: it goes on by itself. DEAD: it waits for a person. FAILED or CANCELLED: it has ended,
    and the caller says what that means for its map or run.
    """
    following = next_attempt(node.retry, t.run_id, entry, failure)
    if following is None:
        return give_up(t, node, entry, failure, buried=buried)
    if t.sweeping or entry.row.state is TaskState.CANCELLING:
        # It could be tried again, but nobody wants it any more, nor needs to look into it.
        return end_task(t, entry, TaskState.CANCELLED, failure)
    after = next_task(t.run_id, entry, TaskState.RETRYING)
    row = after.row
    row.failure = failure
    row.retry_ms = after.timer_ms = t.now_ms + following.delay_ms
    after.attempts_base, after.failed_by = following.attempts_base, following.failed_by
    after.cancel_kind = None
    t.put(after)
    t.emit_task(EventType.TASK_RETRYING, row, following.why)
    return after


def give_up(
    t: Transition, node: Node, entry: TaskEntry, failure: Failure, *, buried: bool = False
) -> TaskEntry:
    """Write the dead letter; park the task (`on_dead_letter: wait`) or end it as FAILED.

    `buried`: the record that nobody could read is one; a second would count it twice.
    """
    reason = DEAD_LETTER_REASONS[failure.kind]
    if node.undoes:
        reason = DeadLetterReason.COMPENSATION
    heard = entry.call is not None and not node.undoes  # its caller hears of it, and decides
    if reason is not None and not heard and not (buried and failure.kind is _UNDECODABLE):
        t.park(entry.row, reason, failure)
    if entry.row.state is TaskState.CANCELLING and not t.sweeping:
        return end_task(t, entry, TaskState.CANCELLED, failure)  # its run goes on without it
    if not node.wait or t.sweeping or reason is None:
        return end_task(t, entry, TaskState.FAILED, failure)
    after = next_task(t.run_id, entry, TaskState.DEAD)
    after.row.failure = failure
    after.cancel_kind = after.timer_ms = None
    t.put(after)
    t.emit_task(EventType.TASK_DEAD, after.row)
    return after


def mark_steps(t: Transition, task_id: str) -> None:
    """A task has ended without success: what its handler did by steps is to be undone.

    In a run that ends it is for the run to say whether.
    """
    if t.sweeping or not t.overlay.count(UNDO_OF, task_id):
        return
    number = t.overlay.count(UNDO, "") + 1
    t.overlay.put(f"{UNDO}{number}", UndoEntry("", None, None, "", owner=task_id, due=True))


_END_EVENTS = {
    TaskState.FAILED: EventType.TASK_FAILED,
    TaskState.CANCELLED: EventType.TASK_CANCELLED,
}


def end_task(
    t: Transition, entry: TaskEntry, state: TaskState, failure: Failure | None
) -> TaskEntry:
    """End a task without success, and let its agent forget it."""
    after = next_task(t.run_id, entry, state)
    after.row.failure = failure or after.row.failure
    if after.row.finished_ms is None:
        after.row.finished_ms = t.now_ms
    after.row.retry_ms = after.timer_ms = after.cancel_kind = None
    t.put(after)
    t.emit_task(_END_EVENTS[state], after.row)
    mark_steps(t, after.row.task_id)
    t.release(after.row, f"task {state}")
    return after
