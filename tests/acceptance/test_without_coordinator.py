"""No coordinator is left: agents finish what they have, and nothing of it is lost."""

from __future__ import annotations

import asyncio

from holdfast.bus.connect import open_bus
from holdfast.bus.topics import Topics
from holdfast.client import Client
from tests.acceptance.deployment import Deployment, witnessed
from tests.waiting import until

RUNS = 4


async def test_agents_finish_without_a_coordinator_and_the_next_one_takes_it_up(
    place: Deployment,
) -> None:
    topics = Topics(place.namespace)
    witness = place.folder / "long.witness"

    def seen(what: str) -> list[list[str]]:
        return [line for line in witnessed(witness) if line[0] == what]

    place.coordinator("c1")
    place.agent("patient")
    await asyncio.to_thread(place.wait_ready)
    bus = open_bus(place.bus)
    await bus.start()
    async with Client(url=place.bus, namespace=place.namespace) as client:
        runs = [
            await client.submit("patient.long", {"text": str(n)}, run_id=f"run-{n}")
            for n in range(RUNS)
        ]
        await until(lambda: len(seen("start")) == RUNS, "all of them run", 30)
        place.kill("c1")
        for run in runs:
            (place.folder / f"open-{run.id}").touch()
        await until(lambda: len(seen("end")) == RUNS, "the agent waits for a coordinator", 30)

        async def waiting() -> int:
            lag = await bus.lag(topics.group("coordinator"), [topics.coordinator])
            return sum(lag.values())

        async with asyncio.timeout(30):
            while await waiting() < RUNS:
                await asyncio.sleep(0.05)
        place.coordinator("c2")  # another one, which knows of nothing but the log
        results = await asyncio.wait_for(asyncio.gather(*(run.result() for run in runs)), 60)
    await bus.close()
    assert [result["text"] for result in results] == [str(n) for n in range(RUNS)]
    assert len(seen("start")) == RUNS, "a task was worked again"
