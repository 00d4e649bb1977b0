"""Several coordinators share the runs; when one is killed, another carries them on."""

from __future__ import annotations

import asyncio

from holdfast.client import Client
from holdfast.schemas.records import EventType
from tests.acceptance.deployment import Deployment
from tests.acceptance.observer import observing
from tests.acceptance.test_chain import chain
from tests.waiting import until

RUNS = 80


async def test_killing_one_of_two_coordinators_moves_its_runs(place: Deployment) -> None:
    for agent in ("first", "second", "third"):
        place.agent(agent)
    place.coordinator("c1")
    place.coordinator("c2")
    await asyncio.to_thread(place.wait_ready)

    def slots(name: str) -> int:
        return place.text(name).count(" open at ")

    await until(lambda: slots("c1") and slots("c2"), "both coordinators have slots", 20)
    async with (
        observing(place) as seen,
        Client(url=place.bus, namespace=place.namespace) as client,
    ):
        runs = []
        for n in range(RUNS):
            runs.append(await client.submit(chain(), {"text": str(n)}, run_id=f"run-{n}"))
            if n == RUNS // 2:
                place.kill("c1")  # and it does not come back
        results = await asyncio.wait_for(asyncio.gather(*(run.result() for run in runs)), 60)
        await until(lambda: len(seen.ends()) == RUNS)
    assert [r["text"] for r in results] == [f"{n} first second third" for n in range(RUNS)]
    assert all(ends == [EventType.RUN_SUCCEEDED] for ends in seen.ends().values())
    assert set(seen.results().values()) == {1}
