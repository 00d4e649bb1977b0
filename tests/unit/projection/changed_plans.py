"""A plan that was changed, as the records of a coordinator tell it."""

from __future__ import annotations

from dataclasses import replace

from holdfast.schemas import (
    Event,
    EventType,
    Plan,
    PlanChange,
    PlanRevision,
    ResolvedChange,
    ResolvedPlan,
)
from tests.unit.coordinator.host import resolved
from tests.unit.projection.conftest import run_row


def begun() -> str:
    plan = Plan("audit")
    planner = plan.task("planner", "a.work")
    plan.task("late", "a.work", after=[planner])
    return resolved(plan)


def revision(version: int, *ids: str, skip: str | None = None) -> PlanRevision:
    change, settings = PlanChange(), Plan("any")
    for name in ids:
        change.task(name, "b.work")
        settings.task(name, "b.work")
    if skip is not None:
        change.skip(skip)
    tasks = ResolvedPlan.from_json(resolved(settings)).tasks if ids else {}
    text = ResolvedChange(change=change.document(), tasks=tasks).to_json()
    return PlanRevision(version, text, "planner", 2_000 + version)


def plan_changed(made: PlanRevision, row_version: int) -> Event:
    row = replace(run_row("r1", row_version), plan_version=made.version)
    event = Event("r1", EventType.PLAN_CHANGED, made.at_ms, None, row, None, "planner: changed")
    event.revision = made
    return event
