"""What slots know: the topics `journal.<group>`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from holdfast.schemas.records.coordinator import (
    Ask,
    AskBody,
    CallAsk,
    EmitAsk,
    Parent,
    PlanAsk,
    RunAsk,
    Signal,
    SignalAsk,
    SleepAsk,
    SourceSlot,
)
from holdfast.schemas.records.events import AskKind, AskRow, PlanRevision, RunRow, RunState, TaskRow
from holdfast.schemas.records.parts import (
    FORMAT_VERSION,
    AgentPause,
    Failure,
    FailureKind,
    Payload,
    RecordHeader,
    RetryPolicy,
    StateDeletion,
    StepKind,
)
from holdfast.schemas.records.schedules import FiringEntry, ScheduleEntry
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
    "StateEntry",
    "StepEntry",
    "TaskEntry",
    "UndoEntry",
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
    build_id: str = ""  # of the agent that asked for it; "": as the record around it says


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
class StateEntry:
    """Journal key `/state/<name>/<order key>`: what an agent keeps under an order key."""

    value: bytes  # framed Avro
    task: str  # `<run id>/<task id>`, whose success wrote it
    attempt: int
    at_ms: int


@dataclass(slots=True)
class AgentJournal:
    """An agent's journal record, all but `offset`.

    A `StateDeletion` stands under `/deletion/<offset>` while a task of its order key is at work.
    """

    body: Accepted | Failed | StepEntry | Cancelled | StateEntry | StateDeletion | AgentPause
    build_id: str
    version: int = FORMAT_VERSION


@dataclass(slots=True)
class RunEntry:
    """Journal key `run/<run id>`."""

    row: RunRow
    plan: str  # "": it was changed, and stands under `plan/1`
    reply_key: str  # the key of the run's records on the coordinator's topic
    events_from: int  # a lower bound of the place of the run's first event
    reused: dict[str, Payload]  # a fork: outputs of tasks that are not worked again, by task id
    timer_ms: int | None  # the deadline, or the end of a cancel's grace; armed again on restore
    parent: Parent | None = None
    source: SourceSlot | None = None
    plan_key: str = ""  # names plan and changes together; "": it was not changed
    undoes: bool | None = None  # what a cancel said of undoing what was done; None: nothing
    undo_from: str | None = None  # only this task is undone, and what came of it; None: all is


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
    progress_timeout_ms: int | None = None
    output_schema_id: int | None = None  # None: any JSON


@dataclass(slots=True)
class TaskEntry:
    """Journal key `run/<run id>/<task id>`."""

    row: TaskRow
    cancel_kind: FailureKind | None  # cancelling: what the task becomes once answered
    timer_ms: int | None  # queue time-out or retry, armed again on restore
    cancel_sent: bool = False  # at some time: the task's end is followed by a release
    attempts_base: int = 0  # attempts that do not count: before the last replay, outages
    expanded: int = 0  # a map: how many items stand in its list
    next_index: int = 0  # a map: the first item not yet handed out
    failures: Payload = None  # a map that has ended: its failed items, a framed JSON list
    call: CallSpec | None = None
    failed_by: dict[str, int] = field(default_factory=dict)  # by errors with policies of their own
    child_key: str | None = None  # the record key of the run that works it, see `row.child`
    joined: list[str] = field(default_factory=list)  # a join: what had succeeded at its start
    reduced: int = 0  # a map with a reducer: how many chunks of its outputs were folded
    ruled_output: Payload = None  # what `row.ruling` gives it, once its attempt has ended
    journal_from: int = 0  # the attempt with which it was restarted last; 0: it never was
    restarting: bool = False  # it begins anew once its attempt has ended
    emitted: int = 0  # items that its handler has handed out, and the maps over them have taken


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
    order_keys: list[str | None] = field(default_factory=list)  # of items that arrive: one for each


@dataclass(slots=True)
class AskEntry:
    """Journal key `run/<run id>/ask/<16 hex>`: what a handler waits for."""

    ask: Ask
    asked_ms: int
    child: str | None
    child_key: str | None  # the record key of a child run
    timer_ms: int | None  # when it is answered or given up; armed again on restore

    @property
    def kind(self) -> AskKind:
        """What kind of ask it is."""
        return _KINDS[type(self.ask.what)]

    def row(self) -> AskRow:
        """Return it as the events tell it."""
        ask, what = self.ask, self.ask.what
        schema_id = what.schema_id if isinstance(what, SignalAsk) else None
        return AskRow(
            ask.task_id,
            ask.name,
            ask.key,
            self.kind,
            _subject(what),
            self.child,
            self.timer_ms,
            self.asked_ms,
            schema_id,
        )


_KINDS = {
    SleepAsk: AskKind.SLEEP,
    SignalAsk: AskKind.SIGNAL,
    CallAsk: AskKind.CALL,
    RunAsk: AskKind.RUN,
    PlanAsk: AskKind.PLAN,
    EmitAsk: AskKind.EMIT,
}


def _subject(what: AskBody) -> str:
    if isinstance(what, SignalAsk):
        return what.signal
    if isinstance(what, CallAsk):
        return f"{what.agent}.{what.task}"
    if isinstance(what, EmitAsk):
        return f"items {what.first} to {what.first + what.count - 1}"
    return _plan_name(what.plan) if isinstance(what, RunAsk) else ""


def _plan_name(plan: str) -> str:
    """Return the name that a plan's JSON gives it; "" where it cannot be read."""
    try:
        name = json.loads(plan)["name"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    return name if isinstance(name, str) else ""


@dataclass(slots=True)
class SignalEntry:
    """Journal key `run/<run id>/signal/<n>`: a signal, kept to the end of its run.

    Taken ones too, without their payload: the same signal sent twice must count once.
    """

    signal: Signal
    received_ms: int
    taken: bool = False


@dataclass(slots=True)
class UndoEntry:
    """Journal key `run/<run id>/undo/<n>`: the n-th success of a task that can be undone, from 1.

    The compensating task's input is made when the other succeeds, while all that it reads is there.
    Of a step `task_id` is the plan's task that it was done for; empty: there is nothing to undo any
    more, the number is only kept.
    """

    task_id: str
    input: Payload  # None: it could not be made
    order_key: str | None  # that it was worked under
    problem: str  # why no input could be made; else empty
    owner: str = ""  # of a step: whose handler did it
    due: bool = False  # a mark, no success: the steps of `owner` are to be undone at once
    spec: CallSpec | None = None  # of a step: how the task is worked that undoes it
    agent: str = ""  # of a step: the agent of that task
    task: str = ""  # of a step: its name


@dataclass(slots=True)
class Marker:
    """Journal key `closed/<first 16 bytes of SHA-256 of the run id, hex>`: a finished run, kept
    for the dedupe window."""

    input_hash: str
    state: RunState
    finished_ms: int
    events_from: int
    successor: str | None = None  # the run that it was continued as
    successor_key: str | None = None


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

    body: (
        RunEntry
        | TaskEntry
        | ListChunk
        | UndoEntry
        | Marker
        | Parked
        | AskEntry
        | SignalEntry
        | PlanRevision
        | ScheduleEntry
        | FiringEntry
        | AgentPause
    )
    version: int = FORMAT_VERSION
