"""A chain of three tasks through three agents, while processes are killed."""

from __future__ import annotations

import asyncio
import random

from holdfast.client import Client
from holdfast.schemas import Plan
from holdfast.schemas.records import EventType
from tests.acceptance.deployment import Deployment, witnessed
from tests.acceptance.observer import observing
from tests.waiting import until

RUNS = 120
AGENTS = ("first", "second", "third")


def chain() -> Plan:
    plan = Plan("chain")
    begun = plan.task("begin", "first.begin", text=plan.input("text"))
    gone = plan.task("go-on", "second.go_on", text=begun["text"], n=begun["n"])
    plan.task("end", "third.end", text=gone["text"], n=gone["n"])
    return plan


async def test_a_chain_survives_kills_of_agents_and_coordinator(place: Deployment) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    place.coordinator("c1")
    for agent in AGENTS:
        place.agent(agent)
    await asyncio.to_thread(place.wait_ready)
    victims = ["first-1", "c1", "second-1", "third-1"]
    chance.shuffle(victims)
    async with (
        observing(place, AGENTS) as seen,
        Client(url=place.bus, namespace=place.namespace) as client,
    ):
        runs = []
        for n in range(RUNS):
            runs.append(await client.submit(chain(), {"text": str(n)}, run_id=f"run-{n}"))
            if n % (RUNS // len(victims)) == 10:
                victim = victims.pop()
                place.kill(victim)
                place.again(victim)
        results = await asyncio.wait_for(asyncio.gather(*(run.result() for run in runs)), 90)
        await until(lambda: len(seen.ends()) == RUNS)
    for n, result in enumerate(results):
        assert result == {"text": f"{n} first second third", "n": 3}
    assert all(ends == [EventType.RUN_SUCCEEDED] for ends in seen.ends().values())
    assert set(seen.results().values()) == {1}
    assert len(seen.results()) == RUNS * 3
    seen.check_steps(witnessed(place.folder / "steps.witness"), kills=4)
