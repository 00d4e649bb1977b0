"""The thread that ends a process which stood still: by a stop, a suspend, or a blocked loop.

A machine that is suspended cannot be had in a test. What suspend does is done to the clock: it
jumps, while the process itself notices nothing.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from typing import Any

import pytest

from holdfast.bus.port import EXIT_RESTART
from holdfast.bus.slot import watchdog as module
from tests.broker import REPOSITORY
from tests.waiting import until

PROGRAM = """
import asyncio, time
from holdfast.bus.slot.watchdog import Watchdog

async def main():
    Watchdog(0.5).start()
    await asyncio.sleep(0.2)
    {what}
    await asyncio.sleep(5)

asyncio.run(main())
"""


def ends(what: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(what=what)],
        capture_output=True, text=True, cwd=REPOSITORY, timeout=30,
    )  # fmt: skip


def test_a_loop_that_is_blocked_ends_its_process_and_says_where() -> None:
    done = ends("time.sleep(4)")
    assert done.returncode == EXIT_RESTART, done.stderr
    assert "the event loop has stood still" in done.stderr
    assert "in main" in done.stderr, "the stack shows where"


def test_a_loop_that_turns_is_left_alone() -> None:
    done = ends("raise SystemExit(3)")
    assert done.returncode == 3


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(module.logging, "shutdown", lambda: None)
    return codes


async def test_a_machine_that_was_suspended_ends_its_services(
    exits: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asleep_s = 0.0
    now = module._now
    monkeypatch.setattr(module, "_now", lambda: now() + asleep_s)
    watchdog = module.Watchdog(3.0)
    watchdog.start()
    await asyncio.sleep(0.3)
    assert exits == []
    asleep_s = 3_600.0
    await until(lambda: exits, "nobody noticed that the machine slept")
    watchdog.stop()
    assert exits[0] == EXIT_RESTART
    assert "was stopped for 36" in caplog.text


def test_its_clock_counts_the_machine_s_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(time, "clock_gettime", lambda which: asked.append(which) or 1.0)
    module._now()
    assert asked == [time.CLOCK_BOOTTIME]
