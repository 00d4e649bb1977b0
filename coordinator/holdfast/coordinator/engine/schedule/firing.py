"""Due times: which have come, which are made good, and what becomes of each.

fire_due -> for each time: started (a submission), queued, skipped; what is too old is missed
on_ended -> the run of a due time has ended: what waited for that goes on
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import islice

from holdfast.coordinator.engine.counting import FIRINGS
from holdfast.coordinator.engine.schedule.transition import ScheduleTransition
from holdfast.schemas.codec import encode_json
from holdfast.schemas.errors import HoldfastError
from holdfast.schemas.records import (
    ChildEnded,
    Command,
    CommandAction,
    EventType,
    Firing,
    FiringCause,
    FiringEntry,
    FiringOutcome,
    Outcome,
    OverlapPolicy,
    Parent,
    ScheduleSpec,
    ScheduleState,
    Submission,
)
from holdfast.schemas.resolution import ResolvedPlan, render_order_key
from holdfast.schemas.schedules import (
    bounded_after,
    jitter_ms,
    render_schedule_input,
    scheduled_run_id,
    spec_times,
)

__all__ = ["OPEN_RUNS_MAX", "fire", "fire_due", "go_on", "on_ended", "rendered"]

OPEN_RUNS_MAX = 100
"""Of one schedule, those of backfills apart: it is deleted in one event."""
MISSED_COUNTED_MAX = 1_000
"""A longer outage is not counted to its end."""
STARTS_PER_EVENT = 50
"""Due times of backfills that one event deals with; what is left goes on in the next."""
MESSAGE_CHARS_MAX = 500
_OUTCOMES = {
    Outcome.SUCCEEDED: FiringOutcome.SUCCEEDED,
    Outcome.FAILED: FiringOutcome.FAILED,
    Outcome.CANCELLED: FiringOutcome.CANCELLED,
}


def fire_due(t: ScheduleTransition) -> None:
    """Deal with all times that have come, and set the next one."""
    row, spec = t.row, t.row.spec
    first = row.next_ms
    if first is None or first + jitter_ms(t.name, spec, first) > t.now_ms:
        return
    following = _first_not_due(t, first)
    until = t.now_ms + 1 if following is None else following
    if spec.end_ms is not None:
        until = min(until, spec.end_ms)
    # A time may come as late as its jitter allows, and be made good as long after that.
    oldest = max(first, t.now_ms - spec.jitter_ms - spec.catch_up_ms)
    times = spec_times(spec)
    kept = times.newest(oldest, until, spec.catch_up_runs) if oldest < until else []
    row.next_ms = following
    _miss(t, first, kept[0] if kept else until)
    for scheduled_ms in kept:
        run_id = scheduled_run_id(t.name, scheduled_ms)
        fire(t, Firing(scheduled_ms, run_id, FiringCause.TIME, FiringOutcome.STARTED, t.now_ms))
    if following is None:
        t.move(ScheduleState.FINISHED)
        t.say(EventType.SCHEDULE_FINISHED, "its last time has passed")


def _first_not_due(t: ScheduleTransition, first: int) -> int | None:
    """Return the first time that has not come; each waits for those before it."""
    spec = t.row.spec
    surely_ms = t.now_ms - spec.jitter_ms
    probe = first if first > surely_ms else bounded_after(spec, surely_ms)
    while probe is not None and probe + jitter_ms(t.name, spec, probe) <= t.now_ms:
        probe = bounded_after(spec, probe)
    return probe


def _miss(t: ScheduleTransition, from_ms: int, until_ms: int) -> None:
    times = list(islice(spec_times(t.row.spec).between(from_ms, until_ms), MISSED_COUNTED_MAX))
    if not times:
        return
    row = t.row
    row.missed += len(times)
    how_many = f"{len(times)} or more" if len(times) == MISSED_COUNTED_MAX else f"{len(times)}"
    message = (
        f"{how_many} due times from {scheduled_run_id(t.name, times[0])} on are not made good:"
        f" older than {row.spec.catch_up_ms // 1_000} s, or more than {row.spec.catch_up_runs}"
    )
    run_id = scheduled_run_id(t.name, times[0])
    firing = Firing(times[0], run_id, FiringCause.TIME, FiringOutcome.MISSED, t.now_ms)
    firing.message, firing.count = message, len(times)
    t.say_firing(EventType.SCHEDULE_MISSED, message, firing)


def fire(
    t: ScheduleTransition, firing: Firing, overlap: OverlapPolicy | None = None
) -> FiringOutcome:
    """Start a run for a due time, unless the overlap policy says otherwise; return what became."""
    policy = overlap or t.row.spec.overlap
    entry, open_runs = t.entry, t.open_runs()
    if open_runs >= OPEN_RUNS_MAX:
        return _skip(t, firing, f"{open_runs} of its runs are open: no more are started")
    if policy is OverlapPolicy.ALLOW or not (open_runs or entry.queued):
        return _start(t, firing)
    if policy is OverlapPolicy.SKIP:
        return _skip(t, firing, f"{_open_told(t)} (overlap policy: skip)")
    if policy is OverlapPolicy.QUEUE:
        if entry.queued is not None:
            return _skip(t, firing, f"{entry.queued.run_id} waits already (overlap policy: queue)")
        return _queue(t, firing)
    _cancel_open(t, firing)
    if entry.queued is not None:
        _skip(t, entry.queued, f"{firing.run_id} comes in its place")
    return _queue(t, firing)


def _open_told(t: ScheduleTransition) -> str:
    for entry in _open(t):
        return f"{entry.firing.run_id} is open"
    return "one of its runs waits to be started"


def _open(t: ScheduleTransition) -> list[FiringEntry]:
    """Return the open runs that new ones would overlap with, by their ids."""
    found = [
        entry
        for name in sorted(t.overlay.names())
        if name.startswith(FIRINGS) and isinstance(entry := t.overlay.get(name), FiringEntry)
    ]
    return [entry for entry in found if entry.firing.cause is not FiringCause.BACKFILL]


def _skip(t: ScheduleTransition, firing: Firing, why: str) -> FiringOutcome:
    t.row.skipped += 1
    skipped = replace(firing, outcome=FiringOutcome.SKIPPED, at_ms=t.now_ms, message=why)
    t.say_firing(EventType.SCHEDULE_SKIPPED, f"{firing.run_id}: {why}", skipped)
    return FiringOutcome.SKIPPED


def _queue(t: ScheduleTransition, firing: Firing) -> FiringOutcome:
    queued = replace(firing, outcome=FiringOutcome.QUEUED, at_ms=t.now_ms)
    t.entry.queued = queued
    t.say_firing(EventType.SCHEDULE_QUEUED, f"{firing.run_id} waits: {_open_told(t)}", queued)
    return FiringOutcome.QUEUED


def _cancel_open(t: ScheduleTransition, firing: Firing) -> None:
    for entry in _open(t):
        if entry.cancel_sent:
            continue
        run_id = entry.open_run_id or entry.firing.run_id
        t.put_firing(replace(entry, cancel_sent=True))
        t.tell(
            entry.record_key,
            run_id,
            Command(
                command_id=f"{t.key}/{firing.run_id}",
                action=CommandAction.CANCEL,
                task_id=None,
                arguments="{}",
                actor=t.key,
                reason=f"{firing.run_id} is due (overlap policy: cancel-previous)",
            ),
        )


def _start(t: ScheduleTransition, firing: Firing) -> FiringOutcome:
    """Submit the run of a due time: in the commit that moves the schedule past it."""
    row, plan = t.row, t.entry.plan
    firing = replace(firing, outcome=FiringOutcome.STARTED, at_ms=t.now_ms, message="")
    try:
        data, order_key = rendered(t.name, row.spec, plan, firing)
    except HoldfastError as error:
        return _refuse(t, firing, f"its run cannot be submitted: {error}")
    key = order_key or firing.run_id
    t.tell(
        key,
        firing.run_id,
        Submission(
            plan=plan,
            input=data,
            input_hash=hashlib.sha256(plan.encode() + b"\0" + data).hexdigest(),
            origin=firing.run_id,
            submitted_by=t.key,
            order_key=order_key,
            parent=Parent(t.key, t.key, "", "", ""),
        ),
    )
    t.put_firing(FiringEntry(firing, key))
    row.fired += 1
    t.say_firing(EventType.SCHEDULE_FIRED, f"run {firing.run_id} ({firing.cause})", firing)
    return FiringOutcome.STARTED


def rendered(name: str, spec: ScheduleSpec, plan: str, firing: Firing) -> tuple[bytes, str | None]:
    """Return input (JSON) and order key of a due time's run; raises `HoldfastError`."""
    value = render_schedule_input(spec, name, firing.scheduled_ms, firing.run_id)
    data = encode_json(value)
    if spec.order_key is not None:
        return data, spec.order_key
    template = ResolvedPlan.from_json(plan).plan.order_key
    return data, render_order_key(template, {"input": value})


