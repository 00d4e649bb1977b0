"""The database equals what the newest rows say, whatever is repeated, reordered or restarted."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from sqlalchemy.engine import Connection

from holdfast.bus.errors import TopicMissing
from holdfast.bus.port import Environment, Position, Record, TopicPartition
from holdfast.coordinator.projection import (
    Projection,
    RunFilter,
    RunView,
    find_run,
    list_agents,
    list_dead_letters,
    list_history,
    list_runs,
    list_tasks,
    tables,
)
from holdfast.coordinator.projection import projection as projection_module
from holdfast.coordinator.projection.rows import Batch
from holdfast.schemas import (
    ConfigurationError,
    DeadLetter,
    DeadLetterReason,
    EventType,
    RunState,
    TaskState,
    encode,
    encode_json,
)
from tests.unit.projection.conftest import (
    PARTITIONS,
    TOPICS,
    OpenProjection,
    World,
    manifest,
    run_row,
    task_row,
)


async def read_run(projection: Projection, run_id: str = "r1") -> RunView | None:
    return await projection.query(lambda c: find_run(c, run_id))


async def test_rows_history_and_plan_are_read_back(world: World, opened: OpenProjection) -> None:
    await world.event(EventType.RUN_STARTED, run_row("r1", 1), plan='{"name":"audit"}')
    await world.event(EventType.TASK_DISPATCHED, None, task_row("a", 1, TaskState.DISPATCHED))
    await world.event(EventType.RUN_SUCCEEDED, run_row("r1", 2, RunState.SUCCEEDED))
    projection = opened()
    await projection.start()
    assert await projection.catch_up()
    run = await read_run(projection)
    assert run is not None
    assert (run.state, run.output, run.plan) == (
        RunState.SUCCEEDED,
        encode_json("done"),
        {"name": "audit"},
    )
    assert run.tasks_by_state == {"dispatched": 1}
    entries = await projection.query(lambda c: list_history(c, "r1"))
    assert [entry.type for entry in entries] == ["run.started", "task.dispatched", "run.succeeded"]
    assert [entry.task_id for entry in entries] == [None, "a", None]


async def test_an_older_row_never_replaces_a_newer_one(
    world: World, opened: OpenProjection
) -> None:
    projection = opened()
    await projection.start()
    await world.event(EventType.RUN_SUCCEEDED, run_row("r1", 5, RunState.SUCCEEDED))
    assert await projection.catch_up()
    await world.event(EventType.RUN_STARTED, run_row("r1", 1))
    assert await projection.catch_up()
    run = await read_run(projection)
    assert run is not None
    assert run.state is RunState.SUCCEEDED


@pytest.mark.parametrize("seed", range(8))
async def test_any_cut_into_restarts_gives_the_same_rows(
    world: World, opened: OpenProjection, seed: int
) -> None:
    print("seed", seed)
    draw = random.Random(seed)
    newest: dict[str, int] = {}
    projection = opened()
    await projection.start()
    for _ in range(60):
        run_id = draw.choice(["r1", "r2", "r3"])
        version = max(1, newest.get(run_id, 0) + draw.choice([1, 1, 1, 0, -2]))  # repeated, late
        newest[run_id] = max(version, newest.get(run_id, 0))
        row = run_row(run_id, version)
        row.submitted_by = f"version {version}"
        partition = int(run_id[1]) % PARTITIONS
        await world.event(EventType.RUN_STARTED, row, run_id=run_id, partition=partition)
        if draw.random() < 0.3:
            await projection.catch_up()
        if draw.random() < 0.2:
            await projection.close()
            projection = opened()
            await projection.start()
    assert await projection.catch_up()
    found = await projection.query(list_runs)
    assert {run.run_id: run.submitted_by for run in found} == {
        run_id: f"version {version}" for run_id, version in newest.items()
    }
    counts = [len(await projection.query(lambda c, r=r: list_history(c, r))) for r in newest]
    assert sum(counts) == 60  # each event once


async def test_two_followers_of_one_file_count_each_record_once(
    world: World, opened: OpenProjection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection_module, "BATCH_RECORDS", 1)
    one, two = opened(), opened()
    await one.start()
    await two.start()
    await world.put(TOPICS.agents, "scout/a", encode(manifest("scout", "a")))
    assert await one.catch_up()
    await world.put(TOPICS.agents, "scout/a", None)
    assert await one.catch_up()
    # It reads the manifest after the other has read that it is gone.
    assert await two.catch_up({TopicPartition(TOPICS.agents, 0): 1})
    assert await two.query(list_agents) == []


async def test_what_could_not_be_written_is_not_passed_over(
    world: World, opened: OpenProjection, monkeypatch: pytest.MonkeyPatch
) -> None:
    projection = opened()
    await projection.start()
    await world.event(EventType.RUN_STARTED, run_row("r1", 1))
    write, faults = projection_module._write_batch, [ConfigurationError("disk full")]

    def failing(connection: Connection, batch: Batch) -> None:
        if faults:
            raise faults.pop()
        write(connection, batch)

    monkeypatch.setattr(projection_module, "_write_batch", failing)
    with pytest.raises(ConfigurationError):
        await projection.catch_up()
    await world.event(EventType.RUN_STARTED, run_row("r2", 1), run_id="r2")
    assert await projection.catch_up()
    assert {run.run_id for run in await projection.query(list_runs)} == {"r1", "r2"}


async def test_a_follower_whose_database_was_begun_anew_by_another_leaves_no_gap(
    world: World, opened: OpenProjection
) -> None:
    one = opened()
    await one.start()
    await world.event(EventType.RUN_STARTED, run_row("r1", 1))
    assert await one.catch_up()
    # Another process found reason to begin anew, and has not read anything yet.
    source = f"{world.bus.url} {TOPICS.namespace}"
    tables.prepare_database(one.engine, source, anew=True)
    await world.event(EventType.RUN_STARTED, run_row("r2", 1), run_id="r2")
    assert await one.catch_up()
    assert {run.run_id for run in await one.query(list_runs)} == {"r1", "r2"}


async def test_only_the_newest_dead_letter_of_a_task_is_open(
    world: World, opened: OpenProjection
) -> None:
    await world.event(EventType.TASK_DEAD, task=task_row("list", 1, TaskState.DEAD, attempt=6))
    for attempt in (3, 6):
        letter = DeadLetter(
            f"r1/list/{attempt}",
            DeadLetterReason.EXHAUSTED,
            None,
            "r1",
            "list",
            "scout",
            "list",
            attempt,
            None,
            None,
            attempt,
        )
        await world.put(TOPICS.dead_letters, "r1", encode(letter))
    projection = opened()
    await projection.start()
    assert await projection.catch_up()
    found = await projection.query(lambda c: list_dead_letters(c, only_open=True))
    assert [each.dead_letter_id for each in found] == ["r1/list/6"]
    both = await projection.query(list_dead_letters)
    assert [(each.attempt, each.open) for each in both] == [(6, True), (3, False)]


async def test_a_new_database_takes_what_only_the_journal_still_holds(
    world: World, opened: OpenProjection
) -> None:
    await world.journal(run_row("old", 7), plan='{"name":"audit"}')
    await world.journal(run_row("r1", 3))
    await world.event(EventType.RUN_STARTED, run_row("r1", 2))  # older than the journal
    projection = opened()
    await projection.start()
    assert await projection.catch_up()
    old, r1 = await read_run(projection, "old"), await read_run(projection)
    assert old is not None
    assert old.plan == {"name": "audit"}
    assert r1 is not None


async def test_away_for_longer_than_the_retention(world: World, opened: OpenProjection) -> None:
    projection = opened()
    await projection.start()
    for version in (1, 2, 3):
        await world.event(EventType.RUN_STARTED, run_row("r1", version))
    await world.journal(run_row("r1", 3))
    await world.bus.purge({TopicPartition(TOPICS.events, 0): 3})
    assert await projection.catch_up()
    assert await read_run(projection) is not None


async def test_a_bus_that_was_begun_anew_begins_the_projection_anew(
    world: World, opened: OpenProjection
) -> None:
    await world.event(EventType.RUN_STARTED, run_row("gone", 1), run_id="gone")
    projection = opened()
    await projection.start()
    assert await projection.catch_up()
    await projection.close()
    world.place.broker.topics.clear()
    world.place.broker.logs.clear()
    await world.create()
    again = opened()
    await again.start()
    assert await again.query(list_runs) == []


async def test_anew_is_noticed_when_the_new_log_is_as_long(
    world: World, opened: OpenProjection
) -> None:
    await world.event(EventType.RUN_STARTED, run_row("gone", 1), run_id="gone")
    projection = opened()
    await projection.start()
    assert await projection.catch_up()
    await projection.close()
    (old,) = world.place.records(TOPICS.events, 0)
    world.place.broker.topics.clear()
    world.place.broker.logs.clear()
    await world.create()
    await world.event(EventType.RUN_STARTED, run_row("new", 1), run_id="new")
    (entry,) = world.place.broker.logs[TopicPartition(TOPICS.events, 0)].archive
    assert entry.record is not None
    entry.record = entry.record._replace(timestamp_ms=old.timestamp_ms + 1)
    again = opened()
    await again.start()
    assert await again.catch_up()
    assert [run.run_id for run in await again.query(list_runs)] == ["new"]


async def test_a_read_waits_for_the_row_that_a_write_caused(
    world: World, opened: OpenProjection
) -> None:
    projection = opened()
    await projection.start()
    following = asyncio.create_task(projection.follow())
    cause = Position(TOPICS.coordinator, 0, 0)
    waiting = asyncio.create_task(projection.wait_for(cause))
    await asyncio.sleep(0)
    await world.event(EventType.RUN_STARTED, run_row("r1", 1))
    assert await waiting is True
    assert await read_run(projection) is not None
    never = Position(TOPICS.coordinator, 0, 99)
    assert await projection.wait_for(never, timeout_s=0.05) is False
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_a_damaged_record_hides_nothing_after_it(
    world: World, opened: OpenProjection
) -> None:
    await world.bus.publish([Record(TOPICS.events, None, b"\x00rubbish", (), 0)])
    await world.event(EventType.RUN_STARTED, run_row("r1", 1))
    projection = opened()
    await projection.start()
    assert await projection.catch_up()
    assert await read_run(projection) is not None


async def test_runs_are_filtered_and_paged(world: World, opened: OpenProjection) -> None:
    for number in range(5):
        row = run_row(f"r{number}", 1, RunState.FAILED if number == 2 else RunState.RUNNING)
        row.created_ms = 1_000 + number // 2  # pairs of the same millisecond
        await world.event(EventType.RUN_STARTED, row, run_id=row.run_id)
    projection = opened()
    await projection.start()
    assert await projection.catch_up()
    seen: list[str] = []
    before = None
    while page := await projection.query(
        lambda c, b=before: list_runs(c, RunFilter(before=b, limit=2))
    ):
        seen += [run.run_id for run in page]
        before = (page[-1].created_ms, page[-1].run_id)
    assert seen == ["r4", "r3", "r2", "r1", "r0"]
    failed = await projection.query(lambda c: list_runs(c, RunFilter(states=(RunState.FAILED,))))
    assert [run.run_id for run in failed] == ["r2"]


async def test_items_of_a_map_stand_apart(world: World, opened: OpenProjection) -> None:
    for name in ("review", "review.2", "review.10", "review.1"):
        row = task_row(name, 1, TaskState.DISPATCHED)
        await world.event(EventType.TASK_DISPATCHED, None, row)
    projection = opened()
    await projection.start()
    assert await projection.catch_up()
    tasks = await projection.query(lambda c: list_tasks(c, "r1"))
    items = await projection.query(lambda c: list_tasks(c, "r1", items_of="review"))
    assert [task.task_id for task in tasks] == ["review"]
    assert [task.task_id for task in items] == ["review.1", "review.2", "review.10"]


async def test_a_namespace_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    empty = World()
    projection = Projection(Environment(empty.bus), TOPICS, f"sqlite:///{tmp_path}/x.db")
    with pytest.raises(TopicMissing, match="holdfast topics create"):
        await projection.start()


@pytest.mark.parametrize("url", ["mysql://x/y", "rubbish", "oracle+nothing://x"])
async def test_a_database_that_cannot_be_used_is_refused(world: World, url: str) -> None:
    projection = Projection(Environment(world.bus), TOPICS, url)
    with pytest.raises(ConfigurationError):
        await projection.start()


async def test_a_file_that_is_no_database_is_named(world: World, tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("this is no database at all, but long enough for a header")
    projection = Projection(Environment(world.bus), TOPICS, f"sqlite:///{tmp_path}/x.db")
    with pytest.raises(ConfigurationError, match=r"x\.db cannot be used.*remove it"):
        await projection.start()
    await projection.close()
