"""Runs that fail give back what they charged, while coordinator and agent die by `kill -9`.

The ledger is outside: a file with a line for each movement, which takes a movement that comes twice
under one idempotency key for one. Charges minus refunds is zero for each run.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

import pytest

from holdfast.client import Client, RunFailed
from holdfast.schemas.records import EventType
from tests.acceptance.compensating_agents import SEATS, saga
from tests.acceptance.deployment import Deployment, witnessed
from tests.acceptance.observer import Observer, observing
from tests.waiting import until

MODULE = "tests.acceptance.compensating_agents"
RUNS = [f"saga-{n}" for n in range(3)]
CHARGES = SEATS + 3
SLOW_S = 180.0


def begun(seen: Observer, run_id: str) -> list[str]:
    """Return what was handed out to undo something of a run, in order, each once."""
    found = [
        event.task.task_id
        for event in seen.events
        if event.run_id == run_id
        and event.type is EventType.TASK_DISPATCHED
        and event.task is not None
        and event.task.task_id.startswith("!")
    ]
    return list(dict.fromkeys(found))


async def again(place: Deployment, name: str) -> None:
    """Kill a service, and start it again."""
    place.kill(name)
    place.again(name)
    await asyncio.to_thread(place.wait_ready, name)


async def test_charges_minus_refunds_is_zero_whoever_dies_while_it_is_undone(
    place: Deployment,
) -> None:
    place.coordinator("c1")
    place.agent("till", module=MODULE)
    await asyncio.to_thread(place.wait_ready)
    async with (
        observing(place) as seen,
        Client(url=place.bus, namespace=place.namespace) as client,
    ):
        runs = [await client.submit(saga(), run_id=run_id) for run_id in RUNS]
        await until(lambda: any(begun(seen, run_id) for run_id in RUNS), "undoing begins", SLOW_S)
        await again(place, "c1")
        await until(lambda: any(len(begun(seen, r)) > 2 for r in RUNS), "it goes on", SLOW_S)
        await again(place, "till-1")
        for run in runs:
            with pytest.raises(RunFailed, match="no seats left"):
                await run.result(timeout_s=SLOW_S)
        await until(lambda: all(len(begun(seen, r)) == CHARGES for r in RUNS), "all is told", 30)
        for run_id in RUNS:
            order = begun(seen, run_id)
            assert order[0].startswith("!~"), "the step of the task that failed"
            assert (order[1], order[-1]) == ("!car", "!hotel")
    movements: dict[str, dict[str, int]] = defaultdict(dict)
    for key, run_id, _, amount, *_ in witnessed(place.folder / "ledger.witness"):
        movements[run_id][key] = int(amount)
    assert sorted(movements) == RUNS
    for run_id, by_key in movements.items():
        assert len(by_key) == 2 * CHARGES, run_id
        assert sum(by_key.values()) == 0, run_id
