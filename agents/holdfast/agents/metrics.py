"""What agents tell Prometheus. Labels are bounded: agents, tasks and outcomes, never ids."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import Counter, Gauge, Histogram

from holdfast.schemas.records import Outcome

__all__ = [
    "AgentMetrics",
    "BreakerMetrics",
    "GaugeShare",
    "PauseShare",
    "StateShare",
    "TaskMetrics",
]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 3600)

TASKS = Counter("holdfast_tasks_total", "Attempts that ended here", ["agent", "task", "outcome"])
HANDLER_SECONDS = Histogram(
    "holdfast_handler_seconds", "How long handlers ran", ["agent", "task"], buckets=_SECONDS
)
QUEUE_SECONDS = Histogram(
    "holdfast_queue_seconds",
    "From sending a task to starting its handler",
    ["agent", "task"],
    buckets=_SECONDS,
)
STEPS = Counter("holdfast_steps_total", "Steps and effects committed", ["agent"])
RETRIES = Counter("holdfast_retries_total", "Attempts after the first that came here", ["agent"])
RESUMES = Counter("holdfast_resumes_total", "Attempts that went on after an unclean end", ["agent"])
POISON = Counter("holdfast_poison_total", "Tasks that killed their process too often", ["agent"])
UNDECODABLE = Counter("holdfast_undecodable_total", "Records that nobody can read", ["agent"])
RUNNING = Gauge("holdfast_handlers_running", "Places that are taken", ["agent"])
RESTING = Gauge(
    "holdfast_handlers_resting", "Bodies that only wait: in memory, without a place", ["agent"]
)
ASLEEP = Gauge(
    "holdfast_handlers_asleep", "Tasks that wait for an answer without a body", ["agent"]
)
STUCK = Gauge("holdfast_handlers_stuck", "Bodies that outlive the end of their attempt", ["agent"])
ASLEEP_BYTES = Gauge(
    "holdfast_handlers_asleep_bytes",
    "Inputs and step results of tasks that wait without a body: they stay in memory",
    ["agent"],
)
PAUSED = Gauge("holdfast_slots_paused", "Slots that read no tasks: too many are open", ["agent"])
HALTED = Gauge("holdfast_slots_halted", "Slots of an agent that an operator has paused", ["agent"])
HALTED_KEYS = Gauge(
    "holdfast_order_keys_halted", "Order keys that an operator has paused", ["agent"]
)
FAILURES = Counter(
    "holdfast_failures_total",
    "Attempts that failed here, by the class of the error",
    ["agent", "error"],
)
BREAKER_STATE = Gauge(
    "holdfast_breaker_state", "0: closed, 1: half open, 2: open", ["agent", "breaker"]
)
BREAKER_OPEN_SECONDS = Gauge(
    "holdfast_breaker_open_seconds",
    "For how long a breaker has not been closed",
    ["agent", "breaker"],
)
BREAKER_OPENINGS = Counter(
    "holdfast_breaker_openings_total", "How often a breaker has opened", ["agent", "breaker"]
)
BREAKER_REFUSED = Counter(
    "holdfast_breaker_refused_total",
    "Calls and tasks that a breaker has not let through at once",
    ["agent", "breaker"],
)

ERRORS_MAX = 100
"""So many classes of errors have a series; what others there are counts as `other`."""


class BreakerMetrics:
    """One breaker's series."""

    def __init__(self, agent: str, breaker: str, open_s: Callable[[], float]) -> None:
        self.state = BREAKER_STATE.labels(agent, breaker)
        self.state.set(0)
        self.openings = BREAKER_OPENINGS.labels(agent, breaker)
        self.refused = BREAKER_REFUSED.labels(agent, breaker)
        BREAKER_OPEN_SECONDS.labels(agent, breaker).set_function(open_s)


STATE_VALUES = Gauge("holdfast_state_values", "Values kept under order keys", ["agent"])
STATE_BYTES = Gauge("holdfast_state_bytes", "Their bytes, with their keys", ["agent"])


class TaskMetrics:
    """One task's series, looked up once."""

    def __init__(self, agent: str, task: str) -> None:
        self.outcomes = {o: TASKS.labels(agent, task, o.value) for o in Outcome}
        self.handler_seconds = HANDLER_SECONDS.labels(agent, task)
        self.queue_seconds = QUEUE_SECONDS.labels(agent, task)


class AgentMetrics:
    """One agent's series, looked up once."""

    def __init__(self, agent: str) -> None:
        self._agent = agent
        self._tasks: dict[str, TaskMetrics] = {}
        self._errors: dict[str, Counter] = {}
        self.steps = STEPS.labels(agent)
        self.retries = RETRIES.labels(agent)
        self.resumes = RESUMES.labels(agent)
        self.poison = POISON.labels(agent)
        self.undecodable = UNDECODABLE.labels(agent)
        self.running = RUNNING.labels(agent)
        self.resting = RESTING.labels(agent)
        self.asleep = ASLEEP.labels(agent)
        self.asleep_bytes = ASLEEP_BYTES.labels(agent)
        self.stuck = STUCK.labels(agent)
        self.paused = PAUSED.labels(agent)
        self.halted = HALTED.labels(agent)
        self.halted_keys = HALTED_KEYS.labels(agent)
        self.state_values = STATE_VALUES.labels(agent)
        self.state_bytes = STATE_BYTES.labels(agent)

    def of(self, task: str) -> TaskMetrics:
        """Return the series of a task that the agent has."""
        found = self._tasks.get(task)
        if found is None:
            found = self._tasks[task] = TaskMetrics(self._agent, task)
        return found

    def failed(self, error: str) -> None:
        """Count a failed attempt."""
        if error not in self._errors and len(self._errors) >= ERRORS_MAX:
            error = "other"
        series = self._errors.get(error)
        if series is None:
            series = self._errors[error] = FAILURES.labels(self._agent, error)
        series.inc()


class GaugeShare:
    """What one slot adds to a gauge of its agent."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._value = 0

    def measure(self, value: int) -> None:
        """The slot has so much now."""
        if value != self._value:
            self._gauge.inc(value - self._value)
            self._value = value


class SleepShare:
    """What one slot adds to the gauges of those who sleep."""

    def __init__(self, metrics: AgentMetrics) -> None:
        self._tasks = GaugeShare(metrics.asleep)
        self._bytes = GaugeShare(metrics.asleep_bytes)

    def measure(self, tasks: int, size_bytes: int) -> None:
        """So many sleep in the slot, and hold so much."""
        self._tasks.measure(tasks)
        self._bytes.measure(size_bytes)


class PauseShare:
    """What one slot adds to the gauges of what operators have paused."""

    def __init__(self, metrics: AgentMetrics) -> None:
        self._whole = GaugeShare(metrics.halted)
        self._keys = GaugeShare(metrics.halted_keys)

    def measure(self, whole: bool, order_keys: int) -> None:
        """The slot is paused as a whole, or not; so many of its order keys are."""
        self._whole.measure(int(whole))
        self._keys.measure(order_keys)


class StateShare:
    """What one slot adds to the gauges of its agent's state."""

    def __init__(self, metrics: AgentMetrics) -> None:
        self._metrics = metrics
        self._values = 0
        self._bytes = 0

    def measure(self, values: int, size_bytes: int) -> None:
        """The slot holds so much now."""
        if values != self._values or size_bytes != self._bytes:
            self._metrics.state_values.inc(values - self._values)
            self._metrics.state_bytes.inc(size_bytes - self._bytes)
            self._values, self._bytes = values, size_bytes
