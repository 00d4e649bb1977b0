"""The events of a run, in order."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import and_, func, or_, select
from sqlalchemy.engine import Connection, RowMapping

from holdfast.coordinator.projection import tables
from holdfast.coordinator.projection.columns import Json, json_of
from holdfast.schemas import EventType

__all__ = ["HistoryEntry", "last_progress", "list_history"]


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One event; (partition, offset) is its place in `events`.

    `ask` as in `AskRow`; `signal`: its `signal_id`, `signal` (the name) and `actor`; `build_id`:
    of the agent that ended the attempt.
    """

    partition: int
    offset: int
    run_id: str
    type: str
    at_ms: int
    task_id: str | None
    attempt: int | None
    message: str
    cause_partition: int | None
    cause_offset: int | None
    command: Json | None
    ask: Json | None = None
    signal: Json | None = None
    build_id: str | None = None


def list_history(
    connection: Connection,
    run_id: str,
    *,
    after: tuple[int, int] | None = None,
    limit: int = 1_000,
) -> list[HistoryEntry]:
    """Return events of a run in order; `after`: the last (partition, offset) of the page before."""
    history = tables.history.c
    query = select(tables.history).where(history.run_id == run_id)
    if after is not None:
        query = query.where(
            or_(
                history.partition > after[0],
                and_(history.partition == after[0], history.offset > after[1]),
            )
        )
    query = query.order_by(history.partition, history.offset).limit(limit)
    return [_history(row) for row in connection.execute(query).mappings()]


def last_progress(connection: Connection, run_id: str) -> dict[tuple[str, int], tuple[str, int]]:
    """Return the newest word of progress, and when it was said, by (task id, attempt)."""
    history = tables.history.c
    # The events of a run stand in one partition, in order.
    newest = (
        select(func.max(history.offset))
        .where(history.run_id == run_id, history.type == EventType.TASK_PROGRESSED.value)
        .group_by(history.task_id, history.attempt)
    )
    query = select(history.task_id, history.attempt, history.message, history.at_ms).where(
        history.run_id == run_id, history.offset.in_(newest)
    )
    return {
        (task_id, attempt): (message, at_ms)
        for task_id, attempt, message, at_ms in connection.execute(query)
    }


def _history(row: RowMapping) -> HistoryEntry:
    documents = {name: json_of(row[name]) for name in ("command", "ask", "signal")}
    return HistoryEntry(**{**row, **documents})
