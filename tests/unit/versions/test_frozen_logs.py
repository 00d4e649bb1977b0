"""Logs of older versions: read, gone on from, and brought to their ends by the newest code."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from holdfast.bus.port import Bus, Environment, Received, TopicPartition
from holdfast.bus.topics import Topics
from holdfast.client import Client
from holdfast.coordinator.projection import (
    Projection,
    RunFilter,
    list_dead_letters,
    list_runs,
)
from holdfast.schemas import RunState
from holdfast.testing import check
from holdfast.testing.evidence import Evidence
from holdfast.testing.history import Gap, History
from tests.frozen.loading import frozen_logs, load, upgraded
from tests.frozen.make import NAMESPACE, quiet_bus
from tests.frozen.workload import Gates, plans

LOGS = frozen_logs()
WAIT_S = 240.0
SUCCEED = {*plans(), "unread"} - {"failed"}


@pytest.mark.parametrize("log", LOGS, ids=[log.parent.name for log in LOGS])
async def test_an_older_log_is_read_and_all_of_its_runs_come_to_their_ends(
    log: Path, tmp_path: Path
) -> None:
    bus = quiet_bus(tmp_path)
    await bus.start()
    environment = Environment(bus)
    try:
        await load(environment, log)
        before = await _states(environment, tmp_path / "before.db")
        assert {before[run] for run in ("fatal", "paused", "failed")} == {
            RunState.WAITING,
            RunState.PAUSED,
            RunState.FAILED,
        }
        gates = Gates.opened()
        async with upgraded(environment, gates) as client:
            await _go_on(client)
            ends = await asyncio.gather(*(_end(client, run) for run in sorted(SUCCEED)))
            assert dict(ends) == dict.fromkeys(sorted(SUCCEED), "succeeded")
            cancelled = await client.run("cancelled")
            assert (await cancelled.ended(WAIT_S)).run.state is RunState.CANCELLED  # type: ignore[union-attr]
        after = await _states(environment, tmp_path / "after.db")
        assert {run: after[run] for run in SUCCEED} == dict.fromkeys(SUCCEED, RunState.SUCCEEDED)
        assert (after["failed"], after["cancelled"]) == (RunState.FAILED, RunState.CANCELLED)
        _only_what_was_left_was_done(gates)
        found = check(await _history(bus), Evidence()).violations
        assert [str(each) for each in found] == []
    finally:
        await bus.close()


async def _go_on(client: Client) -> None:
    """What waits for a person goes on."""
    fatal = await client.run("fatal")
    await fatal.replay("only", reason="upgraded")
    paused = await client.run("paused")
    await paused.resume(reason="upgraded")


async def _end(client: Client, run_id: str) -> tuple[str, str]:
    key = "k" if run_id.startswith("ordered") else None
    run = await client.run(run_id, key)
    event = await run.ended(WAIT_S)
    assert event.run is not None
    return run_id, str(event.run.state)


async def _states(environment: Environment, file: Path) -> dict[str, RunState]:
    projection = Projection(environment, Topics(NAMESPACE), f"sqlite:///{file}")
    try:
        await projection.start()
        assert await projection.catch_up(timeout_s=60.0)
        with projection.engine.connect() as connection:
            runs = list_runs(connection, RunFilter(limit=1_000))
            letters = list_dead_letters(connection, limit=100)
    finally:
        await projection.close()
    assert any(letter.run_id == "fatal" for letter in letters)
    return {run.run_id: run.state for run in runs}


async def _history(bus: Bus) -> History:
    """All that stands on the bus now; what had been purged before is known to be gone."""
    infos = await bus.describe_topics()
    places = [TopicPartition(n, p) for n, info in infos.items() for p in range(info.partitions)]
    records: dict[TopicPartition, list[Received]] = {place: [] for place in places}
    for place in places:
        async for batch in bus.read(place.topic, place.partition):
            records[place] += batch
    begins = await bus.begin_offsets(places)
    gaps = [Gap(place, 0, end, "purged") for place, end in begins.items() if end]
    return History(NAMESPACE, records, gaps=gaps)


def _only_what_was_left_was_done(gates: Gates) -> None:
    """Steps that the older version had journaled did not run again."""
    done = Counter(gates.calls)
    again = [call for call in done if call.startswith(("first ", "a ", "b ", "kept ", "before "))]
    assert [call for call in again if "ordered-2" not in call] == []
    assert max(done.values(), default=0) == 1
