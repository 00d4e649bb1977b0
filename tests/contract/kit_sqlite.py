"""The embedded bus for the contract suite: a file in the test's own folder."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from holdfast.bus.embedded import EmbeddedBus, EmbeddedSettings
from holdfast.bus.embedded.commit_thread import CommitThread, commit
from holdfast.bus.port import Bus
from tests.contract.kit import PATIENCE_S, BusKit, Timing

HOLDER = """
import fcntl, sys, time
handles = [open(path, "r+b") for path in sys.argv[1:]]
for handle in handles:
    fcntl.flock(handle, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


class Held:
    """A commit thread that stands before its COMMIT. The thread waits; the loop goes on."""

    def __init__(self) -> None:
        self._inside = threading.Event()
        self._go = threading.Event()

    def __call__(self, db: sqlite3.Connection) -> None:
        self._inside.set()
        assert self._go.wait(PATIENCE_S), "never released"
        commit(db)

    async def reached(self) -> None:
        assert await asyncio.to_thread(self._inside.wait, PATIENCE_S), "no commit came"

    def release(self) -> None:
        self._go.set()


class SqliteKit(BusKit):
    name: ClassVar[str] = "sqlite"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._path = folder / "bus.db"
        self._holder: subprocess.Popen[bytes] | None = None

    @classmethod
    def create(cls, request: pytest.FixtureRequest, folder: Path) -> SqliteKit:
        return cls(folder)

    @property
    def url(self) -> str:
        return f"sqlite:///{self._path}"

    @classmethod
    def build(cls, url: str, timing: Timing) -> Bus:
        return EmbeddedBus(
            EmbeddedSettings(
                Path(url.removeprefix("sqlite:///")),
                connect_timeout_s=timing.connect_s,
                operation_timeout_s=timing.operation_s,
                session_timeout_s=timing.session_s,
                heartbeat_s=min(0.5, timing.session_s / 6),
            )
        )

    @classmethod
    @asynccontextmanager
    async def hold_commit(cls, bus: Bus) -> AsyncIterator[Held]:
        held, thread = Held(), commit_thread(bus)
        thread.commit = held
        try:
            yield held
        finally:
            thread.commit = commit
            held.release()

    @asynccontextmanager
    async def lose_answer(self, bus: Bus, *, committed: bool) -> AsyncIterator[None]:
        def lost(db: sqlite3.Connection) -> None:
            thread.commit = commit
            if committed:
                commit(db)
            raise sqlite3.OperationalError("disk I/O error")

        thread = commit_thread(bus)
        thread.commit = lost
        try:
            yield
        finally:
            thread.commit = commit

    async def cut(self) -> None:
        """Another process stands in the queue, as one that was stopped inside a commit does."""
        folder = Path(f"{self._path}.d")
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / "gate", folder / "lock"]
        for path in paths:
            path.touch()
        command = [sys.executable, "-c", HOLDER, *map(str, paths)]
        self._holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._holder.stdout is not None
        assert await asyncio.to_thread(self._holder.stdout.readline) == b"held\n"

    async def restore(self) -> None:
        if self._holder is not None:
            self._holder.communicate(timeout=PATIENCE_S)
            self._holder = None

    async def compact(self, bus: Bus, topic: str) -> bool:
        assert isinstance(bus, EmbeddedBus)
        await bus.tidy(dirty_min=1)
        return True

    async def dispose(self) -> None:
        await self.restore()


def commit_thread(bus: Bus) -> CommitThread:
    assert isinstance(bus, EmbeddedBus)
    assert bus._open is not None
    return bus._open.thread
