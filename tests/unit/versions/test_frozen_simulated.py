"""A frozen log on a simulated bus: brought to its end there too, under two seeds."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from holdfast.agents.runtime import AgentRuntime, AgentSettings
from holdfast.bus.port import Environment
from holdfast.client import Client, ClientSettings
from holdfast.coordinator import CoordinatorRuntime, CoordinatorSettings, ProcessSettings
from holdfast.testing import check
from holdfast.testing.evidence import Evidence
from holdfast.testing.history import Gap, History
from holdfast.testing.sim.skipping import SkippingWorld
from holdfast.testing.sim.world import Main
from tests.frozen.loading import frozen_logs, load
from tests.frozen.make import NAMESPACE, PARTITIONS
from tests.frozen.workload import Gates, make_absent, make_worker, plans

LOGS = frozen_logs()
SUCCEED = sorted({*plans(), "unread"} - {"failed"})


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("log", LOGS, ids=[log.parent.name for log in LOGS])
def test_an_older_log_comes_to_its_end_in_a_simulated_world(log: Path, seed: int) -> None:
    world = SkippingWorld(seed)
    world.idle_writers = {"worker", "absent"}
    loaded: list[str] = []
    ends: dict[str, str] = {}

    async def load_it(environment: Environment) -> None:
        loaded.extend(await load(environment, log))
        await asyncio.get_running_loop().create_future()

    async def client(environment: Environment) -> None:
        settings: Any = ClientSettings.model_construct(namespace=NAMESPACE)
        async with Client(settings=settings, environment=environment) as opened:
            await (await opened.run("fatal")).replay("only", reason="upgraded")
            await (await opened.run("paused")).resume(reason="upgraded")
            for run_id in SUCCEED:
                run = await opened.run(run_id, "k" if run_id.startswith("ordered") else None)
                event = await run.ended()
                assert event.run is not None
                ends[run_id] = str(event.run.state)
            await asyncio.get_running_loop().create_future()

    try:
        world.start("loader", load_it)
        world.run(lambda: loaded, 600.0)
        gates = Gates.opened()
        world.start("coordinator", _coordinator())
        for agent in (make_worker(gates), make_absent()):
            world.start(agent.name, _agent(agent))
        world.start("client", client)
        world.run(lambda: len(ends) == len(SUCCEED), 400 * 86_400.0)
        assert ends == dict.fromkeys(SUCCEED, "succeeded")
        assert len(gates.calls) == len(set(gates.calls))
        world.run_for(10.0)
        found = check(_history(world, log), Evidence()).violations
        assert [str(each) for each in found] == []
    finally:
        world.close()


def _coordinator() -> Main:
    async def main(environment: Environment) -> None:
        limits = CoordinatorSettings.model_construct()
        settings = ProcessSettings("coordinator-2", PARTITIONS, NAMESPACE, limits=limits)
        runtime = CoordinatorRuntime(environment, settings)
        await runtime.start()
        await runtime.run()

    return main


def _agent(agent: Any) -> Main:
    async def main(environment: Environment) -> None:
        settings = AgentSettings(f"{agent.name}-2", PARTITIONS, NAMESPACE)
        runtime = AgentRuntime(environment, agent, settings)
        await runtime.start()
        await runtime.run()

    return main


def _history(world: SkippingWorld, log: Path) -> History:
    """What was purged before the log was frozen is filled with records that mean nothing."""
    records = {
        place: [each for each in found if each.key != b"purged"]
        for place, found in world.broker.history().items()
    }
    gaps = [
        Gap(place, 0, len(found) - len(records[place]), "purged")
        for place, found in world.broker.history().items()
        if len(found) > len(records[place])
    ]
    return History(NAMESPACE, records, gaps=gaps)
