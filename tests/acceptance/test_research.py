"""The research over this project's own pages, with kills in the middle of it."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from examples.research.checks import misquoted
from examples.research.models import Report
from examples.research.plan import research_plan
from examples.witness import VARIABLE
from holdfast.client import Client
from holdfast.schemas.records import EventType
from tests.acceptance.deployment import ROOT, Deployment
from tests.acceptance.observer import Observer, observing
from tests.waiting import until

AGENTS = ("planner", "reader", "writer", "critic")
MODULE = "examples.research.agents"
MISSING = "oncall.md"
QUESTION = f"What survives a kill -9, and how does a cancel reach called tasks, as in {MISSING}?"
READ_FIRST = 2
"""So many documents are read before the kill."""
START_S, WAIT_S = 90.0, 180.0
"""On a machine that has other things to do."""
EFFECT = "write_answer"
"""The one body that is an effect's: its journal record may be its intent, written before it."""


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """A copy of the pages: nobody edits them meanwhile."""
    return Path(shutil.copytree(ROOT / "docs", tmp_path / "pages"))


def bodies_of(run_id: str, witness: Path) -> list[list[str]]:
    lines = [json.loads(line) for line in witness.read_text().splitlines()]
    return [
        [
            f"{e['run']}/{e['task']}/step/{e['step']}/{e['key']}",
            str(e["pid"]),
            str(int(e["at"] * 1000)),
        ]
        for e in lines
        if e["run"] == run_id and e["step"] != EFFECT
    ]


def read_so_far(seen: Observer, run_id: str) -> int:
    return sum(
        e.run_id == run_id
        and e.type is EventType.TASK_SUCCEEDED
        and e.task is not None
        and e.task.task_id.startswith("read-")
        and "." in e.task.task_id
        for e in seen.events
    )


async def research(place: Deployment, pages: Path, out: Path, victims: Sequence[str]) -> Report:
    """Ask once; in the middle kill the victims together and start them again."""
    async with (
        observing(place, AGENTS) as seen,
        Client(url=place.bus, namespace=place.namespace) as client,
    ):
        given = {"text": QUESTION, "folder": str(pages), "out": str(out)}
        run = await client.submit(research_plan(), given, run_id=out.name)
        if victims:
            await until(
                lambda: read_so_far(seen, run.id) >= READ_FIRST, "documents are read", WAIT_S
            )
            for name in victims:
                place.kill(name)
            for name in victims:
                place.again(name)
        report = Report.model_validate(await run.result(timeout_s=WAIT_S))
        await until(lambda: len(seen.ends()[run.id]) == 1)
        assert set(seen.results().values()) == {1}
        seen.check_steps(bodies_of(run.id, place.folder / "research.jsonl"), kills=len(victims))
        resumed = {
            e.task.task_id
            for e in seen.events
            if e.run_id == run.id and e.task is not None and e.task.resumes
        }
        assert bool(resumed) == ("reader-1" in victims), "the kill has met no task in its middle"
        versions = (await run.status()).run.plan_version
        assert list((await run.plan(1)).tasks) == ["survey", "split"]
        assert (await run.plan(versions)).tasks["read-2-2"].added_by == "look-2"
    return report


async def test_the_answer_is_the_same_whoever_is_killed_in_between(
    place: Deployment, pages: Path
) -> None:
    place.environment["PACE"] = "0.3"  # so that a kill meets tasks between two of their steps
    place.environment[VARIABLE] = str(place.folder / "research.jsonl")
    place.coordinator("c1")
    for agent in AGENTS:
        place.agent(agent, module=MODULE)
    await asyncio.to_thread(place.wait_ready, timeout_s=START_S)
    answers = {}
    for name, victims in {
        "undisturbed": (),
        "reader-killed": ("reader-1",),
        "coordinator-killed": ("c1",),
        "all-killed": ("reader-1", "writer-1", "planner-1", "c1"),
    }.items():
        out = place.folder / name
        report = await research(place, pages, out, victims)
        answers[name] = (out / "answer.md").read_text()
        quotes = [quote for answer in report.answers for quote in answer.quotes]
        assert len(quotes) >= 6
        assert not [why for quote in quotes if (why := misquoted(pages, quote))]
        assert [lost.path for answer in report.answers for lost in answer.missing] == [MISSING]
        assert report.sent_back <= 2 * len(report.answers)
    assert MISSING in answers["undisturbed"]
    assert set(answers.values()) == {answers["undisturbed"]}, "they differ"
