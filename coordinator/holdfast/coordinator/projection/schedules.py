"""Schedules in the projection: rows, and the questions about them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.engine import Connection, RowMapping

from holdfast.coordinator.projection import tables
from holdfast.schemas import (
    Firing,
    FiringCause,
    FiringOutcome,
    OverlapPolicy,
    ScheduleRow,
    ScheduleSpec,
    ScheduleState,
)

__all__ = ["ScheduleView", "find_schedule", "list_schedules", "schedule_columns"]


@dataclass(frozen=True, slots=True)
class ScheduleView:
    """A schedule as it is; `plan`: the resolved plan."""

    row: ScheduleRow
    plan: dict[str, Any] | None


def schedule_columns(row: ScheduleRow) -> dict[str, Any]:
    """Return a schedule as the table has it."""
    columns = asdict(row)
    columns["state"] = row.state.value
    columns["plan_name"] = row.spec.plan_name
    columns["spec"] = json.dumps(columns["spec"])
    columns["firings"] = json.dumps(columns["firings"])
    return columns


def find_schedule(connection: Connection, name: str) -> ScheduleView | None:
    """Return a schedule with its plan, a deleted one too."""
    schedules, plans = tables.schedules, tables.plans
    query = (
        select(schedules, plans.c.plan)
        .select_from(schedules.outerjoin(plans, plans.c.run_id == "schedule/" + schedules.c.name))
        .where(schedules.c.name == name)
    )
    found = connection.execute(query).mappings().first()
    if found is None:
        return None
    plan = found["plan"]
    return ScheduleView(_row(found), None if plan is None else json.loads(plan))


def list_schedules(connection: Connection, *, deleted: bool = False) -> list[ScheduleRow]:
    """Return all schedules by name; those that were deleted only if so asked."""
    schedules = tables.schedules
    query = select(schedules).order_by(schedules.c.name)
    if not deleted:
        query = query.where(schedules.c.state != ScheduleState.DELETED.value)
    return [_row(found) for found in connection.execute(query).mappings()]


def _row(found: RowMapping) -> ScheduleRow:
    spec = json.loads(found["spec"])
    spec["overlap"] = OverlapPolicy(spec["overlap"])
    return ScheduleRow(
        name=found["name"],
        version=found["version"],
        revision=found["revision"],
        state=ScheduleState(found["state"]),
        note=found["note"],
        spec=ScheduleSpec(**spec),
        next_ms=found["next_ms"],
        open_runs=found["open_runs"],
        fired=found["fired"],
        skipped=found["skipped"],
        missed=found["missed"],
        firings=[_firing(each) for each in json.loads(found["firings"])],
        created_ms=found["created_ms"],
        changed_ms=found["changed_ms"],
        changed_by=found["changed_by"],
    )


def _firing(found: dict[str, Any]) -> Firing:
    causes = {
        "cause": FiringCause(found["cause"]),
        "outcome": FiringOutcome(found["outcome"]),
    }
    return Firing(**{**found, **causes})
