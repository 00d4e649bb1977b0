"""One deployment under torture: its bus, its services, its workload, and what is seen of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.bus.connect import open_bus
from holdfast.bus.port import Bus, Environment
from holdfast.bus.topics import Topics
from holdfast.client import Client
from holdfast.client.settings import ClientSettings
from holdfast.testing import EvidenceFile
from tests.torture.fleet import Fleet
from tests.torture.ledger import Ledger
from tests.torture.plans import draw
from tests.torture.points import Hits
from tests.torture.service import EVIDENCE, FOLDER
from tests.torture.watch import ToldRecorder, Watch
from tests.torture.workload import Draw, Workload

__all__ = ["Arena", "ArenaSettings", "open_arena"]

PARTITIONS = 4
MODULE = "tests.torture.workload_agents"
WIDTH = 24
"""Runs open at a time: enough that every slot always has something to do."""
LOOK_S = 0.05
STILL_S = 1.5
"""Nothing was written for so long: no retry or release is under way any more."""


@dataclass(frozen=True, slots=True)
class ArenaSettings:
    """`beside`: services that the fault at hand needs beside the usual ones: by name, arguments of
    `tests.torture.service` and variables of their own."""

    bus: str
    folder: Path
    namespace: str
    seed: int
    planted: str = ""
    width: int = WIDTH
    draw: Draw = draw
    beside: Mapping[str, tuple[tuple[str, ...], Mapping[str, str]]] = field(default_factory=dict)


USUAL: Mapping[str, tuple[str, ...]] = {
    "c1": ("coordinator",),
    "c2": ("coordinator",),
    "alpha-1": ("agent", f"{MODULE}:alpha"),
    "beta-1": ("agent", f"{MODULE}:beta"),
    "beta-2": ("agent", f"{MODULE}:beta"),
    "gamma-1": ("agent", f"{MODULE}:gamma"),
}


@dataclass
class Arena:
    """What the faults work on."""

    settings: ArenaSettings
    topics: Topics
    fleet: Fleet
    bus: Bus
    watch: Watch
    client: Client
    workload: Workload
    evidence: EvidenceFile
    recorder: ToldRecorder
    working: asyncio.Task[None]
    hits: Hits

    @property
    def folder(self) -> Path:
        """Where logs, evidence and control files are."""
        return self.settings.folder

    def of_role(self, role: str) -> list[str]:
        """Return the names of all services of a role."""
        return [n for n, m in self.fleet.members.items() if m.arguments[0] == role]

    async def settle(self, within_s: float) -> bool:
        """Submit nothing more; tell whether all has ended, and nothing moves, before `within_s`.

        Raises what ended the workload: a client must not fail whatever is done to the services.
        """
        self.workload.stop()
        deadline = time.monotonic() + within_s
        await asyncio.wait({self.working}, timeout=within_s)
        if self.working.done():
            self.working.result()
        while time.monotonic() < deadline:
            still_s = time.monotonic() - self.watch.moved_at
            if not self.workload.open_runs and still_s > STILL_S:
                return True
            await asyncio.sleep(LOOK_S)
        return False


@asynccontextmanager
async def open_arena(settings: ArenaSettings) -> AsyncIterator[Arena]:
    """Start everything, with a workload that runs; kill what is left at the end."""
    settings.folder.mkdir(parents=True, exist_ok=True)
    Ledger(settings.folder).create()
    fleet = Fleet(settings.folder, _variables(settings))
    topics = Topics(settings.namespace)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(fleet.close)
        await fleet.start()
        for name, arguments in USUAL.items():
            fleet.add(name, *arguments)
        for name, (arguments, variables) in settings.beside.items():
            fleet.add(name, *arguments, variables=variables)
        bus = open_bus(settings.bus)
        stack.push_async_callback(bus.close)
        await bus.start()
        watch = Watch(topics)
        recorder = ToldRecorder(bus, settings.namespace, watch)
        await stack.enter_async_context(recorder)
        await fleet.wait_ready()
        client = await stack.enter_async_context(_client(settings, bus))
        evidence = EvidenceFile(settings.folder / EVIDENCE)
        stack.callback(evidence.close)
        workload = Workload(client, watch, evidence, settings.draw, settings.seed)
        working = asyncio.create_task(workload.run(settings.width))
        stack.push_async_callback(_cancelled, working)
        yield Arena(
            settings,
            topics,
            fleet,
            bus,
            watch,
            client,
            workload,
            evidence,
            recorder,
            working,
            Hits(settings.folder),
        )


def _variables(settings: ArenaSettings) -> dict[str, str]:
    own = {
        "HOLDFAST_BUS": settings.bus,
        "HOLDFAST_NAMESPACE": settings.namespace,
        "HOLDFAST_PARTITIONS": str(PARTITIONS),
        "XDG_CACHE_HOME": str(settings.folder / "cache"),
        FOLDER: str(settings.folder),
    }
    if settings.planted:
        own["HOLDFAST_PLANTED"] = settings.planted
    if settings.bus.startswith("kafka"):
        blobs = settings.folder / "blobs"
        blobs.mkdir(exist_ok=True)
        own["HOLDFAST_BLOBS"] = f"file://{blobs}"
    return own


@asynccontextmanager
async def _client(settings: ArenaSettings, bus: Bus) -> AsyncIterator[Client]:
    blobs = _variables(settings).get("HOLDFAST_BLOBS")
    made = ClientSettings(bus=settings.bus, namespace=settings.namespace, blobs=blobs)
    async with Client(settings=made, environment=Environment(bus)) as client:
        yield client


async def _cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
