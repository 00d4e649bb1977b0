"""The records on the wire, as slotted dataclasses: one envelope per topic.

The `.avsc` files beside this module are the contract for every language; these classes mirror
them field by field (a test holds that). Instances are values: nobody changes one after it was
made. `Payload` is the user's data: framed Avro bytes (magic byte 0, 4-byte schema id, Avro), or a
reference to a blob (claim check), or None.

`at_ms`, `*_ms` that name a moment are wall time in milliseconds since the epoch; durations say so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

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


@dataclass(slots=True)
class StepSummary:
    """One step of a task, as the events tell it."""

    name: str
    key: str
    kind: StepKind
    started_ms: int
    duration_ms: int
    size_bytes: int


# --- tasks.<agent> -----------------------------------------------------------------------------


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
    version: int = FORMAT_VERSION


# --- control.<agent> ---------------------------------------------------------------------------


class ControlAction(StrEnum):
    """What the coordinator tells an agent about a task."""

    CANCEL = "cancel"  # end this attempt; answered by a TaskResult with outcome CANCELLED
    EXPIRE = "expire"  # the same, but only if its handler has not begun: a queue time-out
    RELEASE = "release"  # forget all you know of the task: it is closed


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
    version: int = FORMAT_VERSION


# --- coordinator -------------------------------------------------------------------------------


@dataclass(slots=True)
class Submission:
    """A run to be made. `plan` is the resolved plan's canonical JSON."""

    plan: str
    input: Payload
    input_hash: str  # sha256 hex over plan and input: the same id with another one is an error
    origin: str
    submitted_by: str
    order_key: str | None = None
    reused: dict[str, Payload] = field(default_factory=dict)  # fork: outputs by task id


class CommandAction(StrEnum):
    """What an operator asks of a run."""

    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    REPLAY = "replay"  # a dead-lettered task goes on with a new attempt
    DISCARD = "discard"  # a dead-lettered task is given up: it fails


@dataclass(slots=True)
class Command:
    """An operator's word; each makes at least one event, a refusal too."""

    command_id: str
    action: CommandAction
    task_id: str | None
    arguments: str  # JSON object
    actor: str
    reason: str


