"""The projection: a database that follows the bus, for reading. Nobody asks the engine's memory.

Holds the tables, what follows `events`, `agents` and `dead-letters` into them, and the questions
that can be asked. May use: the port of the bus, schemas, SQLAlchemy Core. Must never: be asked by
the engine or the service, or write to the bus.
"""

from holdfast.coordinator.projection.agents import AgentView, list_agents
from holdfast.coordinator.projection.columns import StoredPayload
from holdfast.coordinator.projection.dead_letters import (
    DeadLetterView,
    find_dead_letter,
    list_dead_letters,
)
from holdfast.coordinator.projection.filters import FIELDS, FilterError
from holdfast.coordinator.projection.history import HistoryEntry, list_history
from holdfast.coordinator.projection.pauses import PauseView, list_pauses
from holdfast.coordinator.projection.plans import (
    PlanVersionView,
    find_plan,
    list_plan_versions,
)
from holdfast.coordinator.projection.projection import Projection
from holdfast.coordinator.projection.reasons import Reason
from holdfast.coordinator.projection.rows import AskState, SignalState
from holdfast.coordinator.projection.runs import RunFilter, RunView, find_run, list_runs
from holdfast.coordinator.projection.schedules import (
    ScheduleView,
    find_schedule,
    list_schedules,
)
from holdfast.coordinator.projection.selecting import Selected, select_targets
from holdfast.coordinator.projection.tasks import TaskView, find_task, list_tasks
from holdfast.coordinator.projection.waits import (
    ChildView,
    SignalView,
    WaitView,
    list_children,
    list_signals,
    list_waits,
)
from holdfast.coordinator.projection.why import ALIVE_MS, why, why_task

__all__ = [
    "ALIVE_MS",
    "FIELDS",
    "AgentView",
    "AskState",
    "ChildView",
    "DeadLetterView",
    "FilterError",
    "HistoryEntry",
    "PauseView",
    "PlanVersionView",
    "Projection",
    "Reason",
    "RunFilter",
    "RunView",
    "ScheduleView",
    "Selected",
    "SignalState",
    "SignalView",
    "StoredPayload",
    "TaskView",
    "WaitView",
    "find_dead_letter",
    "find_plan",
    "find_run",
    "find_schedule",
    "find_task",
    "list_agents",
    "list_children",
    "list_dead_letters",
    "list_history",
    "list_pauses",
    "list_plan_versions",
    "list_runs",
    "list_schedules",
    "list_signals",
    "list_tasks",
    "list_waits",
    "select_targets",
    "why",
    "why_task",
]
