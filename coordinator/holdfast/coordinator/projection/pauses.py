"""Agents, and order keys at them, that operators have paused: rows, questions, reasons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.engine import Connection

from holdfast.coordinator.projection import tables
from holdfast.coordinator.projection.reasons import Reason, utc
from holdfast.coordinator.projection.tasks import TaskView
from holdfast.schemas import AgentPause, TaskState

__all__ = ["PauseView", "list_pauses", "pause_columns", "pause_reasons"]


@dataclass(frozen=True, slots=True)
class PauseView:
    """A pause that lasts. `order_key` None: of the whole agent."""

    agent: str
    order_key: str | None
    actor: str
    reason: str
    since_ms: int


def pause_columns(name: str, pause: AgentPause) -> dict[str, Any]:
    """Return a pause as the table has it; `name` as `holdfast.schemas.pauses.pause_name` says."""
    return {
        "agent": pause.agent,
        "name": name,
        "order_key": pause.order_key,
        "actor": pause.actor,
        "reason": pause.reason,
        "since_ms": pause.since_ms,
    }


def list_pauses(connection: Connection, agent: str | None = None) -> list[PauseView]:
    """Return what is paused, by agent; of each the whole agent first, then the oldest."""
    pauses = tables.pauses.c
    query = select(tables.pauses)
    if agent is not None:
        query = query.where(pauses.agent == agent)
    query = query.order_by(
        pauses.agent, pauses.order_key.is_not(None), pauses.since_ms, pauses.name
    )
    return [
        PauseView(row["agent"], row["order_key"], row["actor"], row["reason"], row["since_ms"])
        for row in connection.execute(query).mappings()
    ]


def pause_reasons(task: TaskView, known: list[PauseView]) -> list[Reason]:
    """Return why a task that is with its agent may not be begun there."""
    if task.state is not TaskState.DISPATCHED:
        return []
    return [
        Reason(task.task_id, "agent-paused", _told(pause), _remedy(pause))
        for pause in known
        if pause.agent == task.agent and pause.order_key in (None, task.order_key)
    ]


def _told(pause: PauseView) -> str:
    what = f"agent {pause.agent}"
    if pause.order_key is not None:
        what = f"order key {pause.order_key!r} at agent {pause.agent}"
    why = f": {pause.reason}" if pause.reason else ""
    return (
        f"{what} is paused by {pause.actor} since {utc(pause.since_ms)}{why}; what it has begun"
        " goes on, nothing else is begun"
    )


def _remedy(pause: PauseView) -> str:
    key = "" if pause.order_key is None else f" --key {pause.order_key}"
    return f"holdfast agents resume {pause.agent}{key}"
