"""What a projection knows of runs as a whole."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.engine import Connection, RowMapping

from holdfast.coordinator.projection import tables
from holdfast.coordinator.projection.columns import (
    PAGE,
    Json,
    StoredPayload,
    json_of,
    payload_of,
)
from holdfast.coordinator.projection.plans import plan_text
from holdfast.schemas import AskKind, RunState

__all__ = ["RunFilter", "RunView", "find_run", "list_runs", "started_by_ask"]


@dataclass(frozen=True, slots=True)
class RunView:
    """A run as it is; `tasks_by_state` counts the tasks that have a row.

    `successor`: the run that it was continued as; `predecessor`: the one that it continues.
    """

    run_id: str
    plan_name: str
    state: RunState
    input: StoredPayload
    output: StoredPayload
    failure: Json | None
    order_key: str | None
    origin: str
    submitted_by: str
    created_ms: int
    deadline_ms: int | None
    finished_ms: int | None
    plan: Json | None
    tasks_by_state: dict[str, int]
    plan_version: int = 1
    successor: str | None = None
    predecessor: str | None = None
    parent: tuple[str, str] | None = None
    """The run and the task in it that started this one."""
    start_ms: int | None = None
    """Nothing of it starts before; None: at once."""


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs, the newest first. `before`: the last (created_ms, run_id) of the page before."""

    states: tuple[RunState, ...] = ()
    plan_name: str | None = None
    order_key: str | None = None
    since_ms: int | None = None
    before: tuple[int, str] | None = None
    limit: int = PAGE


def list_runs(connection: Connection, wanted: RunFilter = RunFilter()) -> list[RunView]:
    """Return a page of runs, the newest first, without their plans."""
    runs = tables.runs.c
    conditions: list[ColumnElement[bool]] = []
    if wanted.states:
        conditions.append(runs.state.in_([state.value for state in wanted.states]))
    if wanted.plan_name is not None:
        conditions.append(runs.plan_name == wanted.plan_name)
    if wanted.order_key is not None:
        conditions.append(runs.order_key == wanted.order_key)
    if wanted.since_ms is not None:
        conditions.append(runs.created_ms >= wanted.since_ms)
    if wanted.before is not None:
        created_ms, run_id = wanted.before
        conditions.append(
            or_(
                runs.created_ms < created_ms,
                and_(runs.created_ms == created_ms, runs.run_id < run_id),
            )
        )
    query = (
        select(tables.runs)
        .where(*conditions)
        .order_by(runs.created_ms.desc(), runs.run_id.desc())
        .limit(wanted.limit)
    )
    rows = connection.execute(query).mappings().all()
    ids = [row["run_id"] for row in rows]
    counts, parents = _count_tasks(connection, ids), _parents(connection, ids)
    return [
        _run(row, None, counts.get(row["run_id"], {}), parents.get(row["run_id"])) for row in rows
    ]


def find_run(connection: Connection, run_id: str) -> RunView | None:
    """Return a run with its plan as it is now."""
    row = connection.execute(select(tables.runs).where(tables.runs.c.run_id == run_id)).mappings()
    found = row.first()
    if found is None:
        return None
    plan = plan_text(connection, run_id)
    counts, parents = _count_tasks(connection, [run_id]), _parents(connection, [run_id])
    return _run(found, plan, counts.get(run_id, {}), parents.get(run_id))


def _count_tasks(connection: Connection, run_ids: list[str]) -> dict[str, dict[str, int]]:
    tasks = tables.tasks.c
    query = (
        select(tasks.run_id, tasks.state, func.count())
        .where(tasks.run_id.in_(run_ids))
        .group_by(tasks.run_id, tasks.state)
    )
    found: dict[str, dict[str, int]] = {}
    for run_id, state, count in connection.execute(query):
        found.setdefault(run_id, {})[state] = count
    return found


def _parents(connection: Connection, run_ids: list[str]) -> dict[str, tuple[str, str]]:
    """Return of each run that a handler started the run and the task of that handler."""
    asks, runs = tables.asks.c, tables.runs.c
    query = (
        select(asks.child, asks.run_id, asks.task_id)
        .select_from(tables.asks.join(tables.runs, started_by_ask()))
        .where(runs.run_id.in_(run_ids))
    )
    return {child: (run_id, task_id) for child, run_id, task_id in connection.execute(query)}


def started_by_ask() -> ColumnElement[bool]:
    """Whether a row of `runs` is the run that a row of `asks` started.

    A run of that id may have been there before, submitted by somebody else: then it was not.
    """
    asks, runs = tables.asks.c, tables.runs.c
    return and_(
        asks.child == runs.run_id,
        asks.kind == AskKind.RUN.value,
        runs.submitted_by == asks.run_id + "/" + asks.task_id,
    )


def _run(
    row: RowMapping,
    plan: str | None,
    tasks_by_state: dict[str, int],
    parent: tuple[str, str] | None,
) -> RunView:
    return RunView(
        run_id=row["run_id"],
        plan_name=row["plan_name"],
        state=RunState(row["state"]),
        input=payload_of(row, "input"),
        output=payload_of(row, "output"),
        failure=json_of(row["failure"]),
        order_key=row["order_key"],
        origin=row["origin"],
        submitted_by=row["submitted_by"],
        created_ms=row["created_ms"],
        deadline_ms=row["deadline_ms"],
        finished_ms=row["finished_ms"],
        plan=json_of(plan),
        plan_version=row["plan_version"],
        successor=row["successor"],
        predecessor=row["predecessor"],
        start_ms=row["start_ms"],
        tasks_by_state=tasks_by_state,
        parent=parent,
    )
