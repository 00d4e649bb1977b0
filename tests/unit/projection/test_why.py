"""Each way to stand still has a reason of its own, and a remedy where there is one."""

from __future__ import annotations

from holdfast.coordinator.projection import Reason, why
from holdfast.schemas import (
    DeadLetter,
    DeadLetterReason,
    EventType,
    RunState,
    TaskState,
    encode,
)
from tests.unit.projection.conftest import (
    TOPICS,
    OpenProjection,
    World,
    manifest,
    run_row,
    task_row,
)

NOW_MS = 10_000


async def reasons(opened: OpenProjection, now_ms: int = NOW_MS) -> dict[str, Reason]:
    projection = opened()
    await projection.start()
    assert await projection.catch_up()
    found = await projection.query(lambda c: why(c, "r1", now_ms))
    assert found is not None
    return {reason.code: reason for reason in found}


async def test_a_task_whose_agent_is_not_running(world: World, opened: OpenProjection) -> None:
    await world.event(EventType.RUN_STARTED, run_row("r1", 1))
    await world.event(EventType.TASK_DISPATCHED, None, task_row("a", 1, TaskState.DISPATCHED))
    found = await reasons(opened)
    assert "no instance" in found["agent-down"].text
    assert found["agent-down"].remedy == "start it: holdfast agent MODULE:scout"


async def test_a_task_that_is_being_worked(world: World, opened: OpenProjection) -> None:
    await world.event(EventType.RUN_STARTED, run_row("r1", 1))
    await world.event(EventType.TASK_DISPATCHED, None, task_row("a", 1, TaskState.DISPATCHED))
    await world.put(TOPICS.agents, "scout/a", encode(manifest("scout", "a", NOW_MS)))
    found = await reasons(opened)
    assert "with agent scout" in found["dispatched"].text


async def test_a_retry_names_the_failure_and_the_time(world: World, opened: OpenProjection) -> None:
    await world.event(EventType.RUN_STARTED, run_row("r1", 1))
    await world.event(EventType.TASK_RETRYING, None, task_row("a", 1, TaskState.RETRYING))
    found = await reasons(opened, now_ms=2_000)
    assert "due in 3 s: OSError: no disk" in found["retrying"].text


async def test_a_dead_letter_names_the_command(world: World, opened: OpenProjection) -> None:
    letter = DeadLetter(
        "d1", DeadLetterReason.EXHAUSTED, None, "r1", "a", "scout", "list", 3, None, None, 1_000
    )
    await world.event(EventType.RUN_WAITING, run_row("r1", 1, RunState.WAITING))
    await world.event(EventType.TASK_DEAD, None, task_row("a", 1, TaskState.DEAD, 3))
    await world.put(TOPICS.dead_letters, "r1", encode(letter))
    found = await reasons(opened)
    assert found["dead-letter"].remedy == "holdfast dead-letters replay d1"
    assert "(exhausted)" in found["dead-letter"].text


async def test_paused_and_pending(world: World, opened: OpenProjection) -> None:
    plan = '{"version":1,"plan":{"name":"audit","tasks":{"a":{},"b":{}}},"tasks":{}}'
    await world.event(EventType.RUN_PAUSED, run_row("r1", 1, RunState.PAUSED), plan=plan)
    await world.event(EventType.TASK_DISPATCHED, None, task_row("a", 1, TaskState.DISPATCHED))
    found = await reasons(opened)
    assert found["paused"].remedy == "holdfast run resume r1"
    assert found["pending"].text == "b has not begun: they wait for a"


async def test_a_run_that_has_ended(world: World, opened: OpenProjection) -> None:
    await world.event(EventType.RUN_SUCCEEDED, run_row("r1", 2, RunState.SUCCEEDED))
    assert "succeeded" in await reasons(opened)
