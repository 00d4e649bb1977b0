"""`make research`: four agents and a coordinator, each a process of its own, answer a question."""

from __future__ import annotations

import asyncio
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from examples.killing import Kill
from examples.processes import HOME, START_S, environment_of, kept_running, prepare_bus, services
from examples.witness import VARIABLE
from holdfast.client import Client, Run
from holdfast.schemas import compare_plans

from .models import Question, Report
from .plan import research_plan
from .progress import Progress
from .reader import pace_s
from .telling import told_answer, told_difference, told_next

__all__ = ["Choices", "research"]

AGENTS = ("planner", "reader", "writer", "critic")
PACE_OF_A_KILL_S = "0.3"
"""Without it all documents are read before anything can be killed."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What was asked for on the command line. `bus`: a URL; `victim`: the process to kill."""

    question: str
    folder: Path
    out: Path
    bus: str
    victim: str | None = None


async def research(choices: Choices) -> None:
    """Answer one question. Raises `ConfigurationError`, `RunFailed`."""
    environment = environment_of(choices.bus)
    if choices.victim is not None and not os.environ.get("PACE"):
        environment["PACE"] = PACE_OF_A_KILL_S
    with tempfile.TemporaryDirectory(prefix="research-", dir=HOME) as scratch:
        witness_file = Path(scratch) / "witness.jsonl"
        witness_file.touch()
        environment[VARIABLE] = str(witness_file.resolve())
        os.environ.update(environment)  # the client's too
        await prepare_bus(choices.bus)
        async with (
            services("research", AGENTS, environment) as supervisor,
            Client(url=choices.bus, manifest_wait_s=START_S) as client,
        ):
            out = str(choices.out.absolute())
            question = Question(text=choices.question, folder=str(choices.folder), out=out)
            run = await kept_running(supervisor, client.submit(research_plan(), question))
            print(f"  run {run.id}", flush=True)
            kill = Kill(supervisor, choices.victim, witness_file) if choices.victim else None
            await kept_running(supervisor, watch(client, run, kill))
            report = Report.model_validate(await run.result())
            print(told_answer(report))
            print(await grown(run))
            if kill is not None:
                print(f"\n{kill.story()}" if kill.happened else "\nNothing was left to be killed.")
            print(told_next(report, run.id))


async def watch(client: Client, run: Run[object], kill: Kill | None) -> None:
    """Take the run's events to its end; kill when half of the documents are read."""
    progress = Progress(client.decode)
    async for event in run.events():
        for line in await progress.take(event):
            print(f"  {line}", flush=True)
        if kill is None or not progress.moved:
            continue
        kill.heard(progress.moved)
        if not kill.happened and 0 < progress.read_all <= 2 * progress.read_done:
            # Those that follow are begun at once; now they are between two of their steps.
            await asyncio.sleep(pace_s() / 2)
            words = f"{progress.read_done} of {progress.read_all} documents"
            kill.strike(progress.ended, words)


async def grown(run: Run[object]) -> str:
    """How the plan grew, version by version, as `holdfast run plan --diff` tells it."""
    newest = await run.status()
    lines = ["", f"The plan grew to version {newest.run.plan_version}:"]
    before = await run.plan(1)
    for version in range(2, newest.run.plan_version + 1):
        after = await run.plan(version)
        lines.append(f"  version {version - 1} -> {version}")
        lines += told_difference(compare_plans(before, after), after)
        before = after
    return "\n".join(lines)
