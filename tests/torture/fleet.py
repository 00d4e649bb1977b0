"""The services of one torture: started, hurt, and started again under the same name when they die.

The supervisor of users is systemd or Kubernetes; this one restarts at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.torture.points import Control

__all__ = ["Fleet", "Member"]

ROOT = Path(__file__).parents[2]
PRELOADED = (
    "holdfast.agents",
    "holdfast.agents.threads",
    "holdfast.bus.embedded",
    "holdfast.bus.kafka",
    "holdfast.bus.registry",
    "holdfast.bus.slot",
    "holdfast.cli.invocation",
    "holdfast.cli.modules",
    "holdfast.cli.service",
    "holdfast.cli.settings",
    "holdfast.coordinator",
    "holdfast.coordinator.projection",
    "tests.torture.service",
    "tests.torture.hostile_agent",
    "tests.torture.workload_agents",
    "tests.torture.wrong_agents",
    "uvloop",
)
READY_S = 60.0
GONE_S = 30.0
CRASH_PAUSE_S = 0.5
"""Before a service that ended without anybody's doing is started again."""


@dataclass
class Member:
    """One service under its stable name, whichever process it is right now.

    `started_at`, `ended_at`: monotonic seconds. `logged_bytes`: of its log, when it was last
    started. `wanted` False: it is not started again.
    `expected`: the harness has done it harm, so that its end explains itself.
    """

    name: str
    arguments: tuple[str, ...]
    control: Control
    log: Path
    variables: dict[str, str] = field(default_factory=dict)
    pid: int | None = None
    starts: int = 0
    started_at: float = 0.0
    ended_at: float = 0.0
    logged_bytes: int = 0
    wanted: bool = True
    expected: bool = False
    up: asyncio.Event = field(default_factory=asyncio.Event)
    down: asyncio.Event = field(default_factory=asyncio.Event)


