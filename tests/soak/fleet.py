"""Services that are started as users' are: a new interpreter each, so that a start is a start.

The torture forks them from one process that has imported everything, for the sake of speed; here
start-up time and memory are what is measured.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from holdfast.cli.lifeline import LIFELINE_VARIABLE
from tests.torture.fleet import ROOT, Fleet, Member

__all__ = ["ProcessFleet"]

LOOK_S = 0.02
READY_MAX_S = 120.0
Started = Callable[[Member, float], None]


class ProcessFleet(Fleet):
    """See `Fleet`. `on_ready`: hears of each start, with its seconds from the start of the process
    until it said that it is ready."""

    def __init__(self, folder: Path, variables: Mapping[str, str], on_ready: Started) -> None:
        super().__init__(folder, variables)
        self._on_ready = on_ready
        self._lifeline: tuple[int, int] | None = None
        self._living: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Nothing has to be there before the services."""
        self._lifeline = os.pipe()

    async def close(self) -> None:
        """Kill everything."""
        self._closing = True
        for pause in self._pauses:
            pause.cancel()
        for member in self.members.values():
            member.wanted = False
            self.send(member.name, signal.SIGKILL)
        await asyncio.gather(*self._living, return_exceptions=True)
        for end in self._lifeline or ():
            os.close(end)

    def _start(self, member: Member) -> None:
        if self._closing or not member.wanted:
            return
        member.starts += 1
        member.started_at = time.monotonic()
        member.down.clear()
        living = asyncio.create_task(self._live(member))
        self._living.add(living)
        living.add_done_callback(self._living.discard)

    async def _live(self, member: Member) -> None:
        assert self._lifeline is not None
        reading_end = self._lifeline[0]
        told_before = member.log.stat().st_size if member.log.exists() else 0
        variables = {**self._variables, **member.variables, LIFELINE_VARIABLE: str(reading_end)}
        with member.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "tests.soak.service", *member.arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, **variables},
                start_new_session=True,
                pass_fds=(reading_end,),
            )
        self._hear({"started": member.name, "pid": process.pid})
        if self._closing:
            self.send(member.name, signal.SIGKILL)
        waiting = asyncio.create_task(self._wait_ready(member, told_before))
        status = await process.wait()
        waiting.cancel()
        self._hear({"ended": member.name, "pid": process.pid, "status": status})

    async def _wait_ready(self, member: Member, told_before: int) -> None:
        began, pid = member.started_at, member.pid
        async with asyncio.timeout(READY_MAX_S):
            while True:
                with member.log.open("rb") as log:
                    log.seek(told_before)
                    if f" ready (process {pid})".encode() in log.read():
                        break
                await asyncio.sleep(LOOK_S)
        self._on_ready(member, time.monotonic() - began)
