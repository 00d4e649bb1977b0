"""What coordinators tell Prometheus. Labels are bounded: kinds and states, never ids."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

__all__ = [
    "BATCH_INPUTS",
    "BROKEN",
    "CLOCK_HELD_SECONDS",
    "CLOSED_MARKERS",
    "COMMANDS",
    "COMPENSATIONS_STUCK",
    "DEAD_LETTERS",
    "EVENTS",
    "INPUTS",
    "MANIFESTS_FORGOTTEN",
    "OPEN_ASKS",
    "OPEN_RUNS",
    "PARKED_INPUTS",
    "PURGED",
    "RUN_SECONDS",
    "SCHEDULES",
    "SCHEDULE_FIRINGS",
    "SCHEDULE_LATE_SECONDS",
    "SIGNALS",
    "TASKS_ENDED",
    "TASK_HANDLER_SECONDS",
    "TASK_QUEUE_SECONDS",
    "TIMERS_ARMED",
    "UNHEARD",
]

_LONG_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 1800, 7200, 43200)

INPUTS = Counter("holdfast_coordinator_inputs_total", "Inputs taken by the engine", ["kind"])
BATCH_INPUTS = Histogram(
    "holdfast_coordinator_batch_inputs",
    "Inputs in one commit",
    buckets=(1, 2, 5, 10, 25, 50, 100, 250, 500),
)
EVENTS = Counter("holdfast_coordinator_events_total", "Transitions written", ["type"])
TASKS_ENDED = Counter(
    "holdfast_coordinator_tasks_ended_total", "Tasks by how they ended", ["state"]
)
TASK_QUEUE_SECONDS = Histogram(
    "holdfast_task_queue_seconds", "From sending an attempt to its start", buckets=_LONG_S
)
TASK_HANDLER_SECONDS = Histogram(
    "holdfast_task_handler_seconds", "From an attempt's start to its end", buckets=_LONG_S
)
RUN_SECONDS = Histogram(
    "holdfast_run_seconds", "From a run's start to its end", ["state"], buckets=_LONG_S
)
SCHEDULES = Gauge("holdfast_schedules", "Schedules by state", ["partition", "state"])
SCHEDULE_FIRINGS = Counter(
    "holdfast_schedule_firings_total", "Due times by what became of them", ["outcome"]
)
SCHEDULE_LATE_SECONDS = Histogram(
    "holdfast_schedule_late_seconds",
    "From a due time, jitter and all, to the submission of its run",
    buckets=_LONG_S,
)
DEAD_LETTERS = Counter("holdfast_dead_letters_total", "Dead letters written", ["reason"])
BROKEN = Counter(
    "holdfast_coordinator_broken_total", "Runs ended because their records could not be written"
)
UNHEARD = Counter(
    "holdfast_coordinator_unheard_ends_total",
    "Ends of runs that their source could not be told of: its topics are gone",
)
OPEN_RUNS = Gauge("holdfast_coordinator_open_runs", "Runs held in memory", ["partition"])
CLOSED_MARKERS = Gauge(
    "holdfast_coordinator_closed_markers", "Closed runs remembered", ["partition"]
)
TIMERS_ARMED = Gauge("holdfast_coordinator_timers_armed", "Timers waiting", ["partition"])
OPEN_ASKS = Gauge(
    "holdfast_coordinator_open_asks",
    "What handlers wait for, by kind",
    ["partition", "kind"],
)
COMPENSATIONS_STUCK = Gauge(
    "holdfast_compensations_stuck",
    "Successes that cannot be undone, and wait for a person",
    ["partition"],
)
COMMANDS = Counter(
    "holdfast_coordinator_commands_total", "What operators said", ["action", "answer"]
)
SIGNALS = Counter("holdfast_coordinator_signals_total", "What became of signals", ["outcome"])
PARKED_INPUTS = Gauge(
    "holdfast_coordinator_parked_inputs",
    "Inputs that wait for a blob or a schema, and those behind them",
    ["partition"],
)
CLOCK_HELD_SECONDS = Gauge(
    "holdfast_coordinator_clock_held_seconds",
    "By how much a jump of the wall clock is held; 0: none",
)
PURGED = Counter("holdfast_purged_records_total", "Consumed records forgotten", ["kind"])
MANIFESTS_FORGOTTEN = Counter(
    "holdfast_manifests_forgotten_total", "Manifests of instances that were silent too long"
)
