"""Every version of a run's plan, as the projection keeps it."""

from __future__ import annotations

from dataclasses import replace

from holdfast.bus.topics import Topics
from holdfast.coordinator.projection import (
    Projection,
    find_plan,
    find_run,
    list_plan_versions,
)
from holdfast.schemas import (
    CoordinatorJournal,
    EventType,
    PlanRevision,
    encode,
)
from tests.unit.projection.changed_plans import begun, plan_changed, revision
from tests.unit.projection.conftest import OpenProjection, World, run_row

TOPICS = Topics("test")


async def changed(world: World, made: PlanRevision, row_version: int) -> None:
    await world.put(TOPICS.events, "r1", encode(plan_changed(made, row_version)))


async def versions(projection: Projection) -> list[tuple[int, str | None]]:
    found = await projection.query(lambda c: list_plan_versions(c, "r1"))
    return [(view.version, view.task_id) for view in found]


async def test_every_version_is_kept_and_can_be_read(world: World, opened: OpenProjection) -> None:
    projection = opened()
    await projection.start()
    await world.event(EventType.RUN_STARTED, run_row("r1", 1), plan=begun())
    await changed(world, revision(2, "x", "y"), 2)
    await changed(world, revision(3, "z", skip="late"), 3)
    assert await projection.catch_up()
    assert await versions(projection) == [(1, None), (2, "planner"), (3, "planner")]
    first = await projection.query(lambda c: find_plan(c, "r1", 1))
    second = await projection.query(lambda c: find_plan(c, "r1", 2))
    newest = await projection.query(lambda c: find_plan(c, "r1"))
    assert first is not None
    assert second is not None
    assert newest is not None
    assert list(first.plan.tasks) == ["planner", "late"]
    assert list(second.plan.tasks) == ["planner", "late", "x", "y"]
    assert second.plan.tasks["late"].dropped is None
    assert newest.plan.tasks["late"].dropped == "skip"
    assert newest.plan.tasks["z"].added_by == "planner"
    assert await projection.query(lambda c: find_plan(c, "r1", 4)) is None
    assert await projection.query(lambda c: find_plan(c, "r2")) is None
    run = await projection.query(lambda c: find_run(c, "r1"))
    assert run is not None
    assert run.plan_version == 3
    assert run.plan is not None
    assert list(run.plan["plan"]["tasks"]) == ["planner", "late", "x", "y", "z"]


async def test_a_rebuild_takes_the_versions_from_the_journal(
    world: World, opened: OpenProjection
) -> None:
    row = replace(run_row("r1", 7), plan_version=2)
    await world.journal(row, "")
    for made in (PlanRevision(1, begun(), "", 1_000), revision(2, "x")):
        value = encode(CoordinatorJournal(made))
        await world.put(TOPICS.journal("coordinator"), f"run/r1/plan/{made.version}", value)
    projection = opened()
    await projection.start()
    assert await projection.catch_up()
    assert await versions(projection) == [(1, None), (2, "planner")]


async def test_a_run_id_that_is_used_again_begins_with_its_first_version(
    world: World, opened: OpenProjection
) -> None:
    projection = opened()
    await projection.start()
    await world.event(EventType.RUN_STARTED, run_row("r1", 1), plan=begun())
    await changed(world, revision(2, "x"), 2)
    assert await projection.catch_up()
    await world.event(EventType.RUN_STARTED, run_row("r1", 3), plan=begun())
    await changed(world, revision(2, "other"), 4)
    assert await projection.catch_up()
    newest = await projection.query(lambda c: find_plan(c, "r1"))
    assert newest is not None
    assert list(newest.plan.tasks) == ["planner", "late", "other"]
