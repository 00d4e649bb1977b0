"""Pauses and rulings in the projection: as events tell them, and as the journal does."""

from __future__ import annotations

from holdfast.bus.port import Record
from holdfast.coordinator.projection import (
    Projection,
    find_task,
    list_agents,
    list_pauses,
    why,
    why_task,
)
from holdfast.schemas import (
    AgentPause,
    CoordinatorJournal,
    Event,
    EventType,
    Ruling,
    RulingAction,
    TaskState,
    encode,
)
from holdfast.schemas.pauses import pause_name
from tests.unit.projection.conftest import TOPICS, OpenProjection, World, run_row, task_row

WHOLE = AgentPause("scout", None, "ann", "a bad deploy", 1_000)
KEY = AgentPause("scout", "ada", "bob", "", 2_000)


async def say(world: World, kind: EventType, pause: AgentPause) -> None:
    event = Event(f"agent/{pause.agent}", kind, pause.since_ms, None, None, None, "")
    event.pause = pause
    await world.bus.publish([Record(TOPICS.events, None, encode(event), (), 1)])


async def read(projection: Projection) -> list[tuple[str, str | None, str]]:
    found = await projection.query(list_pauses)
    return [(each.agent, each.order_key, each.actor) for each in found]


async def test_what_is_paused_and_for_how_long(world: World, opened: OpenProjection) -> None:
    projection = opened()
    await projection.start()
    await say(world, EventType.AGENT_PAUSED, KEY)
    await say(world, EventType.AGENT_PAUSED, WHOLE)
    assert await projection.catch_up()
    assert await read(projection) == [("scout", None, "ann"), ("scout", "ada", "bob")]
    await say(world, EventType.AGENT_RESUMED, WHOLE)
    assert await projection.catch_up()
    assert await read(projection) == [("scout", "ada", "bob")]
    assert await projection.query(lambda c: list_pauses(c, "other")) == []


async def test_a_rebuild_takes_pauses_from_the_journal(
    world: World, opened: OpenProjection
) -> None:
    journal = TOPICS.journal("coordinator")
    for pause in (WHOLE, KEY):
        key = f"agent/scout/{pause_name(pause.order_key)}"
        await world.put(journal, key, encode(CoordinatorJournal(pause)))
    await world.put(journal, "agent/scout/all", None)
    projection = opened()
    await projection.start()
    assert await projection.catch_up()
    assert await read(projection) == [("scout", "ada", "bob")]


async def test_why_tells_of_a_pause_and_of_a_ruling(world: World, opened: OpenProjection) -> None:
    await world.event(EventType.RUN_STARTED, run_row("r1", 1), plan='{"name":"audit"}')
    task = task_row("a", 1, TaskState.DISPATCHED)
    task.order_key = "ada"
    await world.event(EventType.TASK_DISPATCHED, None, task)
    await say(world, EventType.AGENT_PAUSED, WHOLE)
    await say(world, EventType.AGENT_PAUSED, KEY)
    projection = opened()
    await projection.start()
    assert await projection.catch_up()
    reasons = await projection.query(lambda c: why(c, "r1", 5_000))
    assert reasons is not None
    paused = [reason for reason in reasons if reason.code == "agent-paused"]
    assert [each.remedy for each in paused] == [
        "holdfast agents resume scout",
        "holdfast agents resume scout --key ada",
    ]
    assert "paused by ann since 1970-01-01 00:00:01 UTC: a bad deploy" in paused[0].text
    task = task_row("a", 2, TaskState.CANCELLING)
    task.ruling = Ruling(RulingAction.OVERRIDE, "ann", "by hand", "c1", 7)
    await world.event(EventType.TASK_CANCELLING, None, task)
    assert await projection.catch_up()
    found = await projection.query(lambda c: find_task(c, "r1", "a"))
    assert found is not None
    assert found.ruling is not None
    assert found.ruling["reason"] == "by hand"
    reasons = await projection.query(lambda c: why_task(c, "r1", "a", 5_000))
    assert reasons is not None
    assert "is to override, by ann: by hand" in reasons[0].text
    assert await projection.query(list_agents) == []
