"""What coordinators are told: the topic `coordinator`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from holdfast.schemas.records.parts import (
    FORMAT_VERSION,
    Failure,
    Payload,
    RetryPolicy,
    StateDeletion,
    StepSummary,
)
from holdfast.schemas.records.schedules import ScheduleCommand

__all__ = [
    "EMIT_ITEMS_MAX",
    "EMIT_NAME",
    "Ask",
    "AskBody",
    "CallAsk",
    "ChildEnded",
    "Command",
    "CommandAction",
    "CoordinatorEnvelope",
    "EmitAsk",
    "Outcome",
    "Parent",
    "PlanAsk",
    "RunAsk",
    "Signal",
    "SignalAsk",
    "SleepAsk",
    "SourceSlot",
    "Submission",
    "TaskProgress",
    "TaskResult",
    "UndoAsk",
]


@dataclass(slots=True)
class Parent:
    """The ask that a run was made for: who is told of its end."""

    run_id: str
    reply_key: str
    task_id: str
    name: str
    key: str


@dataclass(slots=True)
class SourceSlot:
    """The slot of a source that made a run of a record: it is told of the run's end."""

    name: str
    partition: int


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
    parent: Parent | None = None
    deadline_ms: int | None = None  # beside that of its plan: what comes first holds
    source: SourceSlot | None = None
    predecessor: str | None = None  # the run that it continues
    start_ms: int | None = None  # nothing of it starts before
    start_in_ms: int | None = None  # the same, counted from when the coordinator takes it
    reason: str = ""  # why there is this run, for people: of a fork, what of, by whom, and why


class CommandAction(StrEnum):
    """What an operator asks of a run."""

    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    REPLAY = "replay"  # a dead-lettered task goes on with a new attempt
    DISCARD = "discard"  # a dead-lettered task is given up: it fails
    SKIP = "skip"  # a task ends as if its condition had not held
    OVERRIDE = "override"  # a task succeeds with the output given
    RETRY = "retry"  # a dead-lettered task, or one that waits for its next attempt, goes on now
    RESTART = "restart"  # a task begins anew, without the steps that it has journaled


@dataclass(slots=True)
class Command:
    """An operator's word; each makes at least one event, a refusal too.

    About an agent, in an envelope for `agent/<name>`, it is PAUSE or RESUME; `arguments` may name
    an `order_key`.
    """

    command_id: str
    action: CommandAction
    task_id: str | None
    arguments: str  # JSON object
    actor: str
    reason: str
    output: Payload = None  # override: the output, framed JSON; events leave it out
    bulk_id: str | None = None  # of all commands that were given at once


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
class SleepAsk:
    """To be answered after a while, counted from when the coordinator takes it.

    Not at a time: whose clock runs ahead would be woken too early, or an hour too late.
    """

    duration_ms: int


@dataclass(slots=True)
class SignalAsk:
    """To be answered by the next signal of a name, with its payload."""

    signal: str
    schema_id: int | None  # what the payload must fit; None: any JSON
    timeout_ms: int | None  # counted as a sleep


@dataclass(slots=True)
class CallAsk:
    """To be answered by the end of another agent's task, which becomes one of the same run."""

    agent: str
    task: str
    input: Payload
    retry: RetryPolicy | None = None  # instead of the task's own
    timeout_ms: int | None = None  # instead of the task's own
    order_key: str | None = None


@dataclass(slots=True)
class RunAsk:
    """To be answered by the end of another run; by its start, if it is `detached`."""

    plan: str  # canonical JSON, not resolved
    input: Payload
    run_id: str | None
    detached: bool


@dataclass(slots=True)
class PlanAsk:
    """To be answered by the number of the plan's version that a change of it makes."""

    change: str  # canonical JSON of a PlanChangeDocument, not resolved


@dataclass(slots=True)
class UndoAsk:
    """Never answered: the task that undoes a step, in the commit that journals its result."""

    agent: str
    task: str
    input: Payload  # the step's result


EMIT_NAME = "~emit"
"""The name of asks that hand out items; their key is `first`, in decimal digits."""
EMIT_ITEMS_MAX = 100
"""So many items are handed out at once: a map takes them in one event."""


@dataclass(slots=True)
class EmitAsk:
    """Items that a handler hands out: to be answered once the maps over them have taken them."""

    first: int  # the index of the first: how many the task has handed out before
    count: int
    items: Payload  # a framed JSON list


AskBody = SleepAsk | SignalAsk | CallAsk | RunAsk | PlanAsk | UndoAsk | EmitAsk


@dataclass(slots=True)
class Ask:
    """What a handler waits for, in the commit that journals it at the agent."""

    task_id: str
    attempt: int
    name: str
    key: str
    what: SleepAsk | SignalAsk | CallAsk | RunAsk | PlanAsk | UndoAsk | EmitAsk


@dataclass(slots=True)
class Signal:
    """Somebody's word to a run."""

    signal_id: str
    signal: str
    payload: Payload
    actor: str


@dataclass(slots=True)
class ChildEnded:
    """A run that another one asked for has ended, or was refused."""

    child_run_id: str
    task_id: str
    name: str
    key: str
    output: Payload
    failure: Failure | None
    successor: str | None = None  # it was continued as that run, whose end is to be awaited
    successor_key: str | None = None
    outcome: Outcome | None = None  # how it ended; None: it never began


@dataclass(slots=True)
class CoordinatorEnvelope:
    """What coordinators consume; the record key is the run id, or its plan's order key."""

    run_id: str  # of another entity: its key, schedule/<name>
    sent_ms: int
    body: (
        Submission
        | Command
        | TaskResult
        | TaskProgress
        | Ask
        | Signal
        | ChildEnded
        | StateDeletion
        | ScheduleCommand
    )
    version: int = FORMAT_VERSION
