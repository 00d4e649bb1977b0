"""What agents are told: `tasks.<agent>` and `control.<agent>`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from holdfast.schemas.records.parts import (
    FORMAT_VERSION,
    AgentPause,
    Failure,
    Payload,
    StateDeletion,
)

__all__ = ["ControlAction", "ControlEnvelope", "Reply", "TaskEnvelope"]


@dataclass(slots=True)
class TaskEnvelope:
    """One attempt of one task, handed to an agent."""

    run_id: str
    task_id: str
    task: str  # the handler's name
    attempt: int  # from 1; a fencing token
    input: Payload
    reply_key: str  # the record key under which results go to the coordinator's topic
    origin: str  # origin run id: effects' idempotency keys stay the same over forks
    sent_ms: int
    order_key: str | None = None
    loose_order: bool = False  # others of this order key may pass while this one retries
    timeout_ms: int | None = None  # duration, counted while the handler holds a place
    deadline_ms: int | None = None
    progress_timeout_ms: int | None = None  # without a step or a word of progress, in its place
    journal_from: int = 0  # what attempts before this one have journaled is dropped; 0: nothing is
    version: int = FORMAT_VERSION


class ControlAction(StrEnum):
    """What the coordinator tells an agent about a task."""

    CANCEL = "cancel"  # end this attempt; answered by a TaskResult with outcome CANCELLED
    EXPIRE = "expire"  # the same, but only if its handler has not begun: a queue time-out
    RELEASE = "release"  # forget all you know of the task: it is closed
    REPLY = "reply"  # what one of its asks led to
    DELETE_STATE = "delete_state"  # about an order key, of no task: run and task are empty
    PAUSE = "pause"  # begin no task, or none of an order key; of no task either
    RESUME = "resume"  # the end of a pause


@dataclass(slots=True)
class Reply:
    """What an ask led to: a result, or the failure that the handler is to see."""

    name: str
    key: str
    result: Payload
    failure: Failure | None


@dataclass(slots=True)
class ControlEnvelope:
    """A word from the coordinator about one task; same record key as the task's own record."""

    run_id: str
    task_id: str
    attempt: int
    action: ControlAction
    reason: str
    reply_key: str
    sent_ms: int
    reply: Reply | None = None
    deletion: StateDeletion | None = None
    pause: AgentPause | None = None
    version: int = FORMAT_VERSION
