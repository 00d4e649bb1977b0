"""The shapes of `--json`: what docs/howto/command-line.md promises, and nothing else.

Fields are only ever added. Times are wall time in milliseconds since the epoch.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from holdfast.schemas import BlobReference, HoldfastError, Payload

if TYPE_CHECKING:
    from holdfast.coordinator.projection import (
        AgentView,
        DeadLetterView,
        HistoryEntry,
        Reason,
        RunView,
        TaskView,
    )

__all__ = [
    "agent_document",
    "dead_letter_document",
    "history_document",
    "payload_document",
    "reason_document",
    "run_document",
    "task_document",
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
        "state": run.state.value,
        "failure": run.failure,
        "order_key": run.order_key,
        "origin": run.origin,
        "submitted_by": run.submitted_by,
        "created_ms": run.created_ms,
        "deadline_ms": run.deadline_ms,
        "finished_ms": run.finished_ms,
        "tasks": run.tasks_by_state,
    }


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
        "order_key": task.order_key,
        "dispatched_ms": task.dispatched_ms,
        "started_ms": task.started_ms,
        "finished_ms": task.finished_ms,
        "retry_ms": task.retry_ms,
        "items": {"total": task.total, "done": task.done, "failed": task.failed},
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
        "message": entry.message,
        "cause": cause,
        "command": entry.command,
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
