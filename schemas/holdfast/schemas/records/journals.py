"""What slots know: the topics `journal.<group>`."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.schemas.records.coordinator import Ask, Parent, Signal
from holdfast.schemas.records.events import RunRow, RunState, TaskRow
from holdfast.schemas.records.parts import (
    FORMAT_VERSION,
    Failure,
    FailureKind,
    Payload,
    RecordHeader,
    RetryPolicy,
    StepKind,
)
from holdfast.schemas.records.tasks import TaskEnvelope

__all__ = [
    "Accepted",
    "AgentJournal",
    "AskEntry",
    "CallSpec",
    "Cancelled",
    "ConsumedOffset",
    "CoordinatorJournal",
    "Failed",
    "ItemFailure",
    "ListChunk",
    "Marker",
    "Parked",
    "RunEntry",
    "SignalEntry",
    "SlotOffset",
    "StepEntry",
    "TaskEntry",
]


@dataclass(slots=True)
class ConsumedOffset:
    """The next offset to be read of one topic, in the slot's partition."""

    topic: str
    offset: int


@dataclass(slots=True)
class SlotOffset:
    """A slot's record of itself, rewritten in each commit under the journal key `offset`."""

    commit_number: int
    offsets: list[ConsumedOffset]
    instance: str
    process_id: str  # a UUID made when the process started
    clean: bool  # written by a slot that was given up with nothing running
    at_ms: int
    version: int = FORMAT_VERSION


@dataclass(slots=True)
class Accepted:
    """Journal key `<task>`: a task that the slot has taken over from its topic."""

    envelope: TaskEnvelope
    input_offset: int
    resumes: int
    resumes_since_step: int
    strikes: int
    alone: bool  # runs alone in the process since this was written
    order_offset: int  # its place among tasks of its order key: the offset of its first attempt
    asleep: bool = False  # it waits for an answer, and is not started before one comes


@dataclass(slots=True)
class Failed:
    """Journal key `<task>`: attempt `attempt` has ended; the steps stay for the next one.

    With an order key (strict order) the key stays closed until the next attempt, or `release`.
    """

    attempt: int
    order_key: str | None
    order_offset: int


@dataclass(slots=True)
class StepEntry:
    """Journal key `<task>/step/<name>/<key>`."""

    name: str
    key: str
    kind: StepKind
    attempt: int
    digest: str  # sha256 hex of the arguments' JSON
    result: Payload
    started_ms: int
    duration_ms: int
    failure: Failure | None = None  # an answer that is raised, in each execution


@dataclass(slots=True)
class Cancelled:
    """Journal key `<task>/cancelled`: a cancel came before the task's record.

    Kept until that record arrives, or for 7 days after `at_ms`. `released`: the coordinator has
    closed the task meanwhile, so that nothing is to be kept once the record has arrived.
    """

    attempt: int
    at_ms: int
    released: bool


@dataclass(slots=True)
class AgentJournal:
    """An agent's journal record, all but `offset`."""

    body: Accepted | Failed | StepEntry | Cancelled
    build_id: str
    version: int = FORMAT_VERSION


@dataclass(slots=True)
class RunEntry:
    """Journal key `run/<run id>`."""

    row: RunRow
    plan: str
    reply_key: str  # the key of the run's records on the coordinator's topic
    events_from: int  # a lower bound of the place of the run's first event
    reused: dict[str, Payload]  # a fork: outputs of tasks that are not worked again, by task id
    timer_ms: int | None  # the deadline, or the end of a cancel's grace; armed again on restore
    parent: Parent | None = None


@dataclass(slots=True)
class CallSpec:
    """How a task is worked that no plan has: one that a handler called."""

    caller: str
    name: str
    key: str
    input_schema_id: int
    retry: RetryPolicy
    timeout_ms: int | None
    queue_timeout_ms: int | None


@dataclass(slots=True)
class TaskEntry:
    """Journal key `run/<run id>/<task id>`."""

    row: TaskRow
    cancel_kind: FailureKind | None  # cancelling: what the task becomes once answered
    timer_ms: int | None  # queue time-out or retry, armed again on restore
    cancel_sent: bool = False  # at some time: the task's end is followed by a release
    attempts_base: int = 0  # attempts before the last replay: they do not count as retries
    expanded: int = 0  # a map: how many items stand in its list
    next_index: int = 0  # a map: the first item not yet handed out
    failures: Payload = None  # a map that has ended: its failed items, a framed JSON list
    call: CallSpec | None = None


@dataclass(slots=True)
class ItemFailure:
    """Why one item of a map did not succeed."""

    index: int
    kind: FailureKind
    error_class: str
    message: str


@dataclass(slots=True)
class ListChunk:
    """Part of a map's list.

    Journal key `run/<run id>/<map's id>/items/<n>`: `items` holds one framed payload for each
    item, None where no input could be made (the reason is in `failures`).
    Journal key `run/<run id>/<map's id>/outputs/<n>`: `items` holds one framed JSON list, the
    outputs of those that succeeded in order; `failures` the others.
    """

    items: list[Payload]
    failures: list[ItemFailure]


@dataclass(slots=True)
class AskEntry:
    """Journal key `run/<run id>/ask/<16 hex>`: what a handler waits for."""

    ask: Ask
    asked_ms: int
    child: str | None
    child_key: str | None  # the record key of a child run
    timer_ms: int | None  # when it is answered or given up; armed again on restore


@dataclass(slots=True)
class SignalEntry:
    """Journal key `run/<run id>/signal/<n>`: a signal, kept to the end of its run.

    Taken ones too, without their payload: the same signal sent twice must count once.
    """

    signal: Signal
    received_ms: int
    taken: bool = False


@dataclass(slots=True)
class Marker:
    """Journal key `closed/<first 16 bytes of SHA-256 of the run id, hex>`: a finished run, kept
    for the dedupe window."""

    input_hash: str
    state: RunState
    finished_ms: int
    events_from: int


@dataclass(slots=True)
class Parked:
    """Journal key `parked/<offset>`: a record of the coordinator's topic that waits (for a blob, a
    schema, an agent) while the slot's offset has passed it."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: list[RecordHeader]
    timestamp_ms: int


@dataclass(slots=True)
class CoordinatorJournal:
    """A coordinator's journal record, all but `offset`."""

    body: RunEntry | TaskEntry | ListChunk | Marker | Parked | AskEntry | SignalEntry
    version: int = FORMAT_VERSION