class Fleet:
    """All services of one deployment. `variables`: what all of them are told."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self.folder = folder
        self.members: dict[str, Member] = {}
        self.unexplained: list[str] = []
        """Ends that nobody caused: findings."""
        self.explained: frozenset[int] = frozenset()
        """Exit codes that the fault at hand brings about."""
        self.on_end: list[Callable[[Member, int], None]] = []
        self._variables = dict(variables)
        self._zygote: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._listening: asyncio.Task[None] | None = None
        self._pauses: set[asyncio.TimerHandle] = set()
        self._closing = False

    async def start(self) -> None:
        """Start the zygote."""
        ours, theirs = socket.socketpair()
        log = (self.folder / "zygote.log").open("wb")
        self._zygote = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.zygote", str(theirs.fileno()), *PRELOADED],
            pass_fds=(theirs.fileno(),),
            stdout=log,
            stderr=log,
            cwd=ROOT,
            env={**os.environ, **self._variables, "PYTHONPATH": _path()},
        )
        log.close()
        theirs.close()
        ours.setblocking(False)
        self._socket = ours
        ready = asyncio.Event()
        self._listening = asyncio.create_task(self._listen(ready))
        async with asyncio.timeout(READY_S):
            await ready.wait()

    async def close(self) -> None:
        """Kill everything."""
        self._closing = True
        for pause in self._pauses:
            pause.cancel()
        for member in self.members.values():
            member.wanted = False
            self.send(member.name, signal.SIGKILL)
        if self._listening is not None:
            self._listening.cancel()
        if self._socket is not None:
            self._socket.close()
        if self._zygote is not None:
            await asyncio.to_thread(self._zygote.wait)

    def add(self, name: str, *arguments: str, variables: Mapping[str, str] | None = None) -> Member:
        """Start a service under a name of its own; it is restarted from now on."""
        member = Member(
            name,
            (*arguments, "--instance", name),
            Control(self.folder, name),
            self.folder / f"{name}.log",
            dict(variables or {}),
        )
        self.members[name] = member
        self._start(member)
        return member

    def send(self, name: str, number: signal.Signals) -> bool:
        """Send a signal to the service's process; False if there is none right now."""
        member = self.members[name]
        if member.pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(member.pid, number)
            return True
        return False

    def kill(self, name: str) -> bool:
        """`kill -9`; it will be started again."""
        self.members[name].expected = True
        return self.send(name, signal.SIGKILL)

    async def retire(self, name: str, number: signal.Signals = signal.SIGTERM) -> float:
        """End a service for good; return how many seconds it took."""
        member = self.members[name]
        member.wanted = False
        member.expected = True
        began = time.monotonic()
        if member.pid is not None:
            self.send(name, number)
            async with asyncio.timeout(GONE_S):
                await member.down.wait()
        del self.members[name]
        return time.monotonic() - began

    async def once(self, name: str, *arguments: str, timeout_s: float = READY_S) -> int | None:
        """Run a service that is expected to end by itself; return its exit code, None if it was
        still there after `timeout_s` (it is killed then)."""
        codes: list[int] = []
        member = self.add(name, *arguments)
        member.wanted = False
        listener = lambda ended, code: codes.append(code) if ended is member else None  # noqa: E731
        self.on_end.append(listener)
        try:
            async with asyncio.timeout(timeout_s):
                await member.down.wait()
        except TimeoutError:
            self.send(name, signal.SIGKILL)
            await member.down.wait()
            codes.clear()
        finally:
            self.on_end.remove(listener)
            del self.members[name]
        return codes[0] if codes else None

    async def wait_ready(self, *names: str, timeout_s: float = READY_S) -> None:
        """Return once each has said that it is ready, since it was last started."""
        for name in names or tuple(self.members):
            member = self.members[name]
            deadline = time.monotonic() + timeout_s
            while not _is_ready(member):
                if time.monotonic() > deadline:
                    tail = member.log.read_text(errors="replace")[-2000:]
                    raise AssertionError(f"{name} is not ready within {timeout_s:g} s:\n{tail}")
                await asyncio.sleep(0.02)

    def _start(self, member: Member) -> None:
        if self._closing or not member.wanted:
            return
        member.starts += 1
        member.started_at = time.monotonic()
        member.logged_bytes = member.log.stat().st_size if member.log.exists() else 0
        member.down.clear()
        request = {
            "start": member.name,
            "arguments": list(member.arguments),
            "variables": {**self._variables, **member.variables},
            "log": str(member.log),
        }
        assert self._socket is not None
        self._socket.sendall(json.dumps(request).encode() + b"\n")

    async def _listen(self, ready: asyncio.Event) -> None:
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        unread = b""
        while data := await loop.sock_recv(self._socket, 65536):
            *lines, unread = (unread + data).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "ready" in message:
                    ready.set()
                else:
                    self._hear(message)

    def _hear(self, message: dict[str, Any]) -> None:
        member = self.members.get(message.get("started") or message["ended"])
        if member is None:
            return
        if "started" in message:
            member.pid = message["pid"]
            member.up.set()
            return
        member.pid = None
        member.ended_at = time.monotonic()
        member.up.clear()
        member.down.set()
        self._ended(member, message["status"])

    def _ended(self, member: Member, status: int) -> None:
        for listener in self.on_end:
            listener(member, status)
        explained, member.expected = member.expected, False
        if not member.wanted or self._closing:
            return
        if explained or status == -signal.SIGKILL:
            self._start(member)
            return
        if status not in self.explained:
            self.unexplained.append(f"{member.name} ended with {status}")
        loop = asyncio.get_running_loop()
        self._pauses.add(loop.call_later(CRASH_PAUSE_S, self._start, member))


def _is_ready(member: Member) -> bool:
    if not member.starts or not member.log.exists():
        return False
    return b" ready" in member.log.read_bytes()[member.logged_bytes :]


def _path() -> str:
    return os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
