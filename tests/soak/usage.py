"""What a process uses, told by itself; and what a bus takes on disk, told from outside."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from holdfast.bus.embedded.store import OFFSET_BITS
from holdfast.bus.topics import Topics
from holdfast.testing import EvidenceFile, Usage

__all__ = ["Disk", "Sampler", "disk_of", "own_usage"]

BUSY_S = 10.0


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes. `bounded`: of topics from which goes what is finished; `kept`: of events and dead
    letters, which are kept by choice; `whole`: all files of the bus."""

    bounded: int
    kept: int
    whole: int


def own_usage(instance: str) -> Usage:
    """Return what this process uses; to be called on its loop."""
    return Usage(
        instance,
        time.monotonic(),
        memory_bytes=_resident_bytes(),
        descriptors=len(os.listdir("/proc/self/fd")),
        tasks=len(asyncio.all_tasks()),
    )


class Sampler:
    """Appends what this process uses to a file, every so often, until the process ends."""

    def __init__(self, path: Path, instance: str, every_s: float) -> None:
        self._file = EvidenceFile(path)
        self._instance = instance
        self._every_s = every_s
        self._task = asyncio.get_running_loop().create_task(self._sample())

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            self._file.add(own_usage(self._instance))


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def disk_of(bus: str, topics: Topics, logs: Path | None) -> Disk | None:
    """Return what the bus at `bus` (its URL) takes; `logs`: where a local broker keeps its logs;
    None for a broker that is elsewhere.

    Blocks: for a thread.
    """
    if bus.startswith("sqlite"):
        return _sqlite_disk(Path(bus.removeprefix("sqlite:///")), topics)
    if logs is None:
        return None
    return _kafka_disk(logs, topics)


def _sqlite_disk(path: Path, topics: Topics) -> Disk:
    files = [Path(f"{path}{suffix}") for suffix in ("", "-wal")]
    whole = sum(file.stat().st_size for file in files if file.exists())
    bounded = kept = 0
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=BUSY_S)) as db:
        rows = db.execute("SELECT name, first_stream, partitions FROM topics").fetchall()
        for name, first, partitions in rows:
            low, high = first << OFFSET_BITS, (first + partitions) << OFFSET_BITS
            if name in (topics.events, topics.dead_letters):
                kept += _kept_bytes(db, low, high)
            else:
                bounded += _live_bytes(db, low, high)
    return Disk(bounded, kept, whole)


def _live_bytes(db: sqlite3.Connection, low: int, high: int) -> int:
    (size,) = db.execute(
        "SELECT coalesce(sum(coalesce(length(key), 0) + coalesce(length(value), 0)"
        " + coalesce(length(headers), 0)), 0) FROM log WHERE id >= ? AND id < ?",
        (low, high),
    ).fetchone()
    return int(size)


def _kept_bytes(db: sqlite3.Connection, low: int, high: int) -> int:
    """From a hundred rows: all of them would have to be read."""
    count, mean = db.execute(
        "SELECT (SELECT count(*) FROM log WHERE id >= :low AND id < :high),"
        " (SELECT avg(length(value) + length(key)) FROM"
        " (SELECT value, key FROM log WHERE id >= :low AND id < :high LIMIT 100))",
        {"low": low, "high": high},
    ).fetchone()
    return int(count * (mean or 0))


def _kafka_disk(logs: Path, topics: Topics) -> Disk:
    bounded = kept = whole = 0
    for folder in logs.iterdir():
        if not folder.is_dir():
            continue
        size = sum(_file_bytes(file) for file in folder.iterdir())
        whole += size
        topic = folder.name.rpartition("-")[0]
        if topic in (topics.events, topics.dead_letters):
            kept += size
        elif topic.startswith(f"{topics.namespace}."):
            bounded += size
    return Disk(bounded, kept, whole)


def _file_bytes(file: Path) -> int:
    """What it takes: index files are sparse; what is just being deleted takes nothing."""
    try:
        return file.stat().st_blocks * 512
    except FileNotFoundError:
        return 0
