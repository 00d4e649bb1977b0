"""The plans of runs, each version of them: what was submitted, and the changes since."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.engine import Connection

from holdfast.coordinator.projection import tables
from holdfast.schemas import PlanRevision, ResolvedPlan, changed_plan

__all__ = ["PlanVersionView", "find_plan", "list_plan_versions", "plan_text"]


@dataclass(frozen=True, slots=True)
class PlanVersionView:
    """One version. `task_id`: the task that made it; None: it was submitted. `change` as in
    `PlanChangeDocument`."""

    version: int
    task_id: str | None
    at_ms: int
    change: dict[str, Any] | None


def list_plan_versions(connection: Connection, run_id: str) -> list[PlanVersionView]:
    """Return all versions of a run's plan, in order; [] where its first one is not known."""
    runs, plans = tables.runs.c, tables.plans.c
    query = (
        select(runs.created_ms)
        .select_from(tables.runs.join(tables.plans, plans.run_id == runs.run_id))
        .where(runs.run_id == run_id)
    )
    created_ms = connection.execute(query).scalar()
    if created_ms is None:
        return []
    return [
        PlanVersionView(1, None, created_ms, None),
        *(
            PlanVersionView(r.version, r.task_id, r.at_ms, json.loads(r.change)["change"])
            for r in _revisions(connection, run_id)
        ),
    ]


def find_plan(
    connection: Connection, run_id: str, version: int | None = None
) -> ResolvedPlan | None:
    """Return a version of a run's plan, by default the newest; None where it is not known.

    Raises `PlanError` for one that another version of Holdfast wrote.
    """
    source = _source(connection, run_id)
    if source is None:
        return None
    revisions = _revisions(connection, run_id)
    if version is not None:
        if not 1 <= version <= 1 + len(revisions):
            return None
        revisions = revisions[: version - 1]
    return changed_plan(ResolvedPlan.from_json(source), revisions)


def plan_text(connection: Connection, run_id: str) -> str | None:
    """Return the newest version as JSON; None where it is not known."""
    if not _revisions(connection, run_id):
        return _source(connection, run_id)
    plan = find_plan(connection, run_id)
    return None if plan is None else plan.to_json()


def _source(connection: Connection, run_id: str) -> str | None:
    query = select(tables.plans.c.plan).where(tables.plans.c.run_id == run_id)
    found: str | None = connection.execute(query).scalar()
    return found


def _revisions(connection: Connection, run_id: str) -> list[PlanRevision]:
    changes = tables.plan_changes.c
    query = select(tables.plan_changes).where(changes.run_id == run_id).order_by(changes.version)
    rows = connection.execute(query).mappings()
    return [PlanRevision(r["version"], r["change"], r["task_id"], r["at_ms"]) for r in rows]
