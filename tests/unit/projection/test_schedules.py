"""Schedules, in whatever order the projection hears of them."""

from __future__ import annotations

from dataclasses import replace

from holdfast.bus.port import Record, TopicPartition
from holdfast.coordinator.projection import (
    Projection,
    find_schedule,
    list_history,
    list_schedules,
)
from holdfast.schemas import (
    CoordinatorJournal,
    Event,
    EventType,
    Firing,
    FiringCause,
    FiringOutcome,
    Schedule,
    ScheduleAction,
    ScheduleCommand,
    ScheduleEntry,
    ScheduleRow,
    ScheduleState,
    encode,
)
from tests.unit.projection.conftest import TOPICS, OpenProjection, World

SPEC = Schedule(cron="0 9 * * *", timezone="Europe/Berlin", overlap="queue").spec("report")
FIRING = Firing(5, "nightly-x", FiringCause.TIME, FiringOutcome.STARTED, 6)
KEY = "schedule/nightly"


def row(version: int, **given: object) -> ScheduleRow:
    made = ScheduleRow(
        "nightly", version, 1, ScheduleState.ACTIVE, "", SPEC, 9, 0, 0, 0, 0, [FIRING], 1, 1, "ada"
    )
    return replace(made, **given)  # type: ignore[arg-type]


async def say(
    world: World, kind: EventType, schedule: ScheduleRow, plan: str | None = None
) -> None:
    event = Event(KEY, kind, 1, None, None, None, "said", plan, schedule=schedule)
    event.schedule_command = ScheduleCommand("c", ScheduleAction.PAUSE, "ada", "why")
    await world.bus.publish([Record(TOPICS.events, KEY.encode(), encode(event))])


async def journal(world: World, entry: ScheduleEntry | None) -> None:
    value = None if entry is None else encode(CoordinatorJournal(entry))
    await world.bus.publish([Record(TOPICS.journal("coordinator"), KEY.encode(), value, (), 0)])


async def caught_up(opened: OpenProjection) -> Projection:
    projection = opened()
    await projection.start()
    assert await projection.catch_up()
    return projection


async def test_the_newest_row_counts(world: World, opened: OpenProjection) -> None:
    await say(world, EventType.SCHEDULE_CREATED, row(1), '{"plan": 1}')
    paused = row(3, state=ScheduleState.PAUSED, note="audit")
    await say(world, EventType.SCHEDULE_PAUSED, paused)
    await say(world, EventType.SCHEDULE_REFUSED, row(2))
    projection = await caught_up(opened)
    found = await projection.query(lambda c: find_schedule(c, "nightly"))
    assert found is not None
    assert found.row == paused, "whole: spec, firings and all"
    assert found.plan == {"plan": 1}
    entries = await projection.query(lambda c: list_history(c, KEY))
    assert [entry.type for entry in entries] == [
        "schedule.created",
        "schedule.paused",
        "schedule.refused",
    ]
    assert entries[1].command is not None
    assert entries[1].command["actor"] == "ada"
    assert await projection.query(lambda c: find_schedule(c, "other")) is None


async def test_one_that_was_deleted_and_created_anew(world: World, opened: OpenProjection) -> None:
    await say(world, EventType.SCHEDULE_CREATED, row(1))
    await say(world, EventType.SCHEDULE_DELETED, row(9, state=ScheduleState.DELETED))
    projection = await caught_up(opened)
    assert await projection.query(list_schedules) == []
    gone = await projection.query(lambda c: list_schedules(c, deleted=True))
    assert [each.state for each in gone] == ["deleted"]
    anew = row(1, created_ms=99)
    await say(world, EventType.SCHEDULE_CREATED, anew)
    assert await projection.catch_up()
    assert await projection.query(list_schedules) == [anew]


async def test_a_rebuild_reads_the_journal_first(world: World, opened: OpenProjection) -> None:
    await say(world, EventType.SCHEDULE_CREATED, row(1))
    await say(world, EventType.SCHEDULE_FIRED, row(2))
    await journal(world, ScheduleEntry(row(2), "{}", None))
    # The events are gone; the journal still has it.
    places = [TopicPartition(TOPICS.events, number) for number in range(2)]
    await world.bus.purge(await world.bus.end_offsets(places))
    projection = await caught_up(opened)
    assert await projection.query(list_schedules) == [row(2)]


async def test_what_the_journal_has_dropped_is_gone(world: World, opened: OpenProjection) -> None:
    await journal(world, ScheduleEntry(row(2), "{}", None))
    await journal(world, None)
    projection = await caught_up(opened)
    assert await projection.query(list_schedules) == []
