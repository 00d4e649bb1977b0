"""What a projection knows of waiting: asks, signals, and the runs that handlers started."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import and_, select
from sqlalchemy.engine import Connection, RowMapping

from holdfast.coordinator.projection import tables
from holdfast.coordinator.projection.columns import StoredPayload, payload_of
from holdfast.coordinator.projection.rows import AskState, SignalState
from holdfast.coordinator.projection.runs import started_by_ask
from holdfast.schemas import AskKind, AskRow, RunState

__all__ = ["ChildView", "SignalView", "WaitView", "list_children", "list_signals", "list_waits"]


@dataclass(frozen=True, slots=True)
class WaitView:
    """Something that a task waits for, or waited for.

    `child_state`: of the called task or the run, None where there is none, or none yet. `message`:
    of the failure that it was answered with.
    """

    run_id: str
    row: AskRow
    state: AskState
    ended_ms: int | None
    message: str
    child_state: str | None


@dataclass(frozen=True, slots=True)
class SignalView:
    """A signal. `task_id`: who took it; `message`: why it was refused; `at_ms`: since when."""

    run_id: str
    signal_id: str
    signal: str
    payload: StoredPayload
    actor: str
    state: SignalState
    task_id: str | None
    at_ms: int
    message: str


@dataclass(frozen=True, slots=True)
class ChildView:
    """A run that a handler started. `state`: None as long as no coordinator has taken it in."""

    run_id: str
    plan_name: str
    state: RunState | None
    task_id: str
    created_ms: int | None
    finished_ms: int | None


def list_waits(
    connection: Connection,
    run_id: str,
    *,
    only_open: bool = True,
    task_id: str | None = None,
    limit: int = 1_000,
) -> list[WaitView]:
    """Return what the tasks of a run wait for, the longest wait first; nothing once it has ended.

    Without `only_open` also what they waited for.
    """
    asks, tasks, runs = tables.asks, tables.tasks, tables.runs
    child_run = runs.alias("child_run")
    called = and_(tasks.c.run_id == asks.c.run_id, tasks.c.task_id == asks.c.child)
    query = (
        select(
            asks,
            tasks.c.state.label("task_state"),
            child_run.c.state.label("run_state"),
        )
        .select_from(
            asks.outerjoin(tasks, called)
            .outerjoin(child_run, child_run.c.run_id == asks.c.child)
            .outerjoin(runs, runs.c.run_id == asks.c.run_id)
        )
        .where(asks.c.run_id == run_id)
        .order_by(asks.c.asked_ms, asks.c.ask_id)
    )
    if only_open:
        query = query.where(asks.c.state == AskState.OPEN.value, runs.c.finished_ms.is_(None))
    if task_id is not None:
        query = query.where(asks.c.task_id == task_id)
    return [_wait(row) for row in connection.execute(query.limit(limit)).mappings()]


def list_signals(
    connection: Connection,
    run_id: str,
    *,
    states: tuple[SignalState, ...] = (),
    limit: int = 1_000,
) -> list[SignalView]:
    """Return the newest signals into a run, in the order in which they came to their states."""
    columns = tables.signals.c
    query = select(tables.signals).where(columns.run_id == run_id)
    if states:
        query = query.where(columns.state.in_([state.value for state in states]))
    query = query.order_by(columns.at_ms.desc(), columns.signal_key.desc()).limit(limit)
    return [_signal(row) for row in connection.execute(query).mappings()][::-1]


def list_children(connection: Connection, run_id: str, *, limit: int = 1_000) -> list[ChildView]:
    """Return the runs that handlers of a run started, and those they wait for to be taken in."""
    asks, runs = tables.asks, tables.runs
    query = (
        select(
            asks.c.child,
            asks.c.subject,
            asks.c.task_id,
            asks.c.state.label("ask_state"),
            runs.c.state,
            runs.c.created_ms,
            runs.c.finished_ms,
        )
        .select_from(asks.outerjoin(runs, started_by_ask()))
        .where(asks.c.run_id == run_id, asks.c.kind == AskKind.RUN.value, asks.c.child.is_not(None))
        .order_by(asks.c.asked_ms, asks.c.ask_id)
    )
    found = connection.execute(query.limit(limit)).mappings()
    return [
        _child(row)
        for row in found
        # One that was refused never came to be: its ask has an answer, and it has no row.
        if row["state"] is not None or row["ask_state"] == AskState.OPEN.value
    ]


def _wait(row: RowMapping) -> WaitView:
    ask = AskRow(
        task_id=row["task_id"],
        name=row["name"],
        key=row["key"],
        kind=AskKind(row["kind"]),
        subject=row["subject"],
        child=row["child"],
        until_ms=row["until_ms"],
        asked_ms=row["asked_ms"],
        schema_id=row["schema_id"],
    )
    child_state = {AskKind.CALL: row["task_state"], AskKind.RUN: row["run_state"]}.get(ask.kind)
    return WaitView(
        run_id=row["run_id"],
        row=ask,
        state=AskState(row["state"]),
        ended_ms=row["ended_ms"],
        message=row["message"],
        child_state=child_state,
    )


def _signal(row: RowMapping) -> SignalView:
    return SignalView(
        run_id=row["run_id"],
        signal_id=row["signal_id"],
        signal=row["signal"],
        payload=payload_of(row, "payload"),
        actor=row["actor"],
        state=SignalState(row["state"]),
        task_id=row["task_id"],
        at_ms=row["at_ms"],
        message=row["message"],
    )


def _child(row: RowMapping) -> ChildView:
    return ChildView(
        run_id=row["child"],
        plan_name=row["subject"],
        state=None if row["state"] is None else RunState(row["state"]),
        task_id=row["task_id"],
        created_ms=row["created_ms"],
        finished_ms=row["finished_ms"],
    )
