"""Work that is paused because what it needs is out of reach, as agents' signs of life tell it.

A sign of life comes every ten seconds: so old is what is said here. Which tasks wait for which
breaker only their process knows; it says how many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from holdfast.coordinator.projection.agents import AgentView
from holdfast.coordinator.projection.reasons import Reason, span, utc
from holdfast.coordinator.projection.tasks import TaskView
from holdfast.schemas import TaskState
from holdfast.schemas.records import BreakerState

__all__ = ["Breakers", "breaker_reasons"]


@dataclass(frozen=True, slots=True)
class Breakers:
    """The breakers of one instance that are not closed; each as in `BreakerRow`."""

    agent: str
    instance: str
    rows: list[dict[str, Any]]

    @classmethod
    def of(cls, agent: AgentView) -> Breakers:
        """Return those of one instance."""
        return cls(agent.agent, agent.instance, agent.breakers)


def breaker_reasons(task: TaskView, known: list[Breakers], now_ms: int) -> list[Reason]:
    """Return why an open task may be paused at its agent."""
    if task.state not in (TaskState.DISPATCHED, TaskState.RETRYING):
        return []
    return [
        Reason(task.task_id, "breaker", _told(breakers.instance, row, now_ms))
        for breakers in known
        if breakers.agent == task.agent
        for row in breakers.rows
    ]


def _told(instance: str, row: dict[str, Any], now_ms: int) -> str:
    text = (
        f"at {instance}, {row['name']!r} is out of reach since {span(now_ms - row['since_ms'])}"
        f" ({row['error']}): {row['held']} calls and tasks are paused, no attempt is lost"
    )
    if row["state"] == BreakerState.HALF_OPEN:
        return f"{text}; a call is under way to find out"
    return f"{text}; the next call is let through at {utc(row['until_ms'])}"
