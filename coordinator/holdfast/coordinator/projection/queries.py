"""The questions that a projection answers. Each takes a connection (see `Projection.query`).

Views are values; payloads stay undecoded (`StoredPayload`), times are wall time in milliseconds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.engine import Connection, RowMapping

from holdfast.coordinator.projection import tables
from holdfast.coordinator.projection.plans import plan_text
from holdfast.schemas import AskKind, BlobReference, Payload, RunState, TaskState

__all__ = [
    "AgentView",
    "DeadLetterView",
    "HistoryEntry",
    "RunFilter",
    "RunView",
    "StoredPayload",
    "TaskView",
    "find_dead_letter",
    "find_run",
    "find_task",
    "list_agents",
    "list_dead_letters",
    "list_history",
    "list_runs",
    "list_tasks",
    "payload_of",
    "started_by_ask",
]

Json = dict[str, Any]
StoredPayload = Payload
PAGE = 50


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


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task as it is; `steps` as in `StepSummary`. `total`, `done`, `failed`: items of a map.

    `caller`: the task that called it; None: it is one of the plan. `child`: the run that works it,
    where it is a plan within the plan. `ruling` as in `Ruling`: an operator skipped it, or gave its
    output.
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


@dataclass(frozen=True, slots=True)
class AgentView:
    """One instance of an agent; `tasks` as in `TaskManifest`, `breakers` as in `BreakerRow`."""

    agent: str
    instance: str
    process_id: str
    agent_version: str
    build_id: str
    tasks: list[Json]
    concurrency: int
    started_ms: int
    seen_ms: int
    breakers: list[Json]


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


def list_tasks(
    connection: Connection,
    run_id: str,
    *,
    states: tuple[TaskState, ...] = (),
    items_of: str | None = None,
    limit: int = 1_000,
) -> list[TaskView]:
    """Return the tasks of a run that have a row; a map's items only with `items_of`, in order."""
    tasks = tables.tasks.c
    query = _task_query(run_id)
    if states:
        query = query.where(tasks.state.in_([state.value for state in states]))
    # Ids in plans hold no dot: one with a dot is an item of a map.
    if items_of is None:
        query = query.where(tasks.task_id.not_like("%.%"))
        query = query.order_by(tasks.dispatched_ms, tasks.task_id)
    else:
        query = query.where(tasks.task_id.like(f"{items_of}.%"))
        query = query.order_by(func.length(tasks.task_id), tasks.task_id)
    return [_task(row) for row in connection.execute(query.limit(limit)).mappings()]


def find_task(connection: Connection, run_id: str, task_id: str) -> TaskView | None:
    """Return a task, an item or a called task, if it has a row."""
    query = _task_query(run_id).where(tables.tasks.c.task_id == task_id)
    row = connection.execute(query).mappings().first()
    return None if row is None else _task(row)


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


def list_agents(connection: Connection, agent: str | None = None) -> list[AgentView]:
    """Return every instance that has not taken its leave, by agent and instance."""
    columns = tables.agents.c
    query = select(tables.agents).order_by(columns.agent, columns.instance)
    if agent is not None:
        query = query.where(columns.agent == agent)
    return [_agent(row) for row in connection.execute(query).mappings()]


# --- rows to views -----------------------------------------------------------------------------


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


def payload_of(row: RowMapping, name: str) -> StoredPayload:
    """Return the payload in the columns that `name` begins."""
    if row[f"{name}_blob"] is not None:
        return BlobReference(row[f"{name}_blob"], row[f"{name}_blob_bytes"])
    found = row[name]
    return None if found is None else bytes(found)


def _json(text: str | None) -> Any:
    return None if text is None else json.loads(text)


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
        failure=_json(row["failure"]),
        order_key=row["order_key"],
        origin=row["origin"],
        submitted_by=row["submitted_by"],
        created_ms=row["created_ms"],
        deadline_ms=row["deadline_ms"],
        finished_ms=row["finished_ms"],
        plan=_json(plan),
        plan_version=row["plan_version"],
        successor=row["successor"],
        predecessor=row["predecessor"],
        tasks_by_state=tasks_by_state,
        parent=parent,
    )


def _task(row: RowMapping) -> TaskView:
    return TaskView(
        run_id=row["run_id"],
        task_id=row["task_id"],
        agent=row["agent"],
        task=row["task"],
        state=TaskState(row["state"]),
        attempt=row["attempt"],
        input=payload_of(row, "input"),
        output=payload_of(row, "output"),
        failure=_json(row["failure"]),
        steps=_json(row["steps"]),
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
        ruling=_json(row["ruling"]),
    )


def _history(row: RowMapping) -> HistoryEntry:
    documents = {name: _json(row[name]) for name in ("command", "ask", "signal")}
    return HistoryEntry(**{**row, **documents})


def _dead_letter(row: RowMapping) -> DeadLetterView:
    return DeadLetterView(
        dead_letter_id=row["dead_letter_id"],
        reason=row["reason"],
        failure=_json(row["failure"]),
        run_id=row["run_id"],
        task_id=row["task_id"],
        agent=row["agent"],
        task=row["task"],
        attempt=row["attempt"],
        input=payload_of(row, "input"),
        source=_json(row["source"]),
        at_ms=row["at_ms"],
        run_state=row["run_state"],
        task_state=row["task_state"],
        task_attempt=row["task_attempt"],
    )


def _agent(row: RowMapping) -> AgentView:
    return AgentView(
        agent=row["agent"],
        instance=row["instance"],
        process_id=row["process_id"],
        agent_version=row["agent_version"],
        build_id=row["build_id"],
        tasks=_json(row["tasks"]),
        concurrency=row["concurrency"],
        started_ms=row["started_ms"],
        seen_ms=row["seen_ms"],
        breakers=_json(row["breakers"]),
    )
