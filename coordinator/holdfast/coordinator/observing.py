"""What a committed batch adds to the metrics, and how the slot stands after it."""

from __future__ import annotations

from functools import cache

from prometheus_client import Counter

from holdfast.coordinator import metrics
from holdfast.coordinator.batch import Batch
from holdfast.coordinator.engine import RUN_ENDS, TASK_ENDS, Emit, Park, State
from holdfast.schemas.records import (
    AskKind,
    Event,
    EventType,
    FiringCause,
    RunRow,
    ScheduleRow,
    ScheduleState,
    TaskRow,
    TaskState,
)
from holdfast.schemas.schedules import jitter_ms

__all__ = ["SlotGauges", "observe"]

_OUTCOMES = {
    EventType.SIGNAL_KEPT: "kept",
    EventType.SIGNAL_REFUSED: "refused",
    EventType.SIGNAL_REPEATED: "repeated",
    EventType.TASK_ANSWERED: "taken",
}


class SlotGauges:
    """How one slot stands. Its series are looked up once: `labels` takes a lock and builds a key
    each time, too slow for every commit."""

    def __init__(self, partition: int) -> None:
        self._open_runs = metrics.OPEN_RUNS.labels(partition)
        self._markers = metrics.CLOSED_MARKERS.labels(partition)
        self._timers = metrics.TIMERS_ARMED.labels(partition)
        self._stuck = metrics.COMPENSATIONS_STUCK.labels(partition)
        self._parked = metrics.PARKED_INPUTS.labels(partition)
        self._asks = {kind: metrics.OPEN_ASKS.labels(partition, kind) for kind in AskKind}
        self._schedules = {
            state: metrics.SCHEDULES.labels(partition, state) for state in ScheduleState
        }

    def measure(self, state: State, timers: int, parked: int) -> None:
        """The slot holds this now, and so many timers and parked inputs."""
        self._open_runs.set(state.runs)
        self._markers.set(len(state.closed))
        self._timers.set(timers)
        self._stuck.set(state.stuck)
        self._parked.set(parked)
        for kind, asks in self._asks.items():
            asks.set(state.open_asks[kind])
        for name, schedules in self._schedules.items():
            schedules.set(state.schedules[name])

    def clear(self) -> None:
        """The slot is another's."""
        own = (self._open_runs, self._markers, self._timers, self._stuck, self._parked)
        for gauge in (*own, *self._asks.values(), *self._schedules.values()):
            gauge.set(0)


def observe(batch: Batch) -> None:
    """Count what the batch did; called once, when its commit was acknowledged."""
    metrics.BATCH_INPUTS.observe(len(batch.taken))
    for pending in batch.taken:
        if pending.input is not None:
            _inputs(type(pending.input).__name__).inc()
    for effect in batch.effects:
        if isinstance(effect, Emit):
            _event(effect.event)
        elif isinstance(effect, Park):
            metrics.DEAD_LETTERS.labels(effect.letter.reason).inc()


@cache
def _events(kind: EventType) -> Counter:
    # `labels` takes a lock and builds a key each time: too slow for every event.
    return metrics.EVENTS.labels(kind)


@cache
def _tasks_ended(state: TaskState) -> Counter:
    return metrics.TASKS_ENDED.labels(state)


@cache
def _inputs(kind: str) -> Counter:
    return metrics.INPUTS.labels(kind.lower())


def _event(event: Event) -> None:
    _events(event.type).inc()
    if event.schedule is not None:
        _schedule(event, event.schedule)
        return
    if event.command is not None:
        refused = event.type is EventType.COMMAND_REFUSED
        answer = "refused" if refused else "accepted"
        metrics.COMMANDS.labels(event.command.action, answer).inc()
    if event.signal is not None and (outcome := _OUTCOMES.get(event.type)) is not None:
        metrics.SIGNALS.labels(outcome).inc()
    if event.type.endswith(".ignored"):
        return
    if event.task is not None and event.task.state in TASK_ENDS:
        _task(event.task)
    elif event.run is not None and event.run.state in RUN_ENDS:
        _run(event.run)


def _schedule(event: Event, row: ScheduleRow) -> None:
    firing = event.firing
    if firing is None:
        return
    metrics.SCHEDULE_FIRINGS.labels(firing.outcome).inc(firing.count)
    if event.type is EventType.SCHEDULE_FIRED and firing.cause is FiringCause.TIME:
        due_ms = firing.scheduled_ms + jitter_ms(row.name, row.spec, firing.scheduled_ms)
        metrics.SCHEDULE_LATE_SECONDS.observe(max(0, event.at_ms - due_ms) / 1_000)


def _task(row: TaskRow) -> None:
    _tasks_ended(row.state).inc()
    if row.state is not TaskState.SUCCEEDED or row.started_ms is None:
        return
    if row.ruling is not None:
        return  # not the handler's end, nor its time
    if row.dispatched_ms is not None:
        metrics.TASK_QUEUE_SECONDS.observe(max(0, row.started_ms - row.dispatched_ms) / 1_000)
    if row.finished_ms is not None:
        metrics.TASK_HANDLER_SECONDS.observe(max(0, row.finished_ms - row.started_ms) / 1_000)


def _run(row: RunRow) -> None:
    if row.finished_ms is not None:
        seconds = (row.finished_ms - row.created_ms) / 1_000
        metrics.RUN_SECONDS.labels(row.state).observe(max(0.0, seconds))
