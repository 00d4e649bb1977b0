"""The queue in which all processes write: two flocks beside the file.

SQLite's own busy handler starves (with three writers one made a single commit in 2 s). So: take the
gate, take the lock, release the gate, write, release the lock. Whoever stands at the gate is next.

A process that is stopped while it holds one of the two blocks every writer. Each holder therefore
notes who it is beside the lock (in mapped memory: no system call), and clears it before it lets go;
`HolderWatch` says so after 10 s, and after 30 s ends exactly that process.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

__all__ = ["CommitQueue", "Holder", "HolderWatch", "end_process"]

log = logging.getLogger("holdfast.bus.embedded")

SAY_AFTER_S = 10.0
END_AFTER_S = 30.0

_NOTE = struct.Struct("=QQQQ")
_NOBODY = _NOTE.pack(0, 0, 0, 0)
_GENERATION = struct.Struct("=Q")
_GENERATION_AT = 64
_MAPPED_BYTES = 128


class Holder(NamedTuple):
    """Who holds a lock: enough to never take another process for it."""

    pid: int
    started: int
    """When the process started, in the kernel's ticks since boot: process ids are used again."""
    pid_namespace: int
    """Process ids of another container mean other processes here."""
    turn: int
    """Which of the process's turns."""


class _NotedLock:
    """A flock whose holder's name stands in the file's first bytes."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            # Its room on the disk is taken now: a hole in the file is a page of memory that a full
            # disk cannot back, and writing to it ends the process by SIGBUS, without a word.
            os.posix_fallocate(self._fd, 0, _MAPPED_BYTES)
            self.memory = mmap.mmap(self._fd, _MAPPED_BYTES)
        except BaseException:
            os.close(self._fd)
            raise

    def take(self, note: bytes) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        self.memory[: _NOTE.size] = note

    def release(self) -> None:
        # Cleared first: else a process that is stopped between taking and noting would be taken
        # for the one before it, which is innocent.
        self.memory[: _NOTE.size] = _NOBODY
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def holder(self) -> Holder | None:
        found = Holder._make(_NOTE.unpack_from(self.memory, 0))
        return found if found.pid else None

    def close(self) -> None:
        self.memory.close()
        os.close(self._fd)


class CommitQueue:
    """This process's place in the queue. `enter` and `leave`: for one thread."""

    def __init__(self, folder: Path) -> None:
        self._gate = _NotedLock(folder / "gate")
        self._lock = _NotedLock(folder / "lock")
        self._identity = (os.getpid(), _started(os.getpid()) or 0, _pid_namespace())
        self._turn = 0
        self.waiting = False

    def enter(self) -> None:
        """Wait for this process's turn, as long as it takes."""
        self._turn += 1
        note = _NOTE.pack(*self._identity, self._turn)
        self.waiting = True
        self._gate.take(note)
        self._lock.take(note)
        self._gate.release()
        self.waiting = False

    def leave(self) -> None:
        """Let the next one in."""
        self._lock.release()

    def holders(self) -> tuple[Holder | None, Holder | None]:
        """Return who stands at the gate and who holds the lock, as noted by themselves."""
        return self._gate.holder(), self._lock.holder()

    def mine(self, holder: Holder) -> bool:
        """Tell whether it is this very process."""
        return (holder.pid, holder.started, holder.pid_namespace) == self._identity

    @property
    def listeners_generation(self) -> int:
        """Changes whenever the table of listeners did. Read and raised while holding the lock."""
        (value,) = _GENERATION.unpack_from(self._lock.memory, _GENERATION_AT)
        return int(value)

    def raise_listeners_generation(self) -> None:
        """The table of listeners has changed."""
        _GENERATION.pack_into(self._lock.memory, _GENERATION_AT, self.listeners_generation + 1)

    def close(self) -> None:
        """Give the descriptors back; nobody is waiting here any more."""
        self._gate.close()
        self._lock.close()


class HolderWatch:
    """Looks at the queue every now and then (`step`) while this process waits in it.

    The time counts per turn of one holder: many short turns of others are a queue, not a fault. The
    clock must not count the machine's sleep.
    """

    def __init__(
        self,
        queue: CommitQueue,
        end: Callable[[Holder], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._end = end or end_process
        self._clock = clock
        self._suspect: Holder | None = None
        self._since = 0.0
        self._said = False

    def step(self) -> None:
        """Say or end what is due."""
        suspect = self._holder() if self._queue.waiting else None
        if suspect is None or suspect != self._suspect:
            self._suspect, self._since, self._said = suspect, self._clock(), False
            return
        waited_s = self._clock() - self._since
        if waited_s >= SAY_AFTER_S and not self._said:
            self._said = True
            log.warning(
                "process %d has been inside a commit for %.0f s and blocks all writers; "
                "it is ended after %.0f s (wake it with: kill -CONT %d)",
                suspect.pid, waited_s, END_AFTER_S, suspect.pid,
            )  # fmt: skip
        if waited_s >= END_AFTER_S:
            self._finish(suspect)

    def _holder(self) -> Holder | None:
        at_gate, at_lock = self._queue.holders()
        if at_lock is not None and not self._queue.mine(at_lock):
            return at_lock
        if at_gate is not None and not self._queue.mine(at_gate):
            return at_gate
        return None

    def _finish(self, suspect: Holder) -> None:
        # Read once more: between the first look and now it may have gone on.
        if self._holder() == suspect and self._end(suspect):
            log.error("process %d ended: it stood inside a commit for too long", suspect.pid)
        self._suspect = None


def end_process(holder: Holder) -> bool:
    """Kill exactly this process; False if it is no longer there, or lives in another container."""
    if holder.pid_namespace != _pid_namespace():
        log.error("process %d is of another container and cannot be ended from here", holder.pid)
        return False
    try:
        # The descriptor stands for one process: no other can come between the check and the end.
        descriptor = os.pidfd_open(holder.pid)
    except OSError:
        return False
    try:
        if _started(holder.pid) != holder.started:
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)


def _started(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The second field is the command in parentheses and may hold anything; the 22nd is the start.
    return int(stat.rpartition(b")")[2].split()[19])


def _pid_namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0
