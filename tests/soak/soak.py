"""One soak from its first process to its results."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from holdfast.bus.topics import Topics
from holdfast.testing import Evidence, EvidenceFile, Usage
from holdfast.testing.invariants.endurance import SPAN_MIN_S, Growth, growths
from tests.soak.ground import DEDUPE_RUNS, PURGE_EVERY_S, SoakSettings, Starts, open_ground
from tests.soak.service import USAGE
from tests.soak.trouble import Trouble
from tests.soak.usage import Disk, disk_of
from tests.soak.windows import Windows
from tests.torture.arena import Arena
from tests.torture.results import Outcome, commit, machine, quantile
from tests.torture.stage import Stage

__all__ = ["SoakOutcome", "soak"]

SHARE_OF_PEAK = 0.5
WINDOW_MIN_S = 20.0
SHORT_SPAN_S = 60.0
SHORT_LEAST_SHARE = 0.5
"""A soak that is shorter than a verdict needs shows only coarse leaks."""
TOPICS = "topics that shrink"


@dataclass
class SoakOutcome(Outcome):
    """The whole of one soak. `growths`: how each measure of each process went; `disk`: bytes at
    the end; `startup_s`: seconds of all starts, by role, until ready and until the first commit."""

    peak_per_s: float = 0.0
    rate_per_s: float = 0.0
    loaded_s: float = 0.0
    held_s: float = 0.0
    windows: int = 0
    records: int = 0
    growths: list[dict[str, Any]] = field(default_factory=list)
    disk: dict[str, int] = field(default_factory=dict)
    startup_s: dict[str, dict[str, float | None]] = field(default_factory=dict)


async def soak(settings: SoakSettings, stage: Stage) -> list[Outcome]:
    """Run a soak; return its whole first, then one outcome for each fault and point."""
    started, began = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    trouble = Trouble(stage, settings.bus, random.Random(settings.seed), settings.fault_every_s)
    async with open_ground(settings) as (arena, starts):
        arena.fleet.explained = trouble.exits
        windows = Windows(arena, settings.seed)
        async with _disks(settings, stage, arena) as disks:
            peak = await windows.peak(settings.peak_s)
            rate = settings.rate_per_s or max(1.0, peak * SHARE_OF_PEAK)
            _say(f"peak {peak:.1f} runs/s, load {rate:.1f} runs/s")
            while (left := began + settings.seconds - time.monotonic()) > WINDOW_MIN_S:
                disks.check()
                if windows.hangs:
                    break
                await windows.window(rate, min(left, settings.window_s), trouble)
                _progress(windows, trouble, began)
        for what in [*arena.fleet.unexplained, *trouble.problems]:
            windows.problem("I9", what, "the whole soak")
        tasks = arena.watch.succeeded_tasks
    seconds = round(time.monotonic() - began, 1)
    found = _growths(settings, windows)
    whole = SoakOutcome(
        **_common(settings, started, seconds),
        fault="endurance",
        point="",
        injected=sum(sum(s.injected.values()) for s in trouble.struck.values()),
        runs=windows.runs,
        tasks=tasks,
        violations=windows.problems,
        recovery_s=[],
        bound_s=None,
        notes=_notes(settings, windows),
        peak_per_s=round(peak, 2),
        rate_per_s=round(rate, 2),
        loaded_s=round(windows.loaded_s, 1),
        held_s=round(windows.held_s, 1),
        windows=windows.judged,
        records=windows.records,
        growths=[_rounded(growth) for growth in found],
        disk=asdict(disks.last) if disks.last is not None else {},
        startup_s=_startups(starts),
    )
    return [whole, *_struck(settings, trouble, started, seconds)]


class _Disks:
    """Measures the disk every so often. `last`: what was found last."""

    def __init__(self, settings: SoakSettings, stage: Stage, topics: Topics) -> None:
        self._settings = settings
        self._topics = topics
        self._logs = None if stage.broker is None else Path(stage.broker.folder) / "data"
        self._file = EvidenceFile(settings.folder / USAGE)
        self._task = asyncio.create_task(self._sample())
        self.last: Disk | None = None

    async def _sample(self) -> None:
        bus = self._settings.bus
        while True:
            await asyncio.sleep(self._settings.sample_s)
            disk = await asyncio.to_thread(disk_of, bus, self._topics, self._logs)
            if disk is not None:
                self.last = disk
                self._file.add(Usage(TOPICS, time.monotonic(), disk_bytes=disk.bounded))

    def check(self) -> None:
        """Raise what has ended it."""
        if self._task.done():
            self._task.result()

    async def close(self) -> None:
        """Measure no more."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._file.close()


