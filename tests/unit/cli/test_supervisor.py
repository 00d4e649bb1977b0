"""Processes are started, restarted with back-off, stopped, and never outlive their parent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.cli.supervisor import (
    Happening,
    ProcessNotice,
    ProcessSpec,
    Supervisor,
    SupervisorSettings,
    last_words,
)
from holdfast.schemas.errors import ConfigurationError

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
FAST = SupervisorSettings(backoff_s=0.01, backoff_max_s=0.04, grace_s=5.0)


def spec(folder: Path, name: str, code: str = SLEEPER) -> ProcessSpec:
    return ProcessSpec(name, (sys.executable, "-S", "-c", code), folder / f"{name}.log")


async def until(condition: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)
    assert condition(), what


async def test_a_killed_process_comes_back(tmp_path: Path) -> None:
    told: list[ProcessNotice] = []
    async with Supervisor(FAST, told.append) as supervisor:
        await supervisor.start([spec(tmp_path, "one")])
        first = supervisor.kill("one", signal.SIGKILL)
        one = supervisor.processes["one"]
        await until(lambda: one.starts == 2 and one.alive, "restarted")
        assert one.pid != first
    assert [notice.happening for notice in told] == [
        Happening.STARTED,
        Happening.DIED,
        Happening.STARTED,
        Happening.STOPPED,
    ]
    assert told[1].exit_code == -signal.SIGKILL


async def test_the_back_off_doubles_up_to_its_limit(tmp_path: Path) -> None:
    told: list[ProcessNotice] = []
    async with Supervisor(FAST, told.append) as supervisor:
        await supervisor.start([spec(tmp_path, "one", "raise SystemExit(1)")])
        await until(lambda: supervisor.processes["one"].starts >= 5, "restarted")
    waits = [notice.backoff_s for notice in told if notice.happening is Happening.DIED]
    assert waits[:4] == [0.01, 0.02, 0.04, 0.04]


async def test_bad_input_is_not_tried_again(tmp_path: Path) -> None:
    async with Supervisor(FAST) as supervisor:
        await supervisor.start([spec(tmp_path, "one", "print('bad port'); raise SystemExit(2)")])
        async with asyncio.timeout(10):
            notice = await supervisor.gave_up.get()
        assert (notice.exit_code, supervisor.processes["one"].starts) == (2, 1)
    assert last_words(tmp_path / "one.log") == "bad port"


async def test_a_process_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    code = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"
    supervisor = Supervisor(SupervisorSettings(grace_s=0.1))
    await supervisor.start([spec(tmp_path, "one", code)])
    await until(lambda: last_words(tmp_path / "one.log") == "up", "it runs")
    await supervisor.stop()
    assert supervisor.processes["one"].process.returncode == -signal.SIGKILL


async def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    async with Supervisor(FAST) as supervisor:
        bad = ProcessSpec("one", ("/nowhere/at/all",), tmp_path / "one.log")
        with pytest.raises(ConfigurationError, match=r"cannot start one.*No such file"):
            await supervisor.start([bad])


async def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file, not a folder")
    async with Supervisor(FAST) as supervisor:
        bad = ProcessSpec("one", (sys.executable,), tmp_path / "logs" / "one.log")
        with pytest.raises(ConfigurationError, match="cannot write the log of one"):
            await supervisor.start([bad])


async def test_children_have_a_session_of_their_own(tmp_path: Path) -> None:
    async with Supervisor(FAST) as supervisor:
        await supervisor.start([spec(tmp_path, "one")])
        assert os.getsid(supervisor.processes["one"].pid) != os.getsid(0)


PARENT = """
import asyncio, sys
from pathlib import Path
from holdfast.cli.supervisor import ProcessSpec, Supervisor

CHILD = '''
from holdfast.cli.lifeline import hold_lifeline
hold_lifeline()
import time
print("up", flush=True)
time.sleep(600)
'''

async def main():
    supervisor = Supervisor()
    await supervisor.start([ProcessSpec("c", (sys.executable, "-c", CHILD), Path(sys.argv[1]))])
    print(supervisor.processes["c"].pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_children_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(log)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        await until(lambda: last_words(log) == "up", "the child runs")
        parent.kill()
        parent.wait()
        await until(lambda: not runs(child), "the child is gone")
    finally:
        parent.stdout.close()
        if runs(child):
            os.kill(child, signal.SIGKILL)


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
