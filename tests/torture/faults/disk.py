"""A disk that is full, and freed again: the embedded bus on a small file system of its own."""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tests.torture.faults.base import Fault, Injection

if TYPE_CHECKING:
    from tests.torture.arena import Arena, ArenaSettings

__all__ = ["DiskFull"]

SIZE_MIB = 96
FILLER = "filler"
CHUNK_BYTES = 1 << 16
HOLD_MIN_S, HOLD_MAX_S = 0.5, 3.0
BETWEEN_S = 0.5


class DiskFull(Fault):
    """Fills the tmpfs that holds the bus's file to its last byte, and frees it again.

    Needs the right to mount. Recovery counts from when there is room again.
    """

    name = "disk-full"
    buses = ("sqlite",)

    def arrange(self, settings: ArenaSettings) -> ArenaSettings:
        """See `Fault`. Raises `CalledProcessError` where nothing may be mounted."""
        disk = _disk(settings.folder)
        disk.mkdir(parents=True)
        options = f"size={SIZE_MIB}m"
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "holdfast-torture", str(disk)], check=True
        )
        return replace(settings, bus=f"sqlite:///{disk / 'bus.db'}")

    def clear(self, settings: ArenaSettings) -> None:
        """See `Fault`."""
        subprocess.run(["umount", "--lazy", str(_disk(settings.folder))], check=True)

    def victims(self, arena: Arena) -> list[str]:
        """There is one disk."""
        return ["disk"]

    async def inject(self, arena: Arena, victim: str, chance: random.Random) -> Injection | None:
        """See `Fault`."""
        await asyncio.sleep(BETWEEN_S)
        disk = _disk(arena.folder)
        filler = disk / FILLER
        until = time.monotonic() + chance.uniform(HOLD_MIN_S, HOLD_MAX_S)
        while time.monotonic() < until:
            await asyncio.to_thread(_fill, filler)  # what is freed meanwhile too
            await asyncio.sleep(0.05)
        full = shutil.disk_usage(disk).free == 0
        filler.unlink()
        at = time.monotonic()
        slots = list(arena.watch.owners)
        return Injection(victim, "", {"": arena.watch.progress(slots, at)}) if full else None


def _disk(folder: Path) -> Path:
    return folder / "disk"


def _fill(path: Path) -> None:
    with suppress(OSError), path.open("ab", buffering=0) as file:
        size = CHUNK_BYTES
        while size:
            try:
                if file.write(bytes(size)) < size:
                    size //= 2
            except OSError:
                size //= 2
