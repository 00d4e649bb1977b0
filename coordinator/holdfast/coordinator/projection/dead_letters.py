"""What a projection knows of dead letters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, and_, select
from sqlalchemy.engine import Connection, RowMapping

from holdfast.coordinator.projection import tables
from holdfast.coordinator.projection.columns import (
    PAGE,
    Json,
    StoredPayload,
    json_of,
    payload_of,
)
from holdfast.schemas import TaskState

__all__ = ["DeadLetterView", "find_dead_letter", "list_dead_letters"]


@dataclass(frozen=True, slots=True)
class DeadLetterView:
    """A dead letter. `open`: its task still waits for a person, or it has none."""

    dead_letter_id: str
    reason: str
    failure: Json | None
    run_id: str | None
    task_id: str | None
    agent: str
    task: str | None
    attempt: int
    input: StoredPayload
    source: Json | None
    at_ms: int
    run_state: str | None
    task_state: str | None
    task_attempt: int | None

    @property
    def open(self) -> bool:
        """Whether it can still be replayed into its run, or discarded; older attempts' cannot."""
        return self.task_state == TaskState.DEAD and self.task_attempt == self.attempt


def list_dead_letters(
    connection: Connection,
    *,
    run_id: str | None = None,
    reason: str | None = None,
    only_open: bool = False,
    limit: int = PAGE,
) -> list[DeadLetterView]:
    """Return dead letters, the newest first."""
    letters = tables.dead_letters.c
    query = _dead_letter_query().order_by(letters.at_ms.desc(), letters.dead_letter_id).limit(limit)
    if run_id is not None:
        query = query.where(letters.run_id == run_id)
    if reason is not None:
        query = query.where(letters.reason == reason)
    if only_open:
        tasks = tables.tasks.c
        query = query.where(tasks.state == TaskState.DEAD.value, tasks.attempt == letters.attempt)
    return [_dead_letter(row) for row in connection.execute(query).mappings()]


def find_dead_letter(connection: Connection, dead_letter_id: str) -> DeadLetterView | None:
    """Return one dead letter."""
    query = _dead_letter_query().where(tables.dead_letters.c.dead_letter_id == dead_letter_id)
    row = connection.execute(query).mappings().first()
    return None if row is None else _dead_letter(row)


def _dead_letter_query() -> Select[Any]:
    letters, tasks, runs = tables.dead_letters, tables.tasks, tables.runs
    same_task = and_(tasks.c.run_id == letters.c.run_id, tasks.c.task_id == letters.c.task_id)
    return select(
        letters,
        runs.c.state.label("run_state"),
        tasks.c.state.label("task_state"),
        tasks.c.attempt.label("task_attempt"),
    ).select_from(
        letters.outerjoin(tasks, same_task).outerjoin(runs, runs.c.run_id == letters.c.run_id)
    )


def _dead_letter(row: RowMapping) -> DeadLetterView:
    return DeadLetterView(
        dead_letter_id=row["dead_letter_id"],
        reason=row["reason"],
        failure=json_of(row["failure"]),
        run_id=row["run_id"],
        task_id=row["task_id"],
        agent=row["agent"],
        task=row["task"],
        attempt=row["attempt"],
        input=payload_of(row, "input"),
        source=json_of(row["source"]),
        at_ms=row["at_ms"],
        run_state=row["run_state"],
        task_state=row["task_state"],
        task_attempt=row["task_attempt"],
    )
