"""Schedules: what starts runs by the clock. See docs/adr/0012."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

__all__ = [
    "Backfill",
    "Firing",
    "FiringCause",
    "FiringEntry",
    "FiringOutcome",
    "OverlapPolicy",
    "ScheduleAction",
    "ScheduleCommand",
    "ScheduleEntry",
    "ScheduleRow",
    "ScheduleSpec",
    "ScheduleState",
]


class OverlapPolicy(StrEnum):
    """What becomes of a due time while a run of an earlier one is open."""

    SKIP = "skip"  # it is passed over
    QUEUE = "queue"  # one waits for the open runs to end, further ones are passed over
    ALLOW = "allow"  # it starts beside them
    CANCEL_PREVIOUS = "cancel_previous"  # they are cancelled; it starts when they have ended


class ScheduleState(StrEnum):
    """The life of a schedule; see the transition table in `holdfast.coordinator.engine`."""

    ACTIVE = "active"
    PAUSED = "paused"
    FINISHED = "finished"  # its last time has passed
    DELETED = "deleted"


class FiringCause(StrEnum):
    """Why a run was started."""

    TIME = "time"
    TRIGGER = "trigger"  # somebody asked for it now
    BACKFILL = "backfill"  # somebody asked for a time that had passed


class FiringOutcome(StrEnum):
    """What became of a due time."""

    QUEUED = "queued"
    STARTED = "started"  # its run is open
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REFUSED = "refused"  # the run could not be started
    SKIPPED = "skipped"  # by the overlap policy
    MISSED = "missed"  # it was older than what is made good


class ScheduleAction(StrEnum):
    """What an operator asks of a schedule."""

    CREATE = "create"
    UPDATE = "update"
    PAUSE = "pause"
    RESUME = "resume"
    TRIGGER = "trigger"
    BACKFILL = "backfill"
    DELETE = "delete"


@dataclass(slots=True)
class ScheduleSpec:
    """When runs are started, and with what. Either `cron` or `interval_ms` is given.

    `input` is a JSON value in whose texts `${schedule.<field>}` stands for what is known of the
    due time. All durations are whole seconds.
    """

    plan_name: str
    cron: list[str]
    interval_ms: int | None  # counted from start_ms, else from the epoch
    timezone: str  # IANA name
    input: str
    overlap: OverlapPolicy = OverlapPolicy.SKIP
    catch_up_ms: int = 60_000  # times that are older are missed
    catch_up_runs: int = 100  # of those that are not, so many newest ones are made good
    jitter_ms: int = 0
    start_ms: int | None = None  # the first time that counts
    end_ms: int | None = None  # the first one that does not
    order_key: str | None = None  # of the runs, instead of their plan's


@dataclass(slots=True)
class ScheduleCommand:
    """An operator's word about a schedule; each makes at least one event, a refusal too."""

    command_id: str
    action: ScheduleAction
    actor: str
    reason: str
    spec: ScheduleSpec | None = None  # create, update; left out in events, whose row has it
    plan: str | None = None  # create, update (None: the one it has): resolved, canonical JSON
    revision: int | None = None  # update: refused unless the schedule is at this one
    paused: bool = False  # create: it begins paused
    from_ms: int | None = None  # backfill: the first time ...
    to_ms: int | None = None  # ... and the end, which is left out
    parallel: int = 1  # backfill: how many runs at once
    overlap: OverlapPolicy | None = None  # trigger: instead of the schedule's own


@dataclass(slots=True)
class Firing:
    """One due time, and what became of it."""

    scheduled_ms: int
    run_id: str
    cause: FiringCause
    outcome: FiringOutcome
    at_ms: int  # when that was decided
    ended_ms: int | None = None  # when its run ended
    message: str = ""
    count: int = 1  # of what was missed: how many due times from this one on, at least


@dataclass(slots=True)
class ScheduleRow:
    """A schedule as it is after a transition: the whole row, not a delta."""

    name: str
    version: int  # +1 with each row of this schedule
    revision: int  # +1 with each change of `spec` or plan
    state: ScheduleState
    note: str  # why it is paused
    spec: ScheduleSpec
    next_ms: int | None  # the next due time, jitter left out; paused: the first one not dealt with
    open_runs: int
    fired: int  # how many runs were started so far
    skipped: int
    missed: int  # at least so many: a long outage is not counted to its end
    firings: list[Firing]  # the newest ones, the newest last
    created_ms: int
    changed_ms: int  # when somebody changed it
    changed_by: str


@dataclass(slots=True)
class Backfill:
    """Times that somebody asked for after they had passed; runs are started in their order."""

    next_ms: int
    to_ms: int
    parallel: int
    actor: str


@dataclass(slots=True)
class ScheduleEntry:
    """Journal key `schedule/<name>`."""

    row: ScheduleRow
    plan: str
    queued: Firing | None
    backfills: list[Backfill] = field(default_factory=list)
    timer_ms: int | None = None  # when the next time is due, jitter and all; armed on restore


@dataclass(slots=True)
class FiringEntry:
    """Journal key `schedule/<name>/run/<run id>`: a run that was started and has not ended."""

    firing: Firing
    record_key: str  # of the run's records on the coordinator's topic
    cancel_sent: bool = False
    open_run_id: str | None = None  # that continues the firing's run; None: it is still that
