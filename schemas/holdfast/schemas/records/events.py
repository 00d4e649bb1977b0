"""What happened: the topic `events`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from holdfast.schemas.records.coordinator import Command, Signal
from holdfast.schemas.records.parts import (
    FORMAT_VERSION,
    AgentPause,
    Failure,
    Payload,
    Ruling,
    StateDeletion,
    StepSummary,
)
from holdfast.schemas.records.schedules import Firing, ScheduleCommand, ScheduleRow

__all__ = [
    "AskKind",
    "AskRow",
    "Cause",
    "Event",
    "EventType",
    "PlanRevision",
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
    COMPENSATING = "compensating"  # all is still; what was done is being undone
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class TaskState(StrEnum):
    """The life of a task; see the transition table in `holdfast.coordinator.engine`."""

    PENDING = "pending"  # waits for its dependencies (not journaled)
    DISPATCHED = "dispatched"  # an attempt is with its agent
    EXPANDED = "expanded"  # a map, a loop or a plan: its items, round or run are being worked
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
    plan_version: int = 1  # +1 with each change of its plan
    successor: str | None = None  # the run that it was continued as
    predecessor: str | None = None  # the run that it continues
    successor_key: str | None = None  # the record key of its successor
    start_ms: int | None = None  # nothing of it starts before; None: at once


@dataclass(slots=True)
class TaskRow:
    """A task as it is after a transition: the whole row, not a delta.

    A map's item has the id `<map's id>.<index>`, a loop's round `<loop's id>.<round>`.
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
    total: int = 0  # a map: how many items; a loop: how many rounds at most
    done: int = 0  # a map, a loop: how many of them have ended
    failed: int = 0  # a map: how many of those did not succeed
    version: int = 0  # +1 with each row of this task
    child: str | None = None  # a plan within the plan: the run that works it
    ruling: Ruling | None = None  # an operator skipped it, or gave its output
    build_id: str = ""  # of the agent that ended the newest attempt; "" while that is at work


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
    RUN_COMPENSATING = "run.compensating"
    RUN_SUCCEEDED = "run.succeeded"
    RUN_FAILED = "run.failed"
    RUN_CANCELLED = "run.cancelled"
    PLAN_CHANGED = "plan.changed"  # by a task of the run
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
    SCHEDULE_CREATED = "schedule.created"
    SCHEDULE_UPDATED = "schedule.updated"
    SCHEDULE_REPEATED = "schedule.repeated"  # a creation of what is there already
    SCHEDULE_PAUSED = "schedule.paused"
    SCHEDULE_RESUMED = "schedule.resumed"
    SCHEDULE_TRIGGERED = "schedule.triggered"
    SCHEDULE_BACKFILLED = "schedule.backfilled"
    SCHEDULE_DELETED = "schedule.deleted"
    SCHEDULE_REFUSED = "schedule.refused"  # somebody's word about it
    SCHEDULE_FIRED = "schedule.fired"  # a run was submitted
    SCHEDULE_QUEUED = "schedule.queued"
    SCHEDULE_SKIPPED = "schedule.skipped"
    SCHEDULE_MISSED = "schedule.missed"
    SCHEDULE_RUN_CONTINUED = "schedule.run_continued"  # it goes on as another run
    SCHEDULE_RUN_ENDED = "schedule.run_ended"
    SCHEDULE_FINISHED = "schedule.finished"  # its last time has passed
    STATE_DELETED = "state.deleted"  # what an agent kept under an order key
    AGENT_PAUSED = "agent.paused"  # or one order key at it
    AGENT_RESUMED = "agent.resumed"
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
    PLAN = "plan"
    EMIT = "emit"


@dataclass(slots=True)
class AskRow:
    """What a task waits for, or waited for: the whole row, not a delta."""

    task_id: str
    name: str
    key: str
    kind: AskKind
    subject: str  # the signal's name, the called <agent>.<task>, the plan's name, which items
    child: str | None  # the called task, or the run
    until_ms: int | None
    asked_ms: int | None = None  # since when
    schema_id: int | None = None  # what a signal's payload must fit; None: any JSON

    @property
    def ask_id(self) -> str:
        """Its id in its run, 16 hex digits: what it is journaled under."""
        parts = f"{self.task_id}\x00{self.name}\x00{self.key}".encode()
        return hashlib.sha256(parts).hexdigest()[:16]

    def describe(self) -> str:
        """Return what the task does meanwhile, for people; without times."""
        step = f" ({self.name!r})" if self.key == "" else f" ({self.name!r}, key {self.key!r})"
        if self.kind is AskKind.SLEEP:
            return f"sleeps{step}"
        if self.kind is AskKind.SIGNAL:
            return f"waits for signal {self.subject!r}"
        if self.kind is AskKind.CALL:
            return f"waits for {self.subject} (task {self.child})"
        if self.kind is AskKind.PLAN:
            return f"changes the plan{step}"
        if self.kind is AskKind.EMIT:
            return f"waits for room to hand out {self.subject}"
        plan = f" (plan {self.subject})" if self.subject else ""
        return f"waits for run {self.child}{plan}"


@dataclass(slots=True)
class PlanRevision:
    """One change of a run's plan; in the journal under `run/<run id>/plan/<version>`.

    There, and there alone, version 1 stands for the plan itself, once it was changed.
    """

    version: int  # of the plan that it makes; what was submitted is version 1
    change: str  # canonical JSON of a ResolvedChange; of version 1: of the resolved plan
    task_id: str  # whose handler made it; of version 1: ""
    at_ms: int


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
    deletion: StateDeletion | None = None
    revision: PlanRevision | None = None
    schedule: ScheduleRow | None = None
    schedule_command: ScheduleCommand | None = None
    firing: Firing | None = None  # the due time that it is about
    pause: AgentPause | None = None  # that began, or is over
    version: int = FORMAT_VERSION
