"""What operators ask of a schedule. Each command makes at least one event, a refusal too."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from itertools import islice

from holdfast.coordinator.engine.inputs import Arrival
from holdfast.coordinator.engine.schedule.firing import fire, fire_due, go_on, rendered
from holdfast.coordinator.engine.schedule.transition import ScheduleTransition
from holdfast.schemas.errors import HoldfastError, ScheduleError
from holdfast.schemas.records import (
    Backfill,
    EventType,
    Firing,
    FiringCause,
    FiringOutcome,
    OverlapPolicy,
    ScheduleAction,
    ScheduleCommand,
    ScheduleEntry,
    ScheduleRow,
    ScheduleSpec,
    ScheduleState,
)
from holdfast.schemas.resolution import ResolvedPlan
from holdfast.schemas.schedules import (
    bounded_after,
    check_moment,
    check_spec,
    scheduled_run_id,
    spec_times,
)

__all__ = ["on_command"]

COMMAND_CHARS_MAX = 16_384
"""Of reason and actor together: events repeat them."""
BACKFILL_TIMES_MAX = 1_000
BACKFILLS_MAX = 10
PARALLEL_MAX = 50
_SECOND_MS = 1_000


def on_command(t: ScheduleTransition, arrival: Arrival, command: ScheduleCommand) -> None:
    """Do what is asked, or say what the state is and what can be done."""
    told = replace(command, spec=None, plan=None)
    if len(command.reason) + len(command.actor) > COMMAND_CHARS_MAX:
        message = f"the reason is too long: at most {COMMAND_CHARS_MAX} characters are taken"
        t.answer(EventType.SCHEDULE_REFUSED, message, None)
        return
    try:
        if command.action is ScheduleAction.CREATE:
            _create(t, arrival, command, told)
        else:
            _require(t, command.action)
            _ACTIONS[command.action](t, arrival, told, command)
    except HoldfastError as error:
        t.drop()
        t.answer(EventType.SCHEDULE_REFUSED, str(error), told)


def _told(what: str, command: ScheduleCommand) -> str:
    return f"{what} by {command.actor}" + (f": {command.reason}" if command.reason else "")


def _require(t: ScheduleTransition, action: ScheduleAction) -> None:
    if not t.known:
        raise ScheduleError(
            f"there is no schedule {t.name!r} to {action}; see `holdfast schedules list`"
        )


def _changed(t: ScheduleTransition, command: ScheduleCommand) -> ScheduleRow:
    row = t.row
    row.changed_ms, row.changed_by = t.now_ms, command.actor
    return row


def _checked(t: ScheduleTransition, arrival: Arrival, spec: ScheduleSpec, plan: str) -> int:
    """Return the next due time of a schedule that can be kept; raises `HoldfastError`."""
    if arrival.problem is not None:
        raise ScheduleError(arrival.problem)
    check_spec(spec)
    resolved = ResolvedPlan.from_json(plan)
    if resolved.plan.name != spec.plan_name:
        raise ScheduleError(f"its plan is {resolved.plan.name!r}, not {spec.plan_name!r}")
    following = bounded_after(spec, t.now_ms)
    if following is None:
        raise ScheduleError("it is never due any more: no time of it lies before its end")
    run_id = scheduled_run_id(t.name, following)
    first = Firing(following, run_id, FiringCause.TIME, FiringOutcome.STARTED, t.now_ms)
    try:
        rendered(t.name, spec, plan, first)  # what cannot be rendered now, never can
    except HoldfastError as error:
        raise ScheduleError(f"its run of {run_id} could not be submitted: {error}") from error
    return following


def _create(
    t: ScheduleTransition, arrival: Arrival, command: ScheduleCommand, told: ScheduleCommand
) -> None:
    spec, plan = command.spec, command.plan
    if spec is None or plan is None:
        raise ScheduleError("a schedule is created with a spec and a plan")
    known = t.overlay.get("")
    if isinstance(known, ScheduleEntry):
        row = known.row
        if row.spec == spec and known.plan == plan:
            what = f"schedule {t.name!r} is there already ({row.state}, revision {row.revision})"
            t.answer(EventType.SCHEDULE_REPEATED, what, told)
            return
        raise ScheduleError(
            f"schedule {t.name!r} exists ({row.state}, revision {row.revision}) with another plan"
            " or other times: update it, or choose another name"
        )
    following = _checked(t, arrival, spec, plan)
    state = ScheduleState.PAUSED if command.paused else ScheduleState.ACTIVE
    t.create(
        ScheduleEntry(
            row=ScheduleRow(
                name=t.name,
                version=0,
                revision=1,
                state=state,
                note=command.reason if command.paused else "",
                spec=spec,
                next_ms=following,
                open_runs=0,
                fired=0,
                skipped=0,
                missed=0,
                firings=[],
                created_ms=t.now_ms,
                changed_ms=t.now_ms,
                changed_by=command.actor,
            ),
            plan=plan,
            queued=None,
        )
    )
    t.say(EventType.SCHEDULE_CREATED, _told("created", command), told, plan)


def _update(
    t: ScheduleTransition, arrival: Arrival, told: ScheduleCommand, command: ScheduleCommand
) -> None:
    if command.spec is None:
        raise ScheduleError("a schedule is updated with a spec")
    row = t.row
    if command.revision is not None and command.revision != row.revision:
        raise ScheduleError(
            f"schedule {t.name!r} is at revision {row.revision}, and this update was made for"
            f" {command.revision}: look at it again (`holdfast schedules show {t.name}`)"
        )
    _deal_with_what_was_due(t)
    plan = t.entry.plan if command.plan is None else command.plan
    following = _checked(t, arrival, command.spec, plan)
    _changed(t, command)
    row.spec, row.next_ms, t.entry.plan = command.spec, following, plan
    row.revision += 1
    if row.state is ScheduleState.FINISHED:
        t.move(ScheduleState.ACTIVE)
    t.say(EventType.SCHEDULE_UPDATED, _told("updated", command), told, command.plan)


def _deal_with_what_was_due(t: ScheduleTransition) -> None:
    """Fire what came before a word, though its timer has not been looked at: after an outage words
    and timers come in any order, and what was due before a pause must not wait for its end."""
    if t.row.state is ScheduleState.ACTIVE:
        fire_due(t)


def _pause(
    t: ScheduleTransition, _arrival: Arrival, told: ScheduleCommand, command: ScheduleCommand
) -> None:
    if t.row.state is not ScheduleState.ACTIVE:
        raise ScheduleError(
            f"schedule {t.name!r} is {t.row.state}: it cannot be paused now; only an active one can"
        )
    _deal_with_what_was_due(t)
    if t.row.state is not ScheduleState.ACTIVE:
        raise ScheduleError(f"schedule {t.name!r} has had its last time: nothing is to be paused")
    row = _changed(t, command)
    t.move(ScheduleState.PAUSED)
    row.note = command.reason
    t.say(EventType.SCHEDULE_PAUSED, _told("paused", command), told)


def _resume(
    t: ScheduleTransition, _arrival: Arrival, told: ScheduleCommand, command: ScheduleCommand
) -> None:
    state = t.row.state
    if state is not ScheduleState.PAUSED:
        remedy = "; only a paused one can"
        if state is ScheduleState.FINISHED:
            remedy = ": update its end"
        raise ScheduleError(f"schedule {t.name!r} is {state}: it cannot be resumed now{remedy}")
    row = _changed(t, command)
    t.move(ScheduleState.ACTIVE)
    row.note = ""
    t.say(EventType.SCHEDULE_RESUMED, _told("resumed", command), told)
    go_on(t)
    fire_due(t)


def _trigger(
    t: ScheduleTransition, _arrival: Arrival, told: ScheduleCommand, command: ScheduleCommand
) -> None:
    made = hashlib.sha256(command.command_id.encode()).hexdigest()[:12]
    run_id = f"{t.name}-trigger-{made}"
    shown = any(firing.run_id == run_id for firing in t.row.firings)
    if shown or t.open_firing(run_id) is not None:
        t.answer(EventType.SCHEDULE_TRIGGERED, f"run {run_id} was asked for before", told)
        return
    policy = command.overlap or t.row.spec.overlap
    if policy is OverlapPolicy.SKIP and (t.open_runs() or t.entry.queued):
        raise ScheduleError(
            f"schedule {t.name!r} has {t.open_runs()} open runs, and its overlap policy is skip:"
            " wait for their end, or trigger it with --overlap allow"
        )
    _changed(t, command)
    scheduled_ms = t.now_ms // _SECOND_MS * _SECOND_MS
    t.say(EventType.SCHEDULE_TRIGGERED, _told(f"run {run_id}: triggered", command), told)
    cause, outcome = FiringCause.TRIGGER, FiringOutcome.STARTED
    fire(t, Firing(scheduled_ms, run_id, cause, outcome, t.now_ms), policy)


def _backfill(
    t: ScheduleTransition, _arrival: Arrival, told: ScheduleCommand, command: ScheduleCommand
) -> None:
    from_ms, to_ms = command.from_ms, command.to_ms
    if from_ms is None or to_ms is None or from_ms >= to_ms:
        raise ScheduleError("a backfill needs a time to begin with, and a later one to end before")
    check_moment("from", from_ms)
    if to_ms > t.now_ms:
        raise ScheduleError("a backfill ends in the past: what is to come is fired by itself")
    if not 1 <= command.parallel <= PARALLEL_MAX:
        raise ScheduleError(f"a backfill starts from 1 to {PARALLEL_MAX} runs at once")
    if len(t.entry.backfills) >= BACKFILLS_MAX:
        raise ScheduleError(f"{BACKFILLS_MAX} backfills are under way: wait for one to end")
    between = spec_times(t.row.spec).between(from_ms, to_ms)
    count = sum(1 for _ in islice(between, BACKFILL_TIMES_MAX + 1))
    if not count:
        raise ScheduleError(f"schedule {t.name!r} has no due time in it")
    if count > BACKFILL_TIMES_MAX:
        raise ScheduleError(f"it holds more than {BACKFILL_TIMES_MAX} due times: do it in parts")
    _changed(t, command)
    backfill = Backfill(from_ms, to_ms, command.parallel, command.actor)
    t.entry.backfills = [*t.entry.backfills, backfill]
    t.say(EventType.SCHEDULE_BACKFILLED, _told(f"{count} due times: backfill", command), told)
    go_on(t)


def _delete(
    t: ScheduleTransition, _arrival: Arrival, told: ScheduleCommand, command: ScheduleCommand
) -> None:
    _changed(t, command)
    t.move(ScheduleState.DELETED)
    t.row.next_ms = None
    t.say(EventType.SCHEDULE_DELETED, _told("deleted", command), told)
    t.forget()


_Action = Callable[[ScheduleTransition, Arrival, ScheduleCommand, ScheduleCommand], None]
_ACTIONS: dict[ScheduleAction, _Action] = {
    ScheduleAction.UPDATE: _update,
    ScheduleAction.PAUSE: _pause,
    ScheduleAction.RESUME: _resume,
    ScheduleAction.TRIGGER: _trigger,
    ScheduleAction.BACKFILL: _backfill,
    ScheduleAction.DELETE: _delete,
}
