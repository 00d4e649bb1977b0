"""What records of several topics hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

__all__ = [
    "FORMAT_VERSION",
    "AgentPause",
    "BlobReference",
    "ErrorRetry",
    "Failure",
    "FailureKind",
    "Payload",
    "RecordHeader",
    "RetryPolicy",
    "Ruling",
    "RulingAction",
    "StateDeletion",
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
    NOT_NEEDED = "not_needed"  # all that would have read its output goes on without it


@dataclass(slots=True)
class Failure:
    """A typed failure: what a handler's exception becomes."""

    kind: FailureKind
    error_class: str
    message: str
    traceback: str
    retryable: bool
    classes: list[str] = field(default_factory=list)  # with their modules, the nearest first
    retry_after_ms: int | None = None  # when another attempt may help, as whoever failed says
    breaker: str | None = None  # the circuit breaker that counts it as an outage


class StepKind(StrEnum):
    """What a journaled step is."""

    STEP = "step"
    INTENT = "intent"  # an effect has begun; its outcome is not known yet
    EFFECT = "effect"  # an effect whose outcome is known
    ASK = "ask"  # the coordinator was asked; its answer has not come
    ANSWER = "answer"  # an ask that was answered, by a result or by a failure
    PATCH = "patch"  # the mark of `ctx.patched`: this task takes the new way


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
class ErrorRetry:
    """A retry policy for one class of errors, counted apart from the others."""

    error: str  # the class, with or without its module; a base too
    attempts: int = 3
    initial_ms: int = 1_000
    factor: float = 2.0
    max_ms: int = 60_000
    jitter: float = 0.2


@dataclass(slots=True)
class RetryPolicy:
    """When a failed attempt is followed by another: initial * factor^(n-1), at most max."""

    attempts: int = 3
    initial_ms: int = 1_000
    factor: float = 2.0
    max_ms: int = 60_000
    jitter: float = 0.2  # share of the delay that is drawn at random, up and down
    never: list[str] = field(default_factory=list)  # errors after which there is no other attempt
    by_error: list[ErrorRetry] = field(default_factory=list)


@dataclass(slots=True)
class RecordHeader:
    """One header."""

    name: str
    value: bytes


class RulingAction(StrEnum):
    """What an operator made of a task."""

    SKIP = "skip"
    OVERRIDE = "override"


@dataclass(slots=True)
class Ruling:
    """An operator's word that ends a task: it stands, whatever its attempts still say."""

    action: RulingAction
    actor: str
    reason: str
    command_id: str
    at_ms: int


@dataclass(slots=True)
class AgentPause:
    """A pause of an agent, or of one order key at an agent, by an operator.

    In the coordinators' journal under `agent/<agent>/all` or `agent/<agent>/key/<32 hex>`, in the
    agent's under `/paused` or `/paused/<order key>`.
    """

    agent: str
    order_key: str | None  # None: the whole agent
    actor: str
    reason: str
    since_ms: int


@dataclass(slots=True)
class StateDeletion:
    """Somebody's word to delete what an agent keeps under an order key, and what was deleted."""

    deletion_id: str
    order_key: str
    name: str | None  # None: all names
    actor: str
    reason: str
    sent_ms: int
    deleted: list[str] = field(default_factory=list)  # once it is done: the names that were there