def _refuse(t: ScheduleTransition, firing: Firing, why: str) -> FiringOutcome:
    message = why[:MESSAGE_CHARS_MAX]
    refused = replace(firing, outcome=FiringOutcome.REFUSED, ended_ms=t.now_ms, message=message)
    t.say_firing(EventType.SCHEDULE_RUN_ENDED, f"{firing.run_id} refused: {message}", refused)
    return FiringOutcome.REFUSED


def on_ended(t: ScheduleTransition, ended: ChildEnded) -> None:
    """A run has ended, or was refused."""
    entry = t.open_firing(ended.child_run_id)
    if entry is None:
        ignored = f"run {ended.child_run_id} has ended: no due time of the schedule waits for it"
        t.answer(EventType.RESULT_IGNORED, ignored, None)
        return
    if ended.successor is not None:
        # The firing keeps its name, and ends with the last of the row: what is told to its run is
        # told to this one. A cancel that was sent to the one before is given on by that.
        key = ended.successor_key or ended.successor
        t.put_firing(replace(entry, record_key=key, open_run_id=ended.successor))
        what = f"{ended.child_run_id} goes on as {ended.successor}"
        t.say(EventType.SCHEDULE_RUN_CONTINUED, what, firing=entry.firing)
        return
    t.overlay.put(FIRINGS + ended.child_run_id, None)
    outcome = FiringOutcome.REFUSED if ended.outcome is None else _OUTCOMES[ended.outcome]
    message = "" if ended.failure is None else ended.failure.message[:MESSAGE_CHARS_MAX]
    firing = replace(entry.firing, outcome=outcome, ended_ms=t.now_ms, message=message)
    t.say_firing(EventType.SCHEDULE_RUN_ENDED, f"{firing.run_id} {outcome}", firing)
    go_on(t)


