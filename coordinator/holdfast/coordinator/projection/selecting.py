"""What a filter selects: runs, or tasks, on which a command of many can do something now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, not_, or_, select, true
from sqlalchemy.engine import Connection

from holdfast.coordinator.projection import tables
from holdfast.coordinator.projection.filters import (
    And,
    Compare,
    Expression,
    Not,
    Operator,
    parse_filter,
)
from holdfast.schemas import RunState, TaskState

__all__ = ["Selected", "select_targets"]

_OPEN = (RunState.RUNNING, RunState.WAITING, RunState.PAUSED)
_UNENDED = tuple(
    state
    for state in TaskState
    if state not in (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.SKIPPED)
)
_LOST = (RunState.FAILED, RunState.CANCELLED)
_WITH_DEAD = (*_OPEN, RunState.COMPENSATING)
"""Runs in which a task may be dead: what undoes another one, too."""


@dataclass(frozen=True, slots=True)
class Selected:
    """One target. `task_id` None: the run; `order_key`: the run's; `state`: of run or task."""

    run_id: str
    order_key: str | None
    task_id: str | None
    agent: str | None
    state: str
    run_state: RunState

    @property
    def ended(self) -> bool:
        """Whether the run has ended."""
        return self.run_state in (*_LOST, RunState.SUCCEEDED)


def select_targets(
    connection: Connection, action: str, where: str, now_ms: int, *, limit: int = 1_000
) -> list[Selected]:
    """Return on what `action` can do something, of what `where` selects, the oldest run first.

    `action`: cancel, pause, resume (of runs; a filter that names a field of tasks selects runs that
    have such a task), retry, replay, skip, discard (of tasks). Raises `FilterError`.
    """
    condition = _compile(parse_filter(where), now_ms)
    useful = _USEFUL[action]()
    runs, tasks = tables.runs, tables.tasks
    together = runs.outerjoin(tasks, tasks.c.run_id == runs.c.run_id)
    wanted = and_(useful, condition)
    if action in _OF_RUNS:
        meant = select(runs.c.run_id).select_from(together).where(wanted).distinct()
        query: Select[Any] = (
            select(runs.c.run_id, runs.c.order_key, runs.c.state)
            .where(runs.c.run_id.in_(meant))
            .order_by(runs.c.created_ms, runs.c.run_id)
        )
        return [
            Selected(row[0], row[1], None, None, row[2], RunState(row[2]))
            for row in connection.execute(query.limit(limit))
        ]
    columns = (
        runs.c.run_id,
        runs.c.order_key,
        tasks.c.task_id,
        tasks.c.agent,
        tasks.c.state.label("task_state"),
        runs.c.state.label("run_state"),
    )
    query = (
        select(*columns)
        .select_from(together)
        .where(wanted, tasks.c.task_id.is_not(None))
        .order_by(runs.c.created_ms, runs.c.run_id, tasks.c.task_id)
    )
    return [
        Selected(row[0], row[1], row[2], row[3], row[4], RunState(row[5]))
        for row in connection.execute(query.limit(limit))
    ]


# --- what each command can do something about --------------------------------------------------


def _runs(*states: RunState) -> ColumnElement[bool]:
    return tables.runs.c.state.in_([state.value for state in states])


def _tasks(*states: TaskState) -> ColumnElement[bool]:
    return tables.tasks.c.state.in_([state.value for state in states])


def _retried() -> ColumnElement[bool]:
    """A task that can go on; or one that was lost in a run that has ended badly: it is forked."""
    lost = and_(_runs(*_LOST), _tasks(TaskState.FAILED, TaskState.CANCELLED, TaskState.DEAD))
    return or_(and_(_runs(*_WITH_DEAD), _tasks(TaskState.DEAD, TaskState.RETRYING)), lost)


_OF_RUNS = ("cancel", "pause", "resume")
_USEFUL: dict[str, Callable[[], ColumnElement[bool]]] = {
    "cancel": lambda: _runs(*_OPEN),
    "pause": lambda: _runs(RunState.RUNNING, RunState.WAITING),
    "resume": lambda: _runs(RunState.PAUSED),
    "retry": _retried,
    "replay": lambda: and_(_runs(*_OPEN, RunState.COMPENSATING), _tasks(TaskState.DEAD)),
    "discard": lambda: and_(_runs(*_OPEN, RunState.COMPENSATING), _tasks(TaskState.DEAD)),
    "skip": lambda: and_(_runs(*_OPEN), _tasks(*_UNENDED)),
}


# --- filters as conditions ---------------------------------------------------------------------


def _compile(expression: Expression, now_ms: int) -> ColumnElement[bool]:
    if isinstance(expression, Compare):
        return _compare(expression, now_ms)
    if isinstance(expression, Not):
        return not_(_compile(expression.inner, now_ms))
    parts = [_compile(part, now_ms) for part in expression.parts]
    return and_(true(), *parts) if isinstance(expression, And) else or_(*parts)


def _compare(compare: Compare, now_ms: int) -> ColumnElement[bool]:
    if compare.field == "age":
        before = now_ms - compare.number
        made = tables.runs.c.created_ms
        return made < before if compare.operator is Operator.MORE else made > before
    column = _column(compare.field)
    if compare.field == "attempt":
        return _sized(column, compare)
    found = _matches(column, compare)
    return not_(found) if compare.operator is Operator.IS_NOT else found


def _sized(column: ColumnElement[Any], compare: Compare) -> ColumnElement[bool]:
    if compare.operator is Operator.LESS:
        return column < compare.number
    if compare.operator is Operator.MORE:
        return column > compare.number
    same = column == compare.number
    return not_(same) if compare.operator is Operator.IS_NOT else same


def _matches(column: ColumnElement[Any], compare: Compare) -> ColumnElement[bool]:
    if compare.field != "error":
        return _is(column, compare)
    # A class is known by its name alone, too: `TimeoutError` is also `httpx.TimeoutError`.
    return or_(_is(column, compare), _is(func.coalesce(tables.tasks.c.error_name, ""), compare))


def _is(column: ColumnElement[Any], compare: Compare) -> ColumnElement[bool]:
    if compare.operator is not Operator.BEGINS:
        return column == compare.value
    # Not LIKE: to SQLite its letters are the same in capitals, to PostgreSQL they are not.
    return func.substr(column, 1, len(compare.value)) == compare.value


def _column(field: str) -> ColumnElement[Any]:
    """Return what a field stands for; never null, so that `not` turns it round."""
    runs, tasks = tables.runs.c, tables.tasks.c
    columns: dict[str, ColumnElement[Any]] = {
        "run": runs.run_id,
        "plan": runs.plan_name,
        "state": runs.state,
        "order_key": func.coalesce(tasks.order_key, runs.order_key, ""),
        "agent": func.coalesce(tasks.agent, ""),
        "task": func.coalesce(tasks.task_id, ""),
        "handler": func.coalesce(tasks.task, ""),
        "status": func.coalesce(tasks.state, ""),
        "error": func.coalesce(tasks.error, ""),
        "attempt": func.coalesce(tasks.attempt, 0),
    }
    return columns[field]
