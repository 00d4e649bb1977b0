"""`make demo`: audits a folder with four agents and a coordinator, each a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.bus.connect import open_bus
from holdfast.cli.settings import load_settings
from holdfast.cli.supervisor import (
    Happening,
    ProcessNotice,
    ProcessSpec,
    Supervisor,
    SupervisorSettings,
    last_words,
)
from holdfast.client import Client, Run
from holdfast.schemas import Event, EventType
from holdfast.schemas.errors import ConfigurationError

from . import witness
from .plan import audit_plan

__all__ = ["Choices", "audit"]

AGENTS = ("scout", "inspector", "historian", "editor")
VICTIM = "inspector"
HOME = Path(".holdfast")
STEPS_EACH = 4
PLAIN_EVERY = 25
"""Without a terminal: one line of progress each so many files."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What was asked for on the command line. `bus`: a URL."""

    folder: Path
    out: Path
    bus: str
    kill: bool = False


@dataclass(slots=True)
class Progress:
    """How far the audit is, by its events."""

    total: int = 0
    done: int = 0
    ended: set[str] = field(default_factory=set)
    line_open: bool = False

    def take(self, event: Event) -> bool:
        """Take one event; True if a file more is done."""
        task = event.task
        if task is None:
            return False
        if event.type is EventType.TASK_EXPANDED:
            self.total = task.total
        if event.type is not EventType.TASK_SUCCEEDED or not task.task_id.startswith("inspect."):
            return False
        self.ended.add(task.task_id)
        self.done = len(self.ended)
        return True

    def show(self) -> None:
        """Tell it: one line that changes on a terminal, a line now and then elsewhere."""
        if sys.stdout.isatty():
            width = 30
            full = width * self.done // max(1, self.total)
            bar = "█" * full + "·" * (width - full)
            print(f"\r  inspected {bar} {self.done} of {self.total}", end="", flush=True)
            self.line_open = True
            if self.done == self.total:
                self.close_line()
        elif self.done % PLAIN_EVERY == 0 or self.done == self.total:
            print(f"  inspected {self.done} of {self.total}", flush=True)

    def close_line(self) -> None:
        """End the changing line, so that another can follow."""
        if self.line_open:
            print()
            self.line_open = False


class Kill:
    """`KILL=1`: ends the inspector half-way as `kill -9` does, and finds out what came of it."""

    def __init__(self, supervisor: Supervisor, witness_file: Path) -> None:
        self._supervisor = supervisor
        self._witness = witness_file
        self._kept: frozenset[str] = frozenset()
        self._killed_at = 0.0
        self._at = 0.0
        self.done = 0
        self.total = 0
        self.back_after_s: float | None = None

    @property
    def happened(self) -> bool:
        """Whether it was killed."""
        return self._killed_at > 0

    def strike(self, progress: Progress) -> None:
        """Kill it now."""
        self.done, self.total = progress.done, progress.total
        self._kept = frozenset(progress.ended)
        self._at, self._killed_at = time.time(), time.monotonic()
        pid = self._supervisor.kill(VICTIM, signal.SIGKILL)
        progress.close_line()
        print(f"  kill -9 {pid} ({VICTIM}), at {self.done} of {self.total}", flush=True)

    def heard(self) -> None:
        """A result has come: the first one after the kill tells how long the gap was."""
        if self.happened and self.back_after_s is None:
            self.back_after_s = time.monotonic() - self._killed_at

    def story(self) -> str:
        """What happened, from the witness of executions that stands outside of the system."""
        bodies: dict[tuple[str, str], list[float]] = {}
        for line in self._witness.read_text().splitlines():
            seen = json.loads(line)
            if seen["task"].startswith("inspect."):
                bodies.setdefault((seen["task"], seen["step"]), []).append(seen["at"])
        again = [key for key, starts in bodies.items() if len(starts) > 1]
        repeated = [
            key for key, starts in bodies.items() if key[0] in self._kept and max(starts) > self._at
        ]
        return (
            f"{VICTIM} killed at {self.done} of {self.total}; back after "
            f"{self.back_after_s or float('nan'):.1f} s; {len(self._kept)} results kept, "
            f"{len(again)} steps resumed, {len(repeated)} repeated"
        )


