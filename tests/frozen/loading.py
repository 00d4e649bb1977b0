"""A frozen log under the newest code: put onto a bus, and brought to its end."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from holdfast.agents.runtime import AgentRuntime, AgentSettings
from holdfast.bus.port import Environment
from holdfast.bus.saved import load_records
from holdfast.client import Client, ClientSettings
from holdfast.coordinator import CoordinatorRuntime, CoordinatorSettings, ProcessSettings
from tests.frozen.make import NAMESPACE, PARTITIONS
from tests.frozen.workload import Gates, make_absent, make_worker

__all__ = ["FOLDER", "frozen_logs", "load", "upgraded"]

FOLDER = Path(__file__).parent


def frozen_logs() -> list[Path]:
    """Return all logs, those of the oldest version first."""
    return sorted(FOLDER.glob("*/log.gz"))


async def load(environment: Environment, log: Path) -> list[str]:
    """Put a log onto an empty bus, each record where it stood; return its topics."""
    lines = gzip.decompress(log.read_bytes()).decode().splitlines()
    return await load_records(environment.bus, lines, in_place=True)


@asynccontextmanager
async def upgraded(environment: Environment, gates: Gates) -> AsyncIterator[Client]:
    """The newest coordinator and agents, at work on what is on the bus; a client of theirs."""
    settings = ProcessSettings("coordinator-2", PARTITIONS, NAMESPACE, limits=CoordinatorSettings())
    services: list[CoordinatorRuntime | AgentRuntime] = [CoordinatorRuntime(environment, settings)]
    for agent in (make_worker(gates), make_absent()):
        named = AgentSettings(f"{agent.name}-2", PARTITIONS, NAMESPACE)
        services.append(AgentRuntime(environment, agent, named))
    for service in services:
        await service.start()
    serving = [asyncio.create_task(service.run()) for service in services]
    client_settings = ClientSettings.model_construct(namespace=NAMESPACE)
    try:
        async with Client(settings=client_settings, environment=environment) as client:
            yield client
    finally:
        for service in reversed(services):
            await service.stop()
        await asyncio.gather(*serving, return_exceptions=True)
