"""A schedule as a kind of entity: which input leads to what."""

from __future__ import annotations

from holdfast.coordinator.engine.counting import FIRINGS
from holdfast.coordinator.engine.effects import Reaction
from holdfast.coordinator.engine.inputs import Arrival, Broken, Continuation, Input, TimerDue
from holdfast.coordinator.engine.schedule.commands import on_command
from holdfast.coordinator.engine.schedule.firing import fire_due, go_on, on_ended
from holdfast.coordinator.engine.schedule.transition import ScheduleTransition
from holdfast.coordinator.engine.state import Overlay
from holdfast.schemas.records import (
    Cause,
    ChildEnded,
    EventType,
    Marker,
    ScheduleCommand,
    ScheduleEntry,
    ScheduleState,
)

__all__ = ["ScheduleKind"]

NOTE_CHARS_MAX = 500


class ScheduleKind:
    """Reacts for entities `schedule/<name>`."""

    name = "schedule"

    def react(
        self, overlay: Overlay, marker: Marker | None, input_: Input, now_ms: int
    ) -> Reaction:
        """Take one input on `overlay`; there are no markers of schedules."""
        del marker
        name = input_.entity.partition("/")[2]
        t = ScheduleTransition(name, overlay, now_ms, _cause(input_))
        if isinstance(input_, Arrival):
            _arrive(t, input_)
        elif isinstance(input_, Broken):
            _break(t, input_)
        elif isinstance(input_, TimerDue) and input_.name == "":
            _due(t)
        elif isinstance(input_, Continuation):
            _continue(t)
        t.finish()
        return Reaction(input_.entity, overlay, {}, t.effects, more=t.more)


def _cause(input_: Input) -> Cause | None:
    if isinstance(input_, Arrival):
        return input_.cause
    if isinstance(input_, Broken) and input_.arrival is not None:
        return input_.arrival.cause
    return None


def _arrive(t: ScheduleTransition, arrival: Arrival) -> None:
    body = arrival.envelope.body
    if isinstance(body, ScheduleCommand):
        on_command(t, arrival, body)
    elif isinstance(body, ChildEnded):
        on_ended(t, body)


def _due(t: ScheduleTransition) -> None:
    """That a timer is due is only a hint to look; what is due later by now does nothing."""
    entry = t.overlay.get("")
    if (
        isinstance(entry, ScheduleEntry)
        and entry.timer_ms is not None
        and entry.timer_ms <= t.now_ms
    ):
        fire_due(t)


def _continue(t: ScheduleTransition) -> None:
    """Every restored schedule is asked: one that has nothing left stays as it is."""
    entry = t.overlay.get("")
    if isinstance(entry, ScheduleEntry) and (entry.backfills or entry.queued is not None):
        go_on(t)


def _break(t: ScheduleTransition, broken: Broken) -> None:
    """What an input led to cannot be written: it is refused, or the schedule stands still.

    Better that it fires no more, with a note for people, than that it is lost or tried for ever.
    """
    reason = broken.reason[:NOTE_CHARS_MAX]
    body = None if broken.arrival is None else broken.arrival.envelope.body
    if isinstance(body, ScheduleCommand) or not t.known:
        t.answer(EventType.SCHEDULE_REFUSED, reason, None)
        return
    if isinstance(body, ChildEnded) and body.successor is None:
        t.overlay.put(FIRINGS + body.child_run_id, None)
    row = t.row
    row.note = f"it cannot go on: {reason}"
    if row.state is ScheduleState.ACTIVE:
        t.move(ScheduleState.PAUSED)
    t.say(EventType.SCHEDULE_PAUSED, row.note)
