"""What happened: the topic `events`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from holdfast.schemas.records.coordinator import Command, Signal
from holdfast.schemas.records.parts import FORMAT_VERSION, Failure, Payload, StepSummary

__all__ = [
    "AskKind",
    "AskRow",
    "Cause",
    "Event",
    "EventType",
    "RunRow",
    "RunState",
    "TaskRow",
    "TaskState",
]


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
    TASK_ASKED = "task.asked"  # its handler waits for something
    TASK_ANSWERED = "task.answered"
    ASK_CLOSED = "ask.closed"  # nobody waits for it any more
    SIGNAL_KEPT = "signal.kept"  # it came before anybody waited for it
    SIGNAL_REFUSED = "signal.refused"
    SIGNAL_REPEATED = "signal.repeated"  # the same one came before
    RESULT_IGNORED = "result.ignored"  # of an older attempt, or of a run that is closed
    COMMAND_ACCEPTED = "command.accepted"
    COMMAND_REFUSED = "command.refused"


@dataclass(slots=True)
class Cause:
    """The record on the coordinator's topic that caused a transition."""

    partition: int
    offset: int


class AskKind(StrEnum):
    """What a task waits for."""

    SLEEP = "sleep"
    SIGNAL = "signal"
    CALL = "call"
    RUN = "run"


@dataclass(slots=True)
class AskRow:
    """What a task waits for, or waited for."""

    task_id: str
    name: str
    key: str
    kind: AskKind
    subject: str  # the signal's name, the called <agent>.<task>, the plan's name
    child: str | None  # the called task, or the run
    until_ms: int | None


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
    ask: AskRow | None = None
    signal: Signal | None = None
    version: int = FORMAT_VERSION