class Outcome(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(slots=True)
class TaskResult:
    """The end of one attempt, in the commit that closes it at the agent."""

    task_id: str
    attempt: int
    outcome: Outcome
    output: Payload
    failure: Failure | None
    steps: list[StepSummary]
    started_ms: int
    finished_ms: int
    resumes: int
    instance: str
    build_id: str


@dataclass(slots=True)
class TaskProgress:
    """What a handler said by `ctx.progress`."""

    task_id: str
    attempt: int
    message: str
    fraction: float | None


@dataclass(slots=True)
class CoordinatorEnvelope:
    """What coordinators consume; the record key is the run id, or its plan's order key."""

    run_id: str
    sent_ms: int
    body: Submission | Command | TaskResult | TaskProgress
    version: int = FORMAT_VERSION


# --- events ------------------------------------------------------------------------------------


class RunState(StrEnum):
    """The life of a run; see the transition table in `holdfast.coordinator.engine`."""

    RUNNING = "running"
    PAUSED = "paused"
    WAITING = "waiting"  # nothing can go on before a dead letter is dealt with
    CANCELLING = "cancelling"
    FAILING = "failing"  # decided to fail; running tasks are being cancelled
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class TaskState(StrEnum):
    """The life of a task; see the transition table in `holdfast.coordinator.engine`."""

    PENDING = "pending"  # waits for its dependencies (not journaled)
    DISPATCHED = "dispatched"  # an attempt is with its agent
    EXPANDED = "expanded"  # a map whose items are being worked
    RETRYING = "retrying"  # waits for the next attempt's time
    CANCELLING = "cancelling"  # a cancel was sent; the answer is awaited
    DEAD = "dead"  # in the dead letters, waits for a person (on_dead_letter: wait)
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


@dataclass(slots=True)
class RunRow:
    """A run as it is after a transition: the whole row, not a delta."""

    run_id: str
    version: int  # +1 with each row of this run
    plan_name: str
    state: RunState
    input: Payload
    output: Payload
    failure: Failure | None
    order_key: str | None
    origin: str
    submitted_by: str
    input_hash: str
    created_ms: int
    deadline_ms: int | None
    finished_ms: int | None


@dataclass(slots=True)
class TaskRow:
    """A task as it is after a transition: the whole row, not a delta.

    A map's item has the id `<map's id>.<index>`.
    """

    task_id: str
    agent: str
    task: str
    state: TaskState
    attempt: int
    input: Payload
    output: Payload
    failure: Failure | None
    steps: list[StepSummary]
    resumes: int
    instance: str
    order_key: str | None
    dispatched_ms: int | None
    started_ms: int | None
    finished_ms: int | None
    retry_ms: int | None  # when the next attempt is due
    total: int = 0  # a map: how many items
    done: int = 0  # a map: how many of them have ended
    failed: int = 0  # a map: how many of those did not succeed
    version: int = 0  # +1 with each row of this task


class EventType(StrEnum):
    """What happened; `<entity>.<verb in the past>`."""

    RUN_STARTED = "run.started"
    RUN_REFUSED = "run.refused"  # a submission that cannot be run
    RUN_REPEATED = "run.repeated"  # a submission whose run id exists already with the same input
    RUN_CONFLICTED = "run.conflicted"  # ... with another input
    RUN_PAUSED = "run.paused"
    RUN_RESUMED = "run.resumed"
    RUN_WAITING = "run.waiting"
    RUN_CANCELLING = "run.cancelling"
    RUN_FAILING = "run.failing"
    RUN_SUCCEEDED = "run.succeeded"
    RUN_FAILED = "run.failed"
    RUN_CANCELLED = "run.cancelled"
    TASK_DISPATCHED = "task.dispatched"
    TASK_EXPANDED = "task.expanded"
    TASK_PROGRESSED = "task.progressed"
    TASK_RETRYING = "task.retrying"
    TASK_CANCELLING = "task.cancelling"
    TASK_DEAD = "task.dead"
    TASK_SUCCEEDED = "task.succeeded"
    TASK_FAILED = "task.failed"
    TASK_CANCELLED = "task.cancelled"
    TASK_SKIPPED = "task.skipped"
    RESULT_IGNORED = "result.ignored"  # of an older attempt, or of a run that is closed
    COMMAND_ACCEPTED = "command.accepted"
    COMMAND_REFUSED = "command.refused"


@dataclass(slots=True)
class Cause:
    """The record on the coordinator's topic that caused a transition."""

    partition: int
    offset: int


@dataclass(slots=True)
class Event:
    """One transition: the audit trail."""

    run_id: str
    type: EventType
    at_ms: int
    cause: Cause | None  # None: a timer
    run: RunRow | None
    task: TaskRow | None
    message: str  # for people: a refusal's reason, a progress message
    plan: str | None = None  # the plan's JSON, when it is new or has changed
    command: Command | None = None
    events_from: int | None = None  # run.repeated: where, at the earliest, the run's events stand
    version: int = FORMAT_VERSION


# --- journals ----------------------------------------------------------------------------------


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

    body: RunEntry | TaskEntry | ListChunk | Marker | Parked
    version: int = FORMAT_VERSION


# --- dead letters, manifests, schemas ----------------------------------------------------------


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
class RecordHeader:
    """One header."""

    name: str
    value: bytes


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
class RetryPolicy:
    """When a failed attempt is followed by another: initial * factor^(n-1), at most max."""

    attempts: int = 3
    initial_ms: int = 1_000
    factor: float = 2.0
    max_ms: int = 60_000
    jitter: float = 0.2  # share of the delay that is drawn at random, up and down


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
    version: int = FORMAT_VERSION


@dataclass(slots=True)
class SchemaEntry:
    """One version of one subject."""

    subject: str
    subject_version: int
    schema_id: int
    schema: str
    version: int = FORMAT_VERSION
