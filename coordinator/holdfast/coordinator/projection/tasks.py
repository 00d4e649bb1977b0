"""What a projection knows of tasks: those of plans, items of maps, called ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Select, and_, func, select
from sqlalchemy.engine import Connection, RowMapping

from holdfast.coordinator.projection import tables
from holdfast.coordinator.projection.columns import Json, StoredPayload, json_of, payload_of
from holdfast.coordinator.projection.plans import plan_text
from holdfast.schemas import AskKind, TaskState
from holdfast.schemas.plan_checks import emitter_of
from holdfast.schemas.plan_settings import UNDOING, step_undoing_id

__all__ = ["TaskView", "find_task", "list_tasks"]


_UNDOES_STEP = f"{UNDOING}~"
_ENDS = (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.SKIPPED)


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task as it is; `steps` as in `StepSummary`. `total`, `done`, `failed`: items of a map; of a
    loop (`is_loop`) `total` is how many rounds there may be at most.

    `caller`: the task that called it; None: it is one of the plan. `child`: the run that works it,
    where it is a plan within the plan. `ruling` as in `Ruling`: an operator skipped it, or gave its
    output. `arrives_from`: of a map, the task that is still at work and may hand out more items.
    """

    run_id: str
    task_id: str
    agent: str
    task: str
    state: TaskState
    attempt: int
    input: StoredPayload
    output: StoredPayload
    failure: Json | None
    steps: list[Json]
    resumes: int
    instance: str
    build_id: str
    order_key: str | None
    dispatched_ms: int | None
    started_ms: int | None
    finished_ms: int | None
    retry_ms: int | None
    total: int
    done: int
    failed: int
    caller: str | None = None
    child: str | None = None
    ruling: Json | None = None
    is_loop: bool = False
    arrives_from: str | None = None
    undoes: str | None = None
    """Of a task that undoes another, or a step of one: which, for people."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a plan says of tasks that are worked in parts."""

    loops: frozenset[str] = frozenset()
    arriving: Mapping[str, str] = field(default_factory=dict)
    undone: Mapping[str, str] = field(default_factory=dict)
    """Of tasks that undo steps, by id: which one, for people."""


def list_tasks(
    connection: Connection,
    run_id: str,
    *,
    states: tuple[TaskState, ...] = (),
    items_of: str | None = None,
    limit: int = 1_000,
) -> list[TaskView]:
    """Return the tasks of a run that have a row, in order.

    The items of a map, and the rounds of a loop, only with `items_of`.
    """
    tasks = tables.tasks.c
    query = _task_query(run_id)
    if states:
        query = query.where(tasks.state.in_([state.value for state in states]))
    # Ids in plans hold no dot: one with a dot is an item of a map, or a round of a loop.
    if items_of is None:
        query = query.where(tasks.task_id.not_like("%.%"))
        # One that was never handed out, as it was skipped, stands where it ended.
        begun = func.coalesce(tasks.dispatched_ms, tasks.finished_ms)
        query = query.order_by(begun, tasks.task_id)
    else:
        query = query.where(tasks.task_id.like(f"{items_of}.%"))
        query = query.order_by(func.length(tasks.task_id), tasks.task_id)
    rows = connection.execute(query.limit(limit)).mappings().all()
    parts = _all_parts(connection, run_id, rows)
    return [_task(row, parts) for row in rows]


def find_task(connection: Connection, run_id: str, task_id: str) -> TaskView | None:
    """Return a task, an item or a called task, if it has a row."""
    query = _task_query(run_id).where(tables.tasks.c.task_id == task_id)
    row = connection.execute(query).mappings().first()
    if row is None:
        return None
    return _task(row, _all_parts(connection, run_id, [row]))


def _all_parts(connection: Connection, run_id: str, rows: Sequence[RowMapping]) -> _Parts:
    parts = _parts(connection, run_id) if any(row["total"] for row in rows) else _Parts()
    if not any(row["task_id"].startswith(_UNDOES_STEP) for row in rows):
        return parts
    return replace(parts, undone=_undone_steps(connection, run_id))


def _undone_steps(connection: Connection, run_id: str) -> dict[str, str]:
    tasks = tables.tasks.c
    query = select(tasks.task_id, tasks.steps).where(tasks.run_id == run_id, tasks.steps != "[]")
    found: dict[str, str] = {}
    for task_id, steps in connection.execute(query):
        for step in json_of(steps):
            name, key = step["name"], step["key"]
            told = f"step {name!r}" + (f" (key {key!r})" if key else "") + f" of {task_id!r}"
            found[step_undoing_id(task_id, name, key)] = told
    return found


def _parts(connection: Connection, run_id: str) -> _Parts:
    plan: Json = json_of(plan_text(connection, run_id)) or {}
    nodes: Json = plan.get("plan", {}).get("tasks", {})
    loops = frozenset(name for name, node in nodes.items() if node.get("repeat"))
    arriving = {
        name: emitter
        for name, node in nodes.items()
        if node.get("map") and (emitter := emitter_of(node["map"].get("over"))) is not None
    }
    if not arriving:
        return _Parts(loops)
    tasks = tables.tasks.c
    at_work = select(tasks.task_id).where(
        tasks.run_id == run_id,
        tasks.task_id.in_(sorted(set(arriving.values()))),
        tasks.state.not_in([state.value for state in _ENDS]),
    )
    left = set(connection.execute(at_work).scalars())
    return _Parts(loops, {name: from_ for name, from_ in arriving.items() if from_ in left})


def _task_query(run_id: str) -> Select[Any]:
    tasks, asks = tables.tasks, tables.asks
    called = and_(
        asks.c.run_id == tasks.c.run_id,
        asks.c.child == tasks.c.task_id,
        asks.c.kind == AskKind.CALL.value,
    )
    return (
        select(tasks, asks.c.task_id.label("caller"))
        .select_from(tasks.outerjoin(asks, called))
        .where(tasks.c.run_id == run_id)
    )


def _undone(task_id: str, parts: _Parts) -> str | None:
    if not task_id.startswith(UNDOING):
        return None
    return parts.undone.get(task_id, repr(task_id.removeprefix(UNDOING)))


def _task(row: RowMapping, parts: _Parts) -> TaskView:
    return TaskView(
        run_id=row["run_id"],
        task_id=row["task_id"],
        agent=row["agent"],
        task=row["task"],
        state=TaskState(row["state"]),
        attempt=row["attempt"],
        input=payload_of(row, "input"),
        output=payload_of(row, "output"),
        failure=json_of(row["failure"]),
        steps=json_of(row["steps"]),
        resumes=row["resumes"],
        instance=row["instance"],
        build_id=row["build_id"],
        order_key=row["order_key"],
        dispatched_ms=row["dispatched_ms"],
        started_ms=row["started_ms"],
        finished_ms=row["finished_ms"],
        retry_ms=row["retry_ms"],
        total=row["total"],
        done=row["done"],
        failed=row["failed"],
        caller=row["caller"],
        child=row["child"],
        ruling=json_of(row["ruling"]),
        is_loop=row["task_id"] in parts.loops,
        arrives_from=parts.arriving.get(row["task_id"]),
        undoes=_undone(row["task_id"], parts),
    )
