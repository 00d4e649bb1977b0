"""Tasks that handlers call: tasks of the same run that no plan has."""

from __future__ import annotations

import hashlib

from holdfast.coordinator.engine.counting import CALLED
from holdfast.coordinator.engine.graph import call_node
from holdfast.coordinator.engine.inputs import Arrival
from holdfast.coordinator.engine.run.cancelling import ask_to_cancel, cut
from holdfast.coordinator.engine.run.dispatch import dispatch
from holdfast.coordinator.engine.run.failing import failure_of
from holdfast.coordinator.engine.run.rows import new_task
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.coordinator.engine.states import TASK_ENDS
from holdfast.schemas.errors import Undecodable, Unencodable
from holdfast.schemas.records import (
    Ask,
    AskEntry,
    CallAsk,
    CallSpec,
    Failure,
    FailureKind,
    TaskEntry,
    TaskState,
)
from holdfast.schemas.resolution import ResolvedTask

__all__ = ["call_id", "cancel", "start"]

ATTEMPTS_OF_ONE_CALL = 1_000_000
"""A restarted task calls under the ids that it called under before: idempotency keys hold them.
Attempts are fencing numbers: those of the new call are above all of the old one."""


def call_id(ask: Ask) -> str:
    """Return the id of the task that an ask calls: no plan can have such a one."""
    parts = f"{ask.task_id}\x00{ask.name}\x00{ask.key}".encode()
    return CALLED + hashlib.sha256(parts).hexdigest()[:16]


def start(t: Transition, arrival: Arrival, entry: AskEntry, what: CallAsk) -> Failure | None:
    """Start the task that a handler calls; return why it cannot be."""
    resolved, values = arrival.resolved, t.scope.values
    assert isinstance(resolved, ResolvedTask), "the service has looked it up"
    name = f"{what.agent}.{what.task}"
    try:
        document = values.document(what.input)
        data = values.encode(resolved.input_schema_id, {} if document is None else document)
    except (Undecodable, Unencodable) as error:
        return failure_of(FailureKind.SCHEMA, f"the input of {name} does not fit: {error}")
    task = _task(entry.ask, what, resolved)
    caller = t.task(entry.ask.task_id)
    if caller is not None and caller.journal_from:
        task.row.attempt = task.attempts_base = caller.journal_from * ATTEMPTS_OF_ONE_CALL
    task.row.input = values.payload(t.run_id, data)
    entry.child = task.row.task_id
    if t.starting:
        dispatch(t, call_node(task), task, task.row.input)
    else:
        t.put(task)  # its run is paused: it is handed out when that is over
    return None


def _task(ask: Ask, what: CallAsk, resolved: ResolvedTask) -> TaskEntry:
    spec = CallSpec(
        caller=ask.task_id,
        name=ask.name,
        key=ask.key,
        input_schema_id=resolved.input_schema_id,
        retry=what.retry or resolved.retry,
        timeout_ms=resolved.timeout_ms if what.timeout_ms is None else what.timeout_ms,
        queue_timeout_ms=resolved.queue_timeout_ms,
        progress_timeout_ms=resolved.progress_timeout_ms,
        output_schema_id=resolved.output_schema_id,
    )
    task = new_task(what.agent, what.task, call_id(ask))
    task.row.order_key = what.order_key
    task.call = spec
    return task


def cancel(t: Transition, entry: AskEntry) -> bool:
    """Nobody waits for a called task any more: let it end; return whether it has, at once."""
    task = t.task(entry.child or "")
    if task is None:
        return True
    if task.row.state is TaskState.DISPATCHED:
        ask_to_cancel(t, task, FailureKind.UPSTREAM)
    elif task.row.state is not TaskState.CANCELLING:
        if task.row.state not in TASK_ENDS:  # the end of its run may have come first
            cut(t, task, FailureKind.UPSTREAM)
        t.overlay.put(task.row.task_id, None)
        return True
    return False
