"""What agents tell Prometheus. Labels are bounded: agents, tasks and outcomes, never ids."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from holdfast.schemas.records import Outcome

__all__ = ["AgentMetrics", "TaskMetrics"]

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
STUCK = Gauge("holdfast_handlers_stuck", "Bodies that outlive the end of their attempt", ["agent"])
PAUSED = Gauge("holdfast_slots_paused", "Slots that read no tasks: too many are open", ["agent"])


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
        self.steps = STEPS.labels(agent)
        self.retries = RETRIES.labels(agent)
        self.resumes = RESUMES.labels(agent)
        self.poison = POISON.labels(agent)
        self.undecodable = UNDECODABLE.labels(agent)
        self.running = RUNNING.labels(agent)
        self.stuck = STUCK.labels(agent)
        self.paused = PAUSED.labels(agent)

    def of(self, task: str) -> TaskMetrics:
        """Return the series of a task that the agent has."""
        found = self._tasks.get(task)
        if found is None:
            found = self._tasks[task] = TaskMetrics(self._agent, task)
        return found
