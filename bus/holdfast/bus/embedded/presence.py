"""Signs of life beside the file: a locked file for each member, with its clock inside.

The kernel lets go of a dead process's flock however it ends: who waits for it, in a thread, knows
within milliseconds. A process that stands still keeps its flock; its clock tells.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

__all__ = ["Presence", "boot_ns", "read_beat", "watch"]

_BEAT = struct.Struct("=Q")


def boot_ns() -> int:
    """Return nanoseconds since boot, the machine's sleep counted."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Presence:
    """One member's file, locked for as long as the process (or this object) lives."""

    def __init__(self, folder: Path, incarnation: str) -> None:
        self._path = folder / incarnation
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        self.beat()

    def beat(self) -> None:
        """Write that it lives now."""
        os.pwrite(self._fd, _BEAT.pack(boot_ns()), 0)

    def close(self) -> None:
        """Let go of the lock, as the kernel does when the process ends."""
        self._path.unlink(missing_ok=True)
        os.close(self._fd)


def read_beat(folder: Path, incarnation: str) -> int | None:
    """Return when this member last said that it lives (ns since boot); None if it is gone."""
    try:
        return int(_BEAT.unpack((folder / incarnation).read_bytes())[0])
    except (OSError, struct.error):
        return None


def watch(folder: Path, incarnation: str, gone: Callable[[], None]) -> None:
    """Call `gone`, in a thread, once this member's lock is free; the thread ends with it."""
    name = f"holdfast-watch-{incarnation[:6]}"
    args = (folder / incarnation, gone)
    threading.Thread(target=_wait, args=args, name=name, daemon=True).start()


def _wait(path: Path, gone: Callable[[], None]) -> None:
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # Shared: all who wait for this one wake together.
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)
    gone()
