"""One event being taken by one schedule: what it sees, what it changes, what it says."""

from __future__ import annotations

from dataclasses import replace

from holdfast.coordinator.engine.counting import BACKFILLS, FIRINGS
from holdfast.coordinator.engine.effects import Effect, Emit, Tell
from holdfast.coordinator.engine.schedule.states import check_schedule_move
from holdfast.coordinator.engine.state import Overlay
from holdfast.schemas.records import (
    Cause,
    Command,
    CoordinatorEnvelope,
    Event,
    EventType,
    Firing,
    FiringEntry,
    FiringOutcome,
    ScheduleCommand,
    ScheduleEntry,
    ScheduleRow,
    ScheduleState,
    Submission,
)
from holdfast.schemas.schedules import SCHEDULE_PREFIX, jitter_ms

__all__ = ["ScheduleTransition"]

FIRINGS_KEPT = 10
"""Of the newest due times, in the schedule's row."""
_OPEN = (FiringOutcome.QUEUED, FiringOutcome.STARTED)


class ScheduleTransition:
    """See the module's docstring. What is decided counts once `finish` was called."""

    def __init__(self, name: str, overlay: Overlay, now_ms: int, cause: Cause | None) -> None:
        self.name = name
        self.overlay = overlay
        self.now_ms = now_ms
        self.cause = cause
        self.effects: list[Effect] = []
        self.more = False
        """Whether there is work left for which this event had no room."""
        self._entry: ScheduleEntry | None = None

    @property
    def key(self) -> str:
        """The schedule's entity, and the key of its records on the coordinator's topic."""
        return f"{SCHEDULE_PREFIX}{self.name}"

    # --- reading -------------------------------------------------------------------------------

    @property
    def known(self) -> bool:
        """Whether there is such a schedule."""
        return self._entry is not None or isinstance(self.overlay.get(""), ScheduleEntry)

    @property
    def entry(self) -> ScheduleEntry:
        """The schedule, to be changed; it must exist."""
        if self._entry is None:
            entry = self.overlay.get("")
            assert isinstance(entry, ScheduleEntry), f"schedule {self.name!r} must exist"
            row = replace(entry.row, firings=list(entry.row.firings))
            self._entry = replace(entry, row=row, backfills=list(entry.backfills))
        return self._entry

    @property
    def row(self) -> ScheduleRow:
        """Its row, to be changed."""
        return self.entry.row

    def open_firing(self, run_id: str) -> FiringEntry | None:
        """Return one of its open runs, or None."""
        found = self.overlay.get(FIRINGS + run_id)
        return found if isinstance(found, FiringEntry) else None

    def open_runs(self, *, backfills: bool = False) -> int:
        """Return how many of its runs are open, those of backfills or all others."""
        mine = self.overlay.count(FIRINGS, BACKFILLS)
        return mine if backfills else self.overlay.count(FIRINGS, "") - mine

    # --- writing -------------------------------------------------------------------------------

    def create(self, entry: ScheduleEntry) -> None:
        """Set a schedule that is new."""
        self._entry = entry

    def move(self, state: ScheduleState) -> None:
        """Change its state; raises `IllegalMove`."""
        check_schedule_move(self.name, self.row.state, state)
        self.row.state = state

    def _show(self, firing: Firing) -> None:
        """In the place of what was shown of it while its run was open, or waited."""
        shown = self.row.firings
        for index, before in enumerate(shown):
            same = (before.run_id, before.cause) == (firing.run_id, firing.cause)
            if same and before.outcome in _OPEN:
                shown[index] = firing
                return
        shown.append(firing)
        del shown[:-FIRINGS_KEPT]

    def put_firing(self, entry: FiringEntry) -> None:
        """Set one of its open runs, under the id that it was started by."""
        self.overlay.put(FIRINGS + entry.firing.run_id, entry)

    def say(
        self,
        kind: EventType,
        message: str,
        command: ScheduleCommand | None = None,
        plan: str | None = None,
        firing: Firing | None = None,
    ) -> None:
        """Say what the schedule is now."""
        row = self.row
        row.version += 1
        row.open_runs = self.overlay.count(FIRINGS, "")
        event = Event(self.key, kind, self.now_ms, self.cause, None, None, message, plan)
        event.schedule = replace(row, firings=list(row.firings))
        event.schedule_command = command
        event.firing = firing
        self.effects.append(Emit(event))

    def say_firing(self, kind: EventType, message: str, firing: Firing) -> None:
        """Say what became of a due time, and show it in the row."""
        self._show(firing)
        self.say(kind, message, firing=firing)

    def answer(self, kind: EventType, message: str, command: ScheduleCommand | None) -> None:
        """Say something that changes nothing."""
        event = Event(self.key, kind, self.now_ms, self.cause, None, None, message)
        entry = self.overlay.get("")
        event.schedule = entry.row if isinstance(entry, ScheduleEntry) else None
        event.schedule_command = command
        self.effects.append(Emit(event))

    def tell(self, key: str, run_id: str, body: Submission | Command) -> None:
        """Speak to a run, under its record key."""
        self.effects.append(Tell(key, CoordinatorEnvelope(run_id, self.now_ms, body)))

    def forget(self) -> None:
        """Remove everything of the schedule."""
        for name in sorted(self.overlay.names()):
            self.overlay.put(name, None)
        self._entry = None

    def drop(self) -> None:
        """Take back what was decided: an error came up in the middle of it."""
        self.overlay.clear()
        self.effects.clear()
        self.more = False
        self._entry = None

    def finish(self) -> None:
        """Make what was decided part of the overlay, with its timer."""
        entry = self._entry
        if entry is None:
            return
        row = entry.row
        entry.timer_ms = None
        if row.state is ScheduleState.ACTIVE and row.next_ms is not None:
            entry.timer_ms = row.next_ms + jitter_ms(self.name, row.spec, row.next_ms)
        self.overlay.put("", entry)
