"""What is kept beside runs: dead letters, manifests, schemas."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from holdfast.schemas.records.parts import (
    FORMAT_VERSION,
    Failure,
    Payload,
    RecordHeader,
    RetryPolicy,
)

__all__ = [
    "BreakerRow",
    "BreakerState",
    "DeadLetter",
    "DeadLetterReason",
    "Manifest",
    "SchemaEntry",
    "SourceRecord",
    "TaskManifest",
]


class DeadLetterReason(StrEnum):
    """Why a task or record cannot go on by itself."""

    UNDECODABLE = "undecodable"
    SCHEMA = "schema"
    POISON = "poison"
    EXHAUSTED = "exhausted"  # all attempts used, or an error that is not retryable
    DEADLINE = "deadline"
    UNKNOWN_TASK = "unknown_task"
    MISMATCH = "mismatch"
    OUTCOME_UNKNOWN = "outcome_unknown"
    COMPENSATION = "compensation"  # what was done cannot be undone


@dataclass(slots=True)
class SourceRecord:
    """A record kept whole, with where it stood."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: list[RecordHeader]
    sha256: str  # hex, of the value


@dataclass(slots=True)
class DeadLetter:
    """A task, or a record that nobody can read, kept whole with its reason."""

    dead_letter_id: str
    reason: DeadLetterReason
    failure: Failure | None
    run_id: str | None
    task_id: str | None
    agent: str
    task: str | None
    attempt: int
    input: Payload
    source: SourceRecord | None
    at_ms: int
    version: int = FORMAT_VERSION


@dataclass(slots=True)
class TaskManifest:
    """One task of an agent, as it publishes it."""

    name: str
    input_schema_id: int
    output_schema_id: int
    retry: RetryPolicy
    timeout_ms: int | None
    queue_timeout_ms: int | None
    description: str
    progress_timeout_ms: int | None = None
    compensate: str | None = None  # JSON: the task that undoes it, as in a plan


class BreakerState(StrEnum):
    """The life of a circuit breaker; see the transition table in `holdfast.agents`."""

    CLOSED = "closed"  # calls go through
    OPEN = "open"  # none does
    HALF_OPEN = "half_open"  # one does, to find out


@dataclass(slots=True)
class BreakerRow:
    """A circuit breaker of a process that is not closed."""

    name: str
    state: BreakerState
    since_ms: int
    until_ms: int | None  # when the next call is let through; None: one is under way
    held: int  # how many calls and tasks wait for it here
    error: str  # the failure that opened it, for people


@dataclass(slots=True)
class Manifest:
    """What an agent publishes of itself at start, and again as a sign of life."""

    agent: str
    instance: str
    process_id: str
    agent_version: str
    build_id: str
    tasks: list[TaskManifest]
    concurrency: int
    started_ms: int
    seen_ms: int
    breakers: list[BreakerRow] = field(default_factory=list)  # those that are not closed
    version: int = FORMAT_VERSION


@dataclass(slots=True)
class SchemaEntry:
    """One version of one subject."""

    subject: str
    subject_version: int
    schema_id: int
    schema: str
    version: int = FORMAT_VERSION
