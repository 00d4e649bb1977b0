"""What a soak stands on: the torture's arena, with services that are started as users' are."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.bus.connect import open_bus
from holdfast.bus.port import Environment
from holdfast.bus.topics import Topics
from holdfast.client import Client
from holdfast.client.settings import ClientSettings
from holdfast.testing import EvidenceFile, Usage
from tests.soak.fleet import ProcessFleet
from tests.soak.load import draw_mixed
from tests.soak.service import LEAK, SAMPLE_S, USAGE
from tests.torture.arena import PARTITIONS, Arena, ArenaSettings
from tests.torture.fleet import Member
from tests.torture.ledger import Ledger
from tests.torture.points import Hits
from tests.torture.service import EVIDENCE, FOLDER
from tests.torture.watch import ToldRecorder, Watch
from tests.torture.workload import Workload

__all__ = ["DEDUPE_RUNS", "PURGE_EVERY_S", "Leak", "SoakSettings", "Starts", "open_ground"]

MODULE = "tests.soak.agents"
USUAL: dict[str, tuple[str, ...]] = {
    "c1": ("coordinator",),
    "c2": ("coordinator",),
    "alpha-1": ("agent", f"{MODULE}:alpha"),
    "beta-1": ("agent", f"{MODULE}:beta"),
    "beta-2": ("agent", f"{MODULE}:beta"),
    "gamma-1": ("agent", f"{MODULE}:gamma"),
}
DEDUPE_RUNS = 500
"""Finished runs that a slot remembers: 50,000 as delivered, which no soak of some hours would
reach, so that what is bounded would look like growth."""

PURGE_EVERY_S = 60
"""15 as delivered. What is purged before the recorder has read it cannot be judged: less often."""


@dataclass(frozen=True, slots=True)
class Leak:
    """A planted one: `instance` keeps so many bytes of each task."""

    instance: str
    each_bytes: int


@dataclass(frozen=True, slots=True)
class SoakSettings:
    """One soak. Seconds, where nothing else is said."""

    bus: str
    folder: Path
    namespace: str
    seed: int
    seconds: float
    window_s: float = 240.0
    peak_s: float = 90.0
    sample_s: float = 10.0
    fault_every_s: float = 15.0
    rate_per_s: float | None = None
    """Given instead of measured."""
    leak: Leak | None = None


@dataclass
class Starts:
    """Seconds from the start of a process; `ready` as it says, `committed` its first commit."""

    usage: EvidenceFile
    watch: Watch
    ready: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    committed: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    _waiting: set[asyncio.Task[None]] = field(default_factory=set)

    def heard(self, member: Member, seconds: float) -> None:
        """A process is ready; its first commit is waited for."""
        role = member.arguments[0]
        self.ready[role].append(seconds)
        self.usage.add(Usage(f"starts of {role}s", time.monotonic(), startup_s=seconds))
        began = member.started_at
        waiting = asyncio.create_task(self._committed(member, began))
        self._waiting.add(waiting)
        waiting.add_done_callback(self._waiting.discard)

    async def _committed(self, member: Member, began: float) -> None:
        recovery = self.watch.return_of(member.name, began)
        ended = asyncio.create_task(member.down.wait())
        came = asyncio.create_task(recovery.done.wait())
        await asyncio.wait({ended, came}, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        came.cancel()
        self.watch.give_up(recovery)
        if recovery.seconds is not None:
            self.committed[member.arguments[0]].append(recovery.seconds)

    async def close(self) -> None:
        """Wait for nothing more."""
        for waiting in self._waiting:
            waiting.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)
        self.usage.close()


@asynccontextmanager
async def open_ground(settings: SoakSettings) -> AsyncIterator[tuple[Arena, Starts]]:
    """Start everything, with nothing to do yet; kill what is left at the end."""
    settings.folder.mkdir(parents=True, exist_ok=True)
    Ledger(settings.folder).create()
    topics = Topics(settings.namespace)
    watch = Watch(topics)
    async with contextlib.AsyncExitStack() as stack:
        starts = Starts(EvidenceFile(settings.folder / USAGE), watch)
        stack.push_async_callback(starts.close)
        fleet = ProcessFleet(settings.folder, _variables(settings), starts.heard)
        stack.push_async_callback(fleet.close)
        await fleet.start()
        for name, arguments in USUAL.items():
            leak = settings.leak
            leaks = leak is not None and leak.instance == name
            own = {LEAK: str(leak.each_bytes)} if leak is not None and leaks else None
            fleet.add(name, *arguments, variables=own)
        bus = open_bus(settings.bus)
        stack.push_async_callback(bus.close)
        await bus.start()
        recorder = await stack.enter_async_context(ToldRecorder(bus, settings.namespace, watch))
        await fleet.wait_ready()
        made = ClientSettings(
            bus=settings.bus, namespace=settings.namespace, blobs=_blobs(settings)
        )
        client = await stack.enter_async_context(
            Client(settings=made, environment=Environment(bus))
        )
        evidence = EvidenceFile(settings.folder / EVIDENCE)
        stack.callback(evidence.close)
        arena = Arena(
            ArenaSettings(settings.bus, settings.folder, settings.namespace, settings.seed),
            topics,
            fleet,
            bus,
            watch,
            client,
            Workload(client, watch, evidence, draw_mixed, settings.seed),
            evidence,
            recorder,
            asyncio.create_task(_nothing()),
            Hits(settings.folder),
        )
        stack.push_async_callback(_end_load, arena)
        yield arena, starts


def _variables(settings: SoakSettings) -> dict[str, str]:
    own = {
        "HOLDFAST_BUS": settings.bus,
        "HOLDFAST_NAMESPACE": settings.namespace,
        "HOLDFAST_PARTITIONS": str(PARTITIONS),
        "HOLDFAST_COORDINATOR_DEDUPE_RUNS": str(DEDUPE_RUNS),
        "HOLDFAST_COORDINATOR_PURGE_EVERY_S": str(PURGE_EVERY_S),
        "XDG_CACHE_HOME": str(settings.folder / "cache"),
        FOLDER: str(settings.folder),
        SAMPLE_S: str(settings.sample_s),
    }
    if (blobs := _blobs(settings)) is not None:
        own["HOLDFAST_BLOBS"] = blobs
    return own


def _blobs(settings: SoakSettings) -> str | None:
    if not settings.bus.startswith("kafka"):
        return None
    folder = settings.folder / "blobs"
    folder.mkdir(exist_ok=True)
    return f"file://{folder}"


async def _nothing() -> None:
    """The arena has no load yet."""


async def _end_load(arena: Arena) -> None:
    arena.working.cancel()
    await asyncio.gather(arena.working, return_exceptions=True)
