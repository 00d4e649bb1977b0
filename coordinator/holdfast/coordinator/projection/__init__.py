"""The projection: a database that follows the bus, for reading. Nobody asks the engine's memory.

Holds the tables, what follows `events`, `agents` and `dead-letters` into them, and the questions
that can be asked. May use: the port of the bus, schemas, SQLAlchemy Core. Must never: be asked by
the engine or the service, or write to the bus.
"""

from holdfast.coordinator.projection.projection import Projection
from holdfast.coordinator.projection.queries import (
    AgentView,
    DeadLetterView,
    HistoryEntry,
    RunFilter,
    RunView,
    StoredPayload,
    TaskView,
    find_dead_letter,
    find_run,
    list_agents,
    list_dead_letters,
    list_history,
    list_runs,
    list_tasks,
)
from holdfast.coordinator.projection.why import ALIVE_MS, Reason, why

__all__ = [
    "ALIVE_MS",
    "AgentView",
    "DeadLetterView",
    "HistoryEntry",
    "Projection",
    "Reason",
    "RunFilter",
    "RunView",
    "StoredPayload",
    "TaskView",
    "find_dead_letter",
    "find_run",
    "list_agents",
    "list_dead_letters",
    "list_history",
    "list_runs",
    "list_tasks",
    "why",
]
