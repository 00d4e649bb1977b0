"""`make demo`: audits a folder with four agents and a coordinator, each a process of its own."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from examples.killing import Kill
from examples.processes import HOME, START_S, environment_of, kept_running, prepare_bus, services
from examples.witness import VARIABLE
from holdfast.client import Client, Run
from holdfast.schemas import Event, EventType

from .plan import audit_plan

__all__ = ["Choices", "audit"]

AGENTS = ("scout", "inspector", "historian", "editor")
VICTIM = "inspector"
INSPECTIONS = "inspect."
"""What the ids of the inspections' tasks begin with."""
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
        if event.type is not EventType.TASK_SUCCEEDED or not task.task_id.startswith(INSPECTIONS):
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


async def audit(choices: Choices) -> Path:
    """Run one audit; return the report's path. Raises `ConfigurationError`, `RunFailed`."""
    environment = environment_of(choices.bus)
    with tempfile.TemporaryDirectory(prefix="audit-", dir=HOME) as scratch:
        witness_file = Path(scratch) / "witness.jsonl"
        witness_file.touch()
        environment[VARIABLE] = str(witness_file.resolve())
        os.environ.update(environment)  # the client's too
        await prepare_bus(choices.bus)
        async with (
            services("audit", AGENTS, environment) as supervisor,
            Client(url=choices.bus, manifest_wait_s=START_S) as client,
        ):
            given = {"folder": str(choices.folder.resolve()), "out": str(choices.out.resolve())}
            run = await kept_running(supervisor, client.submit(audit_plan(), given))
            print(f"  run {run.id}", flush=True)
            kill = Kill(supervisor, VICTIM, witness_file, INSPECTIONS)
            await kept_running(supervisor, watch(run, kill if choices.kill else None))
            report = await run.result()
            if kill.happened:
                print(f"\n{kill.story()}")
            tell(run.id, report)
    return choices.out / "report.md"


async def watch(run: Run[object], kill: Kill | None) -> None:
    """Take the run's events to its end."""
    progress = Progress()
    async for event in run.events():
        if not progress.take(event):
            continue
        progress.show()
        if kill is not None:
            kill.heard(VICTIM)
            if not kill.happened and progress.done >= max(1, progress.total // 2):
                progress.close_line()
                kill.strike(progress.ended, f"{progress.done} of {progress.total}")
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
