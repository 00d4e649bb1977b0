"""What records of several topics hold."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "FORMAT_VERSION",
    "BlobReference",
    "Failure",
    "FailureKind",
    "Payload",
    "RecordHeader",
    "RetryPolicy",
    "StepKind",
    "StepSummary",
]

FORMAT_VERSION = 1
"""Version of the record format, in every envelope."""


@dataclass(slots=True)
class BlobReference:
    """A payload kept outside of the bus. `name` is `<run id>/<sha256 of the bytes, hex>`."""

    name: str
    size_bytes: int


Payload = bytes | BlobReference | None


class FailureKind(StrEnum):
    """Why an attempt, a task or a run did not succeed."""

    ERROR = "error"  # the handler raised
    TIMEOUT = "timeout"  # the attempt took longer than its timeout_s
    QUEUE_TIMEOUT = "queue_timeout"  # not started within queue_timeout_s
    DEADLINE = "deadline"  # the run's deadline passed
    CANCELLED = "cancelled"
    POISON = "poison"  # the handler kills its process
    UNDECODABLE = "undecodable"  # the record is not what it claims to be
    SCHEMA = "schema"  # the input does not fit the handler's model, or the output its schema
    UNKNOWN_TASK = "unknown_task"  # the agent has no task of this name
    MISMATCH = "mismatch"  # the journal does not fit the code
    OUTCOME_UNKNOWN = "outcome_unknown"  # an effect was open when its process died
    TOO_LARGE = "too_large"  # a record that the bus does not take
    UPSTREAM = "upstream"  # a task it depends on did not succeed


@dataclass(slots=True)
class Failure:
    """A typed failure: what a handler's exception becomes."""

    kind: FailureKind
    error_class: str
    message: str
    traceback: str
    retryable: bool


class StepKind(StrEnum):
    """What a journaled step is."""

    STEP = "step"
    INTENT = "intent"  # an effect has begun; its outcome is not known yet
    EFFECT = "effect"  # an effect whose outcome is known
    ASK = "ask"  # the coordinator was asked; its answer has not come
    ANSWER = "answer"  # an ask that was answered, by a result or by a failure


@dataclass(slots=True)
class StepSummary:
    """One step of a task, as the events tell it."""

    name: str
    key: str
    kind: StepKind
    started_ms: int
    duration_ms: int
    size_bytes: int


@dataclass(slots=True)
class RetryPolicy:
    """When a failed attempt is followed by another: initial * factor^(n-1), at most max."""

    attempts: int = 3
    initial_ms: int = 1_000
    factor: float = 2.0
    max_ms: int = 60_000
    jitter: float = 0.2  # share of the delay that is drawn at random, up and down


@dataclass(slots=True)
class RecordHeader:
    """One header."""

    name: str
    value: bytes
