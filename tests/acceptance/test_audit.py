"""The example over a folder of more than 200 files, with kills in the middle of it."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from examples.audit.plan import audit_plan
from holdfast.client import Client
from holdfast.schemas.records import EventType
from tests.acceptance.deployment import Deployment
from tests.acceptance.observer import observing
from tests.waiting import until

FILES = 210
REPORT = ("report.md", "report.html", "hotspots.svg")
AGENTS = ("scout", "inspector", "historian", "editor")
MODULE = "examples.audit.agents"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Git repository with files of some variety, made from a fixed seed."""
    chance = random.Random(7)
    root = tmp_path / "audited"
    root.mkdir()
    for n in range(FILES):
        branches = "\n".join(
            f"    if x > {k}:\n        x -= {k}" for k in range(chance.randrange(1, 9))
        )
        text = f'"""Module {n}."""\n\n\ndef work(x: int) -> int:\n{branches}\n    return x\n'
        if n % 40 == 3:
            text += "\n\ndef shell(command):\n    import os\n    os.system(command)\n"
        (root / f"module_{n:03}.py").write_text(text)

    def git(*arguments: str) -> None:
        author = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *author, *arguments], cwd=root, check=True, capture_output=True)

    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "all of it")
    for n in (3, 5, 8):
        (root / f"module_{n:03}.py").open("a").write(f"\nLAST = {n}\n")
        git("commit", "-q", "-a", "-m", f"change {n}")
    return root


async def audit(place: Deployment, folder: Path, out: Path, victims: Sequence[str]) -> None:
    """Audit once; half-way kill the victims together and start them again."""
    witness = place.folder / "audit.jsonl"
    async with (
        observing(place, AGENTS) as seen,
        Client(url=place.bus, namespace=place.namespace) as client,
    ):
        run = await client.submit(
            audit_plan(), {"folder": str(folder), "out": str(out)}, run_id=out.name
        )

        def inspected() -> int:
            return sum(
                e.run_id == run.id
                and e.type is EventType.TASK_SUCCEEDED
                and e.task is not None
                and e.task.task_id.startswith("inspect.")
                for e in seen.events
            )

        if victims:
            await until(lambda: inspected() >= FILES // 2, "half of the files", 60)
            for name in victims:
                place.kill(name)
            for name in victims:
                place.again(name)
        await run.result(timeout_s=90)
        await until(lambda: len(seen.ends()[run.id]) == 1)
        lines = [json.loads(line) for line in witness.read_text().splitlines()]
        # The report is an effect: its journal record may be its intent, written before the body.
        bodies = [
            [f"{e['run']}/{e['task']}/step/{e['step']}/", str(e["pid"]), str(int(e["at"] * 1000))]
            for e in lines
            if e["task"].startswith("inspect.") and e["run"] == run.id
        ]
        assert len({key for key, *_ in bodies}) == FILES * 4
        seen.check_steps(bodies, kills=len(victims))
        resumed = {
            e.task.task_id
            for e in seen.events
            if e.run_id == run.id and e.task is not None and e.task.resumes
        }
        assert bool(resumed) == ("inspector-1" in victims), "the kill has met no task in its middle"
        assert set(seen.results().values()) == {1}


async def test_the_report_is_the_same_whoever_is_killed_in_between(
    place: Deployment, folder: Path
) -> None:
    place.environment["PACE"] = "0.03"  # so that a kill meets tasks between two of their steps
    place.environment["HOLDFAST_EXAMPLE_WITNESS"] = str(place.folder / "audit.jsonl")
    place.coordinator("c1")
    for agent in AGENTS:
        place.agent(agent, module=MODULE)
    await asyncio.to_thread(place.wait_ready)
    outs = {}
    for name, victims in {
        "undisturbed": (),
        "agent-killed": ("inspector-1",),
        "coordinator-killed": ("c1",),
        "both-killed": ("inspector-1", "c1"),
    }.items():
        outs[name] = place.folder / name
        await audit(place, folder, outs[name], victims)
    whole = {file: (outs["undisturbed"] / file).read_bytes() for file in REPORT}
    assert b"module_003.py" in whole["report.md"]
    for name, out in outs.items():
        assert {file: (out / file).read_bytes() for file in REPORT} == whole, name
