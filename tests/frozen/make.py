"""Freezes a log: runs the workload on the code that is importable, and stops it in the middle.

    PYTHONPATH=agents:bus:coordinator:schemas python -m tests.frozen.make tests/frozen/NAME/log.gz

All on an embedded bus in a temporary folder; processes end as by a crash. The format is that of
`holdfast.bus.saved`, which versions before it do not have: so it is written out here.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from holdfast.agents.runtime import AgentRuntime, AgentSettings
from holdfast.bus.embedded import EmbeddedBus, EmbeddedSettings
from holdfast.bus.port import Bus, Environment, TopicPartition
from holdfast.client import Client, ClientSettings
from holdfast.coordinator import CoordinatorRuntime, CoordinatorSettings, ProcessSettings
from tests.frozen.workload import Gates, make_absent, make_worker, plans

__all__ = ["NAMESPACE", "PARTITIONS", "freeze", "quiet_bus"]

NAMESPACE = "frozen"
PARTITIONS = 2
SESSION_S = 600.0
IN_FLIGHT_S = 8.0
"""Long enough for all that is not held up, on a slow machine too."""

AFTER_COORDINATOR = ("unread",)


async def freeze(folder: Path) -> list[str]:
    """Return the lines of the log."""
    bus = quiet_bus(folder)
    await bus.start()
    environment = Environment(bus)
    try:
        await _work(environment)
        return [line async for line in _lines(bus)]
    finally:
        await bus.close()


def quiet_bus(folder: Path) -> Bus:
    """Return a bus that compacts nothing, and takes no slot from a process on a busy machine."""
    return EmbeddedBus(
        EmbeddedSettings(folder / "bus.db", session_timeout_s=SESSION_S, upkeep_s=SESSION_S)
    )


async def _work(environment: Environment) -> None:
    gates = Gates()
    limits = CoordinatorSettings()
    coordinator = CoordinatorRuntime(
        environment, ProcessSettings("coordinator-1", PARTITIONS, NAMESPACE, limits=limits)
    )
    await coordinator.start()
    worker = _agent(environment, make_worker(gates))
    absent = _agent(environment, make_absent())
    await absent.start()
    await worker.start()
    serving = [asyncio.create_task(each.run()) for each in (coordinator, worker, absent)]
    await asyncio.sleep(IN_FLIGHT_S)
    await absent.kill()
    settings = ClientSettings.model_construct(namespace=NAMESPACE)
    async with Client(settings=settings, environment=environment) as client:
        for run_id, plan in plans().items():
            await client.submit(plan, {"text": run_id}, run_id=run_id)
        await asyncio.sleep(IN_FLIGHT_S)
        run = await client.run("paused")
        await run.pause(reason="frozen in a pause")
        cancelled = await client.submit(plans()["absent"], {"text": "x"}, run_id="cancelled")
        await asyncio.sleep(IN_FLIGHT_S)
        await cancelled.cancel(reason="frozen while it is cancelled")
        await asyncio.sleep(IN_FLIGHT_S)
        await coordinator.kill()
        gates.late.set()
        for run_id in AFTER_COORDINATOR:
            await client.submit(plans()["plain"], {"text": run_id}, run_id=run_id)
        await asyncio.sleep(IN_FLIGHT_S)
    await worker.kill()
    for task in serving:
        task.cancel()
    await asyncio.gather(*serving, return_exceptions=True)


def _agent(environment: Environment, agent: Any) -> AgentRuntime:
    return AgentRuntime(environment, agent, AgentSettings(f"{agent.name}-1", PARTITIONS, NAMESPACE))


async def _lines(bus: Bus) -> AsyncIterator[str]:
    infos = await bus.describe_topics()
    names = sorted(name for name in infos if name.startswith(f"{NAMESPACE}."))
    places = [TopicPartition(n, p) for n in names for p in range(infos[n].partitions)]
    ends = await bus.end_offsets(places)
    topics: dict[str, Any] = {name: [[], infos[name].cleanup.value] for name in names}
    for place in places:
        topics[place.topic][0].append(ends[place])
    yield json.dumps({"holdfast": "records", "format": 1, "topics": topics})
    for name in names:
        for partition in range(infos[name].partitions):
            async for batch in bus.read(name, partition):
                for record in batch:
                    where = [name, partition, record.offset, record.timestamp_ms]
                    headers = [[each, _text(value)] for each, value in record.headers]
                    told = [*where, _text(record.key), _text(record.value), headers]
                    yield json.dumps(told, separators=(",", ":"))


def _text(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def main() -> None:
    """Write the file that is named."""
    target = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        lines = asyncio.run(freeze(Path(folder)))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0))
    sys.stdout.write(f"{len(lines) - 1} records, {target.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