def go_on(t: ScheduleTransition) -> None:
    """Start what waits for runs to end, as far as that is possible now."""
    entry = t.entry
    if entry.queued is not None and not t.open_runs() and t.row.state is not ScheduleState.PAUSED:
        queued, entry.queued = entry.queued, None
        _start(t, queued)
    for _ in range(STARTS_PER_EVENT):
        if not entry.backfills or t.open_runs(backfills=True) >= entry.backfills[0].parallel:
            return
        _backfill(t)
    t.more = bool(entry.backfills)  # runs that are refused leave room for the next at once


def _backfill(t: ScheduleTransition) -> None:
    """Start the next run of the first backfill, or remove that."""
    entry = t.entry
    backfill = entry.backfills[0]
    scheduled_ms = spec_times(t.row.spec).after(backfill.next_ms - 1)
    if scheduled_ms is None or scheduled_ms >= backfill.to_ms:
        entry.backfills = entry.backfills[1:]
        return
    entry.backfills = [replace(backfill, next_ms=scheduled_ms + 1), *entry.backfills[1:]]
    run_id = scheduled_run_id(t.name, scheduled_ms)
    if t.open_firing(run_id) is None:
        cause, outcome = FiringCause.BACKFILL, FiringOutcome.STARTED
        _start(t, Firing(scheduled_ms, run_id, cause, outcome, t.now_ms))
