"""What the values of an entity are counted under, and by what they are found without a search.

Derived from the values, never journaled: `counted` says in which groups a value counts, and as
what (`Overlay.count`), `listed` in which groups its name can be looked up (`Overlay.members`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from holdfast.coordinator.engine.members import Listing
from holdfast.schemas.plan_settings import UNDOING
from holdfast.schemas.records import (
    AgentPause,
    AskEntry,
    FiringCause,
    FiringEntry,
    ListChunk,
    Marker,
    PlanRevision,
    RunEntry,
    ScheduleEntry,
    SignalAsk,
    SignalEntry,
    TaskEntry,
    UndoEntry,
)

__all__ = [
    "ASKS",
    "BACKFILLS",
    "CALLED",
    "DUE",
    "EVERY",
    "FIRINGS",
    "KINDS",
    "LISTED",
    "PAUSES",
    "PLANS",
    "SCHEDULES",
    "SIGNALS",
    "UNDO",
    "UNDOING",
    "UNDO_OF",
    "WAITED",
    "Tally",
    "Value",
    "counted",
    "group_of",
    "listed",
]

Value: TypeAlias = (
    RunEntry
    | TaskEntry
    | ListChunk
    | Marker
    | AskEntry
    | SignalEntry
    | PlanRevision
    | UndoEntry
    | ScheduleEntry
    | FiringEntry
    | AgentPause
)
Tally: TypeAlias = dict[tuple[str, str], int]

EVERY = "*"
"""The group that tasks of all kinds are counted under: of the plan, items, called, undoing."""
CALLED = "~"
"""What the ids of called tasks begin with, and the group that they are counted under."""
ASKS, SIGNALS = "ask/", "signal/"
"""What the names of asks and of signals begin with, and the groups that they are counted under."""
DUE = "due"
"""What those are counted as, beside, that say that a task's steps are to be undone at once."""
UNDO_OF = "undo-of/"
"""The group under which steps that can be undone are counted by their task."""
UNDO = "undo/"
"""What the names of what can be undone begin with, and the group they are counted under; the number
follows."""
PLANS = "plan/"
"""What the names of a plan's changes begin with; the version follows."""
FIRINGS = "run/"
"""What the names of a schedule's open runs begin with, and the group they are counted under."""
SCHEDULES = "schedules"
"""The group under which schedules are counted by their state."""
BACKFILLS = "backfill"
"""What those of backfills are counted as, beside."""
PAUSES = "pauses"
"""The group under which pauses are counted: "all" for agents, "key" for order keys."""
WAITED = "waited/"
"""The group under which asks for signals are counted by the signal's name."""
KINDS = "kinds/"
"""The group under which asks are counted by their kind."""


def group_of(name: str) -> str:
    """Return what a task is counted under: "" for a task of the plan, the map's id for an item,
    `CALLED` for one that a handler called, `UNDOING` for one that undoes another."""
    if name.startswith(UNDOING):
        return UNDOING
    if name.startswith(CALLED):
        return CALLED
    head, dot, _ = name.partition(".")
    return head if dot else ""


def counted(name: str, value: Value | None) -> Iterable[tuple[str, str]]:
    """Return the groups that a value is counted in, each with what it is counted as.

    A task: by state; what undoes an item or a step also under `!` and its map's or task's id. What
    can be undone: each (""), steps by their task. An ask: each (""), by its task and by its kind;
    for signals: by the signal's name. A signal: each ("") and, while it is kept, by its name. A
    schedule: by state; an open run of it: each (""), and those of backfills.
    """
    if isinstance(value, TaskEntry):
        state = value.row.state
        task, group = (EVERY, state), (group_of(name), state)
        if group[0] != UNDOING:
            return (task, group)
        if value.call is not None:
            return (task, group, (f"{UNDOING}{value.call.caller}", state))
        head, dot, _ = name.partition(".")
        return (task, group, (head, state)) if dot else (task, group)
    if isinstance(value, UndoEntry):
        every = (UNDO, "")
        if value.due:
            return (every, (UNDO, DUE))
        return (every, (UNDO_OF, value.owner)) if value.owner and value.task_id else (every,)
    if isinstance(value, AskEntry):
        owner, what = value.ask.task_id, value.ask.what
        common = ((ASKS, ""), (ASKS, owner), (KINDS, value.kind))
        return (*common, (WAITED, what.signal)) if isinstance(what, SignalAsk) else common
    if isinstance(value, SignalEntry):
        every = (SIGNALS, "")
        return (every,) if value.taken else (every, (SIGNALS, value.signal.signal))
    if isinstance(value, ScheduleEntry):
        return ((SCHEDULES, value.row.state),)
    if isinstance(value, AgentPause):
        return ((PAUSES, "all" if value.order_key is None else "key"),)
    if isinstance(value, FiringEntry):
        firing = (FIRINGS, "")
        backfill = value.firing.cause is FiringCause.BACKFILL
        return (firing, (FIRINGS, BACKFILLS)) if backfill else (firing,)
    return ()


LISTED = (AskEntry, SignalEntry)
"""What `listed` puts into groups; anything else is in none."""


def listed(name: str, value: Value | None) -> Listing:
    """Return the groups whose members can be looked up (`Overlay.members`) and that a value is in:
    asks and signals, which are looked for while there may be 10,000 tasks.

    An ask, by its time: each (""), by its task, for signals by the signal's name. A signal: each.
    """
    if isinstance(value, AskEntry):
        groups = counted(name, value)
        return [(key, value.asked_ms) for key in groups if key[0] in (ASKS, WAITED)]
    if isinstance(value, SignalEntry):
        return [((SIGNALS, ""), value.received_ms)]
    return ()
