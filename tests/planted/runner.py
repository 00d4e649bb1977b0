"""Runs a suite against planted bugs, one process group each, and writes what found them, and when.

    result = await hunt(Hunt(BUGS[name], SUITES["simulation"], minutes=10.0, seed=1))
    result.write(folder)

A suite is a command that takes `--planted NAME`, prints a line `VIOLATION I4 …` for each violation
as it is found, and exits with 1 if there was any. The first such line ends the hunt. A suite that
ends without one is started again behind its seeds until the time is over; one that ends in any
other way has failed, and that counts as not found.

Where a suite can run one history again (it prints `seed N:` behind its violations), that is done
without the bug: what is violated then too was not found by its checkers, it is not the bug's.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.planted.table import Bug

__all__ = ["SUITES", "Hunt", "Result", "SuiteCommand", "hunt"]

ROOT = Path(__file__).parents[2]
END_S = 20.0
"""How long a suite may take to clean up after it was asked to end."""
GROUP_S = 3.0
"""How long those that it has started may take to end when it has."""
LOOK_S = 0.05
TAIL_LINES = 20
"""Of a suite that failed, the result keeps so many of its last lines."""
SEED_S = 10.0
"""How long the line that names the seed may take behind its first violation."""
CONTROL_S = 300.0
"""How long one seed may take."""
_VIOLATION = re.compile(r"^VIOLATION (I\d+)\b[:\s]*(.*)$")
_SEED = re.compile(r"^seed (\d+):")


@dataclass(frozen=True, slots=True)
class SuiteCommand:
    """How a suite is started. `arguments(hunt, seed, minutes_left)`; `seeds`: how many one run
    of it takes; `buses`: those it can run on; `control(seed)`: runs that history alone."""

    name: str
    arguments: Callable[[Hunt, int, float], tuple[str, ...]]
    seeds: int
    buses: tuple[str, ...]
    control: Callable[[int], tuple[str, ...]] | None = None

    def command(self, wanted: Hunt, seed: int, minutes: float) -> list[str]:
        """Return the whole command line for one run."""
        given = self.arguments(wanted, seed, minutes)
        return [sys.executable, *given, "--planted", wanted.bug.name]


def _simulation(wanted: Hunt, seed: int, minutes: float) -> tuple[str, ...]:
    del wanted, minutes
    seeds = str(SIMULATION_SEEDS)
    return ("-m", "tests.simulation", "--seeds", seeds, "--start", str(seed))


def _one_seed(seed: int) -> tuple[str, ...]:
    return ("-m", "tests.simulation", "--seed", str(seed))


def _torture(wanted: Hunt, seed: int, minutes: float) -> tuple[str, ...]:
    bounds = ("--minutes", f"{minutes:.2f}", "--seed", str(seed))
    return ("-m", "tests.torture", "--bus", wanted.bus, "--faults", wanted.bug.fault, *bounds)


SIMULATION_SEEDS = 500
SUITES: Mapping[str, SuiteCommand] = {
    "simulation": SuiteCommand("simulation", _simulation, SIMULATION_SEEDS, ("sim",), _one_seed),
    "torture": SuiteCommand("torture", _torture, 1, ("sqlite", "kafka")),
}
"""The suites, by name."""


@dataclass(frozen=True, slots=True)
class Hunt:
    """One bug, one suite, one bus; at most `minutes`, from `seed` on."""

    bug: Bug
    suite: SuiteCommand
    bus: str
    minutes: float = 10.0
    seed: int = 1


@dataclass(slots=True)
class Result:
    """What came of one hunt; `violation`: (invariant, what) of the first one; `runs`: seeds
    that were taken to their end; `at_seed`: the one that showed it, and shows nothing without."""

    hunt: Hunt
    started: datetime
    seconds: float = 0.0
    runs: int = 0
    violation: tuple[str, str] | None = None
    at_seed: int | None = None
    failure: str = ""
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))

    @property
    def found(self) -> bool:
        """Whether a checker saw the bug."""
        return self.violation is not None

    def document(self) -> dict[str, Any]:
        """Return it as `docs/reliability.md` is made from."""
        bug, invariant = self.hunt.bug, None
        violations = []
        if self.violation is not None:
            invariant, what = self.violation
            violations.append({"invariant": invariant, "what": what, "where": bug.name})
        return {
            "suite": "planted",
            "bus": self.hunt.bus,
            "fault": "planted-bug",
            "point": bug.name,
            "injected": 1,
            "runs": self.runs,
            "tasks": 0,
            "violations": violations,
            "recovery_s": [],
            "bound_s": None,
            "seed": self.hunt.seed if self.at_seed is None else self.at_seed,
            "commit": _commit(),
            "started": self.started.isoformat(timespec="seconds"),
            "seconds": round(self.seconds, 3),
            "machine": {"cores": os.cpu_count()},
            "notes": self.failure or bug.story.partition("\n")[0],
            "area": bug.area,
            "expected": list(bug.breaks),
            "found_after_s": round(self.seconds, 3) if self.found else None,
            "found_by": self.hunt.suite.name if self.found else None,
            "invariant": invariant,
        }

    def write(self, folder: Path) -> Path:
        """Write it into `folder` as one JSON file, and return which."""
        folder.mkdir(parents=True, exist_ok=True)
        hunt = self.hunt
        path = folder / f"planted-{hunt.suite.name}-{hunt.bus}-{hunt.bug.name}.json"
        path.write_text(json.dumps(self.document(), indent=2) + "\n", encoding="utf-8")
        return path


async def hunt(wanted: Hunt) -> Result:
    """Run the suite with the bug until the first violation, a failure, or the end of the time."""
    result = Result(wanted, datetime.now(UTC))
    began = time.monotonic()
    seed = wanted.seed
    try:
        async with asyncio.timeout(wanted.minutes * 60):
            while not result.found and not result.failure:
                left = wanted.minutes - (time.monotonic() - began) / 60
                await _run_once(result, wanted.suite.command(wanted, seed, left))
                seed += wanted.suite.seeds
    except TimeoutError:
        pass
    result.seconds = time.monotonic() - began
    if result.at_seed is not None and wanted.suite.control is not None:
        await _compare(result, wanted.suite.control(result.at_seed))
    return result


async def _compare(result: Result, arguments: tuple[str, ...]) -> None:
    """Run the history that showed the bug once more, without it."""
    process = await _start([sys.executable, *arguments])
    try:
        async with asyncio.timeout(CONTROL_S):
            told, _ = await process.communicate()
    finally:
        await _end(process)
    if process.returncode != 0:
        what = f"seed {result.at_seed} fails without the bug too"
        result.violation = None
        result.failure = f"{what}:\n{told.decode('utf-8', 'replace')[-2_000:]}"


async def _run_once(result: Result, command: list[str]) -> None:
    process = await _start(command)
    try:
        async for text in _lines(process):
            result.tail.append(text)
            if (seen := _VIOLATION.match(text)) is not None:
                result.violation = (seen[1], seen[2])
                if result.hunt.suite.control is not None:
                    result.at_seed = await _seed_of(process)
                return
        code = await process.wait()
        result.runs += result.hunt.suite.seeds
        if code != 0:
            told = "\n".join(result.tail)
            result.failure = f"the suite ended with {code}, without a violation:\n{told}"
    finally:
        await _end(process)


async def _start(command: list[str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
        limit=1 << 20,
    )


async def _lines(process: asyncio.subprocess.Process) -> AsyncIterator[str]:
    assert process.stdout is not None
    while line := await process.stdout.readline():
        yield line.decode("utf-8", "replace").rstrip()


async def _seed_of(process: asyncio.subprocess.Process) -> int | None:
    """Return the seed that the suite names behind what it has violated."""
    with suppress(TimeoutError):
        async with asyncio.timeout(SEED_S):
            async for text in _lines(process):
                if (named := _SEED.match(text)) is not None:
                    return int(named[1])
    return None


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the suite and all that it has started.

    The suite alone is asked at first: it knows of processes that have left its group, and what
    watches over them (torture's zygote) acts when the suite is gone. Only what is in its group
    after that is killed from here.
    """
    for number in (signal.SIGINT, signal.SIGKILL):
        with suppress(ProcessLookupError):
            process.send_signal(number)
        with suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await process.wait()
                break
    with suppress(ProcessLookupError):
        for _ in range(round(GROUP_S / LOOK_S)):
            os.killpg(process.pid, 0)  # raises once nobody is left
            await asyncio.sleep(LOOK_S)
        os.killpg(process.pid, signal.SIGKILL)


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()