@asynccontextmanager
async def _disks(settings: SoakSettings, stage: Stage, arena: Arena) -> AsyncIterator[_Disks]:
    disks = _Disks(settings, stage, arena.topics)
    try:
        yield disks
    finally:
        await disks.close()


def _growths(settings: SoakSettings, windows: Windows) -> list[Growth]:
    """I12, over the whole soak."""
    rows = Evidence.load(settings.folder / USAGE).of(Usage)
    if settings.seconds < 2 * SPAN_MIN_S:
        found = growths(rows, span_min_s=SHORT_SPAN_S, least_share=SHORT_LEAST_SHARE)
    else:
        found = growths(rows)
    for growth in found:
        if growth.grows:
            what = (
                f"{growth.measure} grows by {growth.per_hour:.4g} an hour over "
                f"{growth.span_s:.0f} s (median {growth.level:.4g}; "
                f"{growth.allowed_per_hour:.4g} an hour are allowed)"
            )
            windows.problem("I12", what, growth.instance)
    return found


def _rounded(growth: Growth) -> dict[str, Any]:
    told = {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(growth).items()}
    return {**told, "grows": growth.grows}


def _startups(starts: Starts) -> dict[str, dict[str, float | None]]:
    found: dict[str, dict[str, float | None]] = {}
    for what, by_role in (("ready", starts.ready), ("first commit", starts.committed)):
        for role, seconds in by_role.items():
            found[f"{role}, {what}"] = {
                "count": float(len(seconds)),
                "p50": quantile(seconds, 0.5),
                "p99": quantile(seconds, 0.99),
                "worst": max(seconds, default=None),
            }
    return found


def _common(settings: SoakSettings, started: str, seconds: float) -> dict[str, Any]:
    return {
        "suite": "soak",
        "bus": settings.bus.partition(":")[0],
        "seed": settings.seed,
        "commit": commit(),
        "started": started,
        "seconds": seconds,
        "machine": {**machine(), "started_by": "new interpreter"},
    }


def _notes(settings: SoakSettings, windows: Windows) -> str:
    notes = [
        f"a slot remembers {DEDUPE_RUNS} finished runs, so that the bound is reached",
        f"consumed records are purged every {PURGE_EVERY_S} s",
    ]
    if settings.rate_per_s is not None:
        notes.append("the rate was given, and is not half of the peak")
    if settings.leak is not None:
        notes.append(f"planted: {settings.leak.instance} keeps {settings.leak.each_bytes} B a task")
    if windows.untold:
        notes.append(f"{windows.untold} more violations")
    for name, count in sorted(windows.unjudged.items()):
        notes.append(f"{name} could not judge all of {count} of {windows.judged} windows")
    return "; ".join(notes)


def _struck(
    settings: SoakSettings, trouble: Trouble, started: str, seconds: float
) -> list[Outcome]:
    """The runs and tasks stand in the whole: they went through all faults."""
    return [
        Outcome(
            **_common(settings, started, seconds),
            fault=name,
            point=point,
            injected=struck.injected[point],
            runs=0,
            tasks=0,
            violations=[],
            recovery_s=struck.recovery_s[point],
            bound_s=trouble.bounds[name],
            notes="within a soak, whose outcome has the violations",
        )
        for name, struck in sorted(trouble.struck.items())
        for point in sorted({*struck.injected, *struck.recovery_s})
    ]


def _progress(windows: Windows, trouble: Trouble, began: float) -> None:
    faults = sum(sum(s.injected.values()) for s in trouble.struck.values())
    minutes = (time.monotonic() - began) / 60
    _say(
        f"{minutes:.1f} min: {windows.judged} windows, {windows.runs} runs, {windows.records} "
        f"records, {faults} faults, {len(windows.problems) + windows.untold} violations"
    )


def _say(text: str) -> None:
    print(text, flush=True)