async def audit(choices: Choices) -> Path:
    """Run one audit; return the report's path. Raises `ConfigurationError`, `RunFailed`."""
    HOME.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="audit-", dir=HOME) as scratch:
        witness_file = Path(scratch) / "witness.jsonl"
        witness_file.touch()
        environment = {"HOLDFAST_BUS": choices.bus, witness.VARIABLE: str(witness_file.resolve())}
        if choices.bus.startswith("kafka"):
            (HOME / "blobs").mkdir(exist_ok=True)
            environment["HOLDFAST_BLOBS"] = f"file://{(HOME / 'blobs').resolve()}"
        os.environ.update(environment)  # the client's too
        await create_topics(choices.bus)
        async with services(environment) as supervisor, Client(url=choices.bus) as client:
            run = await client.submit(
                audit_plan(),
                {"folder": str(choices.folder.resolve()), "out": str(choices.out.resolve())},
            )
            print(f"  run {run.id}", flush=True)
            kill = Kill(supervisor, witness_file)
            await follow(run, supervisor, kill if choices.kill else None)
            report = await run.result()
            if kill.happened:
                print(f"\n{kill.story()}")
            tell(run.id, report)
    return choices.out / "report.md"


async def create_topics(url: str) -> None:
    """Make what the services would make, so that nobody has to wait for another."""
    bus = open_bus(url)
    await bus.start()
    try:
        settings = load_settings(bus=url)
        await bus.create_topics(settings.topics.coordinator_specs(settings.topic_partitions))
    finally:
        await bus.close()


@contextlib.asynccontextmanager
async def services(environment: dict[str, str]) -> AsyncIterator[Supervisor]:
    """Start the coordinator and the agents; stop them at the end of the block."""
    settings = SupervisorSettings()
    async with Supervisor(settings, notice) as supervisor:
        await supervisor.start([spec(name, environment) for name in ("coordinator", *AGENTS)])
        for name in sorted(supervisor.processes):
            found = supervisor.processes[name]
            print(f"  {name:<12} pid {found.pid:<8} {found.spec.log}", flush=True)
        yield supervisor


def spec(name: str, environment: dict[str, str]) -> ProcessSpec:
    """One service, as anybody would start it."""
    what = ["coordinator"] if name == "coordinator" else ["agent", f"examples.audit.agents:{name}"]
    command = (sys.executable, "-m", "holdfast.cli", *what, "--instance", f"audit-{name}")
    return ProcessSpec(name, command, HOME / "logs" / f"audit-{name}.log", environment)


def notice(happened: ProcessNotice) -> None:
    """Say what becomes of the processes."""
    if happened.happening is Happening.DIED:
        print(f"  {happened.name} (pid {happened.pid}) ended with {happened.exit_code}", flush=True)
    elif happened.happening is Happening.STARTED and happened.starts > 1:
        print(f"  {happened.name} is back as pid {happened.pid}", flush=True)


async def follow(run: Run[object], supervisor: Supervisor, kill: Kill | None) -> None:
    """Show the run until it has ended, or a service cannot be kept running."""
    gave_up = asyncio.create_task(supervisor.gave_up.get())
    watching = asyncio.create_task(watch(run, kill))
    try:
        await asyncio.wait({gave_up, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not watching.done():
            found = gave_up.result()
            log = supervisor.processes[found.name].spec.log
            raise ConfigurationError(f"{found.name} cannot run: {last_words(log)} (see {log})")
        await watching
    finally:
        for task in (gave_up, watching):
            task.cancel()


async def watch(run: Run[object], kill: Kill | None) -> None:
    """Take the run's events to its end."""
    progress = Progress()
    async for event in run.events():
        if not progress.take(event):
            continue
        progress.show()
        if kill is not None:
            kill.heard()
            if not kill.happened and progress.done >= max(1, progress.total // 2):
                kill.strike(progress)
    progress.close_line()


def tell(run_id: str, report: object) -> None:
    """Say where the report is, and what is worth trying next."""
    assert isinstance(report, dict)
    print(
        f"\n{report['files']} files inspected, {report['left_out']} left out; "
        f"{report['weaknesses']} weaknesses, {report['secrets']} possible secrets"
    )
    for spot in report["hot_spots"][:3]:
        print(f"  hot spot: {spot}")
    for path in (report["markdown"], report["html"]):
        shown = Path(path)
        with contextlib.suppress(ValueError):
            shown = shown.relative_to(Path.cwd())
        print(f"  report:   {shown}")
    print(
        "\nTry next:\n"
        f"  .venv/bin/holdfast run show {run_id}\n"
        "  make demo KILL=1 PACE=0.05\n"
        "  make demo BUS=kafka"
    )
