"""The shapes of `--json`: what docs/howto/command-line.md promises, and nothing else.

Fields are only ever added. Times are wall time in milliseconds since the epoch.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from holdfast.schemas import BlobReference, HoldfastError, Payload, ScheduleRow

if TYPE_CHECKING:
    from holdfast.coordinator.projection import (
        AgentView,
        ChildView,
        DeadLetterView,
        HistoryEntry,
        PauseView,
        Reason,
        RunView,
        SignalView,
        TaskView,
        WaitView,
    )

__all__ = [
    "agent_document",
    "child_document",
    "dead_letter_document",
    "history_document",
    "pause_document",
    "payload_document",
    "reason_document",
    "run_document",
    "schedule_document",
    "signal_document",
    "task_document",
    "wait_document",
]

Document = dict[str, Any]


class Decoder(Protocol):
    """Decodes payloads; `Client.decode` does."""

    async def __call__(self, payload: Payload, /) -> Any:
        """Return the document of a payload."""
        ...


async def payload_document(payload: Payload, decode: Decoder) -> Any:
    """Return a payload decoded; what cannot be read says so in its place."""
    if payload is None:
        return None
    try:
        return await decode(payload)
    except HoldfastError as error:
        where = payload.name if isinstance(payload, BlobReference) else f"{len(payload)} bytes"
        return {"unreadable": str(error), "payload": where}


def run_document(run: RunView) -> Document:
    """A run in a list: without input, output and plan."""
    return {
        "run_id": run.run_id,
        "plan": run.plan_name,
        "plan_version": run.plan_version,
        "state": run.state.value,
        "failure": run.failure,
        "order_key": run.order_key,
        "origin": run.origin,
        "submitted_by": run.submitted_by,
        "created_ms": run.created_ms,
        "deadline_ms": run.deadline_ms,
        "finished_ms": run.finished_ms,
        "start_ms": run.start_ms,
        "tasks": run.tasks_by_state,
        "parent": _parent(run),
        "successor": run.successor,
        "predecessor": run.predecessor,
    }


def _parent(run: RunView) -> Document | None:
    return None if run.parent is None else {"run_id": run.parent[0], "task_id": run.parent[1]}


def schedule_document(row: ScheduleRow) -> Document:
    """A schedule, without its plan."""
    document = asdict(row)
    document["plan"] = document["spec"].pop("plan_name")
    document["spec"]["input"] = json.loads(row.spec.input)
    return document


def task_document(task: TaskView) -> Document:
    """A task, without input and output."""
    return {
        "task_id": task.task_id,
        "agent": task.agent,
        "task": task.task,
        "state": task.state.value,
        "attempt": task.attempt,
        "failure": task.failure,
        "steps": task.steps,
        "resumes": task.resumes,
        "instance": task.instance,
        "build_id": task.build_id,
        "order_key": task.order_key,
        "dispatched_ms": task.dispatched_ms,
        "started_ms": task.started_ms,
        "finished_ms": task.finished_ms,
        "retry_ms": task.retry_ms,
        "items": {"total": task.total, "done": task.done, "failed": task.failed},
        "arrives_from": task.arrives_from,
        "rounds": {"done": task.done, "at_most": task.total} if task.is_loop else None,
        "caller": task.caller,
        "undoes": task.undoes,
        "child": task.child,
        "ruling": task.ruling,
    }


def pause_document(pause: PauseView) -> Document:
    """A pause of an agent, or of one order key at it."""
    return {
        "agent": pause.agent,
        "order_key": pause.order_key,
        "actor": pause.actor,
        "reason": pause.reason,
        "since_ms": pause.since_ms,
    }


def history_document(entry: HistoryEntry) -> Document:
    """One event."""
    cause = None
    if entry.cause_offset is not None:
        cause = {"partition": entry.cause_partition, "offset": entry.cause_offset}
    return {
        "partition": entry.partition,
        "offset": entry.offset,
        "type": entry.type,
        "at_ms": entry.at_ms,
        "task_id": entry.task_id,
        "attempt": entry.attempt,
        "build_id": entry.build_id,
        "message": entry.message,
        "cause": cause,
        "command": entry.command,
        "ask": entry.ask,
        "signal": entry.signal,
    }


def wait_document(wait: WaitView) -> Document:
    """Something that a task waits for."""
    return {**asdict(wait.row), "child_state": wait.child_state, "text": wait.row.describe()}


def signal_document(signal: SignalView) -> Document:
    """A signal, without its payload."""
    return {
        "signal_id": signal.signal_id,
        "signal": signal.signal,
        "state": signal.state.value,
        "actor": signal.actor,
        "task_id": signal.task_id,
        "at_ms": signal.at_ms,
        "message": signal.message,
    }


def child_document(child: ChildView) -> Document:
    """A run that a handler started; `state` is null until a coordinator has taken it in."""
    return {
        "run_id": child.run_id,
        "plan": child.plan_name,
        "state": None if child.state is None else child.state.value,
        "task_id": child.task_id,
        "created_ms": child.created_ms,
        "finished_ms": child.finished_ms,
    }


def dead_letter_document(letter: DeadLetterView) -> Document:
    """A dead letter, without its input."""
    return {
        "dead_letter_id": letter.dead_letter_id,
        "reason": letter.reason,
        "open": letter.open,
        "failure": letter.failure,
        "run_id": letter.run_id,
        "run_state": letter.run_state,
        "task_id": letter.task_id,
        "task_state": letter.task_state,
        "agent": letter.agent,
        "task": letter.task,
        "attempt": letter.attempt,
        "source": letter.source,
        "at_ms": letter.at_ms,
    }


def agent_document(agent: AgentView, now_ms: int, alive_ms: int) -> Document:
    """One instance of an agent."""
    return {**asdict(agent), "alive": now_ms - agent.seen_ms <= alive_ms}


def reason_document(reason: Reason) -> Document:
    """One reason of `why`."""
    return asdict(reason)
