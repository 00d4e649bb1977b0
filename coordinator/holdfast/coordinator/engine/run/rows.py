"""The next value of a run or of a task: a copy, with the change of state checked.

Written out field by field, since `dataclasses.replace` takes five times as long and this is done
for every transition. The caller fills in the copy before anybody else sees it.
"""

from __future__ import annotations

from holdfast.coordinator.engine.states import check_run_move, check_task_move
from holdfast.coordinator.engine.values import INLINE_BYTES_MAX
from holdfast.schemas.records import (
    Payload,
    RunEntry,
    RunRow,
    RunState,
    TaskEntry,
    TaskRow,
    TaskState,
)

__all__ = [
    "copy_task",
    "copy_task_row",
    "crowded",
    "move_copy",
    "new_task",
    "next_run",
    "next_task",
    "touch_run",
    "touch_task",
]


def crowded(first: Payload, second: Payload) -> bool:
    """Whether two payloads are too large to stand in one record.

    A row that has its output then leaves its input out: it stands in the rows before.
    """
    inline = [payload for payload in (first, second) if isinstance(payload, bytes)]
    return sum(map(len, inline)) > INLINE_BYTES_MAX


def next_run(entry: RunEntry, state: RunState) -> RunEntry:
    """Return a copy in `state`; raises `IllegalMove`."""
    check_run_move(entry.row.run_id, entry.row.state, state)
    copy = touch_run(entry)
    copy.row.state = state
    return copy


def touch_run(entry: RunEntry) -> RunEntry:
    """Return a copy in the same state, one version on."""
    row = entry.row
    copy = RunRow(
        run_id=row.run_id,
        version=row.version + 1,
        plan_name=row.plan_name,
        state=row.state,
        input=row.input,
        output=row.output,
        failure=row.failure,
        order_key=row.order_key,
        origin=row.origin,
        submitted_by=row.submitted_by,
        input_hash=row.input_hash,
        created_ms=row.created_ms,
        deadline_ms=row.deadline_ms,
        finished_ms=row.finished_ms,
        plan_version=row.plan_version,
        successor=row.successor,
        predecessor=row.predecessor,
        successor_key=row.successor_key,
        start_ms=row.start_ms,
    )
    return RunEntry(
        row=copy,
        plan=entry.plan,
        reply_key=entry.reply_key,
        events_from=entry.events_from,
        reused=entry.reused,
        timer_ms=entry.timer_ms,
        parent=entry.parent,
        source=entry.source,
        plan_key=entry.plan_key,
        undoes=entry.undoes,
        undo_from=entry.undo_from,
    )


def new_task(agent: str, task: str, task_id: str) -> TaskEntry:
    """Return a task of which nothing was journaled yet."""
    row = TaskRow(
        task_id=task_id,
        agent=agent,
        task=task,
        state=TaskState.PENDING,
        attempt=0,
        input=None,
        output=None,
        failure=None,
        steps=[],
        resumes=0,
        instance="",
        order_key=None,
        dispatched_ms=None,
        started_ms=None,
        finished_ms=None,
        retry_ms=None,
    )
    return TaskEntry(row, None, None)


def copy_task_row(row: TaskRow) -> TaskRow:
    """Return a copy of a task's row."""
    return TaskRow(
        row.task_id,
        row.agent,
        row.task,
        row.state,
        row.attempt,
        row.input,
        row.output,
        row.failure,
        row.steps,
        row.resumes,
        row.instance,
        row.order_key,
        row.dispatched_ms,
        row.started_ms,
        row.finished_ms,
        row.retry_ms,
        row.total,
        row.done,
        row.failed,
        row.version,
        row.child,
        row.ruling,
        row.build_id,
    )


def copy_task(entry: TaskEntry) -> TaskEntry:
    """Return a copy, which is no other version yet."""
    return TaskEntry(
        copy_task_row(entry.row),
        entry.cancel_kind,
        entry.timer_ms,
        entry.cancel_sent,
        entry.attempts_base,
        entry.expanded,
        entry.next_index,
        entry.failures,
        entry.call,
        entry.failed_by,
        entry.child_key,
        entry.joined,
        entry.reduced,
        entry.ruled_output,
        entry.journal_from,
        entry.restarting,
        entry.emitted,
    )


def touch_task(entry: TaskEntry) -> TaskEntry:
    """Return a copy in the same state, one version on."""
    copy = copy_task(entry)
    copy.row.version += 1
    return copy


def next_task(run_id: str, entry: TaskEntry, state: TaskState) -> TaskEntry:
    """Return a copy in `state`; raises `IllegalMove`."""
    return move_copy(run_id, copy_task(entry), state)


def move_copy(run_id: str, copy: TaskEntry, state: TaskState) -> TaskEntry:
    """Move a copy that nobody else has seen, and return it; raises `IllegalMove`."""
    row = copy.row
    check_task_move(run_id, row.task_id, row.state, state)
    row.version += 1
    row.state = state
    return copy
