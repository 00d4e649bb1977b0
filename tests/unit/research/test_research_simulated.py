"""The agents of the research in a simulated world: sent back, planned again, killed."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from examples.research import agents, reader, scripted, writer
from examples.research.checks import misquoted
from examples.research.models import Part, Problem, Quote, Reading, ReadRequest, Report, Verdict
from examples.research.plan import research_plan
from examples.research.planner import REPLANS_MAX
from holdfast.schemas import compare_plans
from holdfast.testing import Simulation

from .conftest import Put

AGENTS = (agents.planner, agents.reader, agents.writer, agents.critic)
NAMES = [agent.name for agent in AGENTS]
CRASHES = 16
"""Of a few hundred: each is a run of its own."""


@contextlib.contextmanager
def asked(folder: Path, text: str, out: Path) -> Iterator[tuple[Any, Report]]:
    given = {"text": text, "folder": str(folder), "out": str(out)}
    with Simulation(AGENTS) as simulation:
        run = simulation.submit(research_plan(), given)
        yield run, Report.model_validate(run.result())
        assert simulation.violations() == []


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """Our own pages; a copy, so that nobody edits them meanwhile."""
    return Path(shutil.copytree(Path(__file__).parents[3] / "docs", tmp_path / "docs"))


def quotes_of(report: Report) -> list[Quote]:
    return [quote for answer in report.answers for quote in answer.quotes]


@pytest.fixture
def papers(folder: Path, put: Put) -> Path:
    """Documents of which the moon's alone would fill the first draft."""
    put("moon.md", "# Moon\n\nMoon tide.\n\nTide, moon!\n\nThe moon; the tide.\n\nA moon tide.\n")
    put("sun.md", "# Sun\n\nThe sun and the moon make a spring tide, they say.\n")
    put("wind.md", "# Wind\n\nWind makes waves.\n\nNo wind, no waves.\n")
    put("sea.md", "# Sea\n\nWaves run over the sea. Its tide is slow.\n")
    return folder


def test_a_question_about_our_own_pages_is_answered(docs: Path, tmp_path: Path) -> None:
    text = "What survives a kill -9, and how does a cancel reach called tasks, as in oncall.md?"
    with asked(docs, text, tmp_path / "out") as (run, report):
        assert len(report.answers) == 2
        assert len(quotes_of(report)) >= 6
        assert not [wrong for quote in quotes_of(report) if (wrong := misquoted(docs, quote))]
        for answer in report.answers:
            assert len({quote.path for quote in answer.quotes}) >= 2, answer.part.text
        page = Path(report.path).read_text()
        for quote in quotes_of(report):
            assert f"`{quote.place}`\n~~~text\n{quote.text}\n~~~" in page
        # The plan grew: once by the split, once because the named source is not there.
        assert list(run.plan(1).tasks) == ["survey", "split"]
        (lost,) = report.answers[1].missing
        assert (lost.path, lost.reason) == ("oncall.md", "not there")
        changes = {each.task_id: each.kind for each in compare_plans(run.plan(2), run.plan(3))}
        assert changes == {"answer-2": "changed", "read-2-2": "added", "look-2-2": "added"}
        assert run.plan(3).tasks["read-2-2"].added_by == "look-2"


def test_a_draft_is_sent_back_until_it_is_good(papers: Path, tmp_path: Path) -> None:
    with asked(papers, "Does the moon make the tide?", tmp_path / "out") as (run, report):
        (answer,) = report.answers
        assert [problem.kind for problem in answer.sent_back[0].problems] == ["one-sided"]
        assert (answer.rounds, answer.open) == (2, [])
        assert {quote.path for quote in answer.quotes} == {"moon.md", "sun.md"}
        assert len(run.calls("check", kind="step")) == 2


def test_a_draft_is_sent_back_at_most_twice(
    papers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self: object, part: Part, problems: list[Problem], unread: list[str]) -> Verdict:
        told = Problem(kind="few", subject="", text="not good enough")
        return Verdict(accepted=False, problems=[told])

    monkeypatch.setattr(scripted.ScriptedThinker, "judge", never)
    with asked(papers, "Does the moon make the tide?", tmp_path / "out") as (run, report):
        (answer,) = report.answers
        assert (answer.rounds, len(answer.sent_back)) == (writer.ROUNDS_MAX, 2)
        assert [problem.text for problem in answer.open] == ["not good enough"]
        assert len(run.calls("judge", kind="step")) == 3


def test_a_source_that_vanishes_is_planned_around(
    papers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put: Put
) -> None:
    """It stands in the index, and is gone when it is to be read; so is its first stand-in."""
    for n in range(6):
        put(f"extra{n}.md", f"# Extra\n\nA tide of the moon, number {n}.\n")
    seen = reader.look

    def look(request: ReadRequest) -> Reading:
        with contextlib.suppress(FileNotFoundError):
            if request.path in ("extra0.md", "moon.md"):
                (papers / request.path).unlink()
        return seen(request)

    monkeypatch.setattr(reader, "look", look)
    with asked(papers, "Does the moon make the tide?", tmp_path / "out") as (run, report):
        (answer,) = report.answers
        assert {lost.path for lost in answer.missing} == {"extra0.md", "moon.md"}
        assert {lost.reason for lost in answer.missing} == {"not there"}
        assert not [quote for quote in answer.quotes if misquoted(papers, quote)]
        versions = [list(run.plan(n).tasks) for n in range(1, run.events[-1].run.plan_version + 1)]
        assert [name for name in versions[-1] if name.startswith("read-1-")]
        assert all(len(before) < len(after) for before, after in pairwise(versions))


def test_a_folder_that_vanishes_ends_the_planning(
    papers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(request: ReadRequest) -> Reading:
        return Reading(path=request.path, problem="not there")

    asked_for: list[str] = []

    def always(self: object, part: Part, missing: list[str]) -> list[str]:
        asked_for.extend(missing)
        return [] if len(asked_for) > 50 else ["another.md"]

    monkeypatch.setattr(reader, "look", gone)
    monkeypatch.setattr(scripted.ScriptedThinker, "stand_ins", always)
    with asked(papers, "Does the moon make the tide?", tmp_path / "out") as (run, report):
        (answer,) = report.answers
        assert (answer.quotes, report.quotes) == ([], 0)
        versions = [event.run.plan_version for event in run.events if event.run is not None]
        assert max(versions) == 2 + REPLANS_MAX
        assert "No document says anything" in Path(report.path).read_text()


def test_a_quote_that_is_not_there_never_reaches_the_answer(
    papers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a model might do: a quote that it has made up."""
    search = scripted.ScriptedThinker.search

    def invented(self: Any, part: Part, path: str, lines: list[str]) -> list[Quote]:
        lie = Quote(
            path=path, line=1, text="The moon is a tide.", stems=["moon", "tid"], score=99.0
        )
        return [lie, *search(self, part, path, lines)]

    monkeypatch.setattr(scripted.ScriptedThinker, "search", invented)
    with asked(papers, "Does the moon make the tide?", tmp_path / "out") as (_, report):
        (answer,) = report.answers
        assert "wrong" in {problem.kind for problem in answer.sent_back[0].problems}
        assert answer.quotes
        assert not [quote for quote in answer.quotes if misquoted(papers, quote)]


def test_a_question_that_nobody_can_answer(papers: Path, tmp_path: Path) -> None:
    with asked(papers, "Who feeds zebras?", tmp_path / "out") as (_, report):
        assert report.text == "Who feeds zebras: no document says anything."


def test_the_answer_is_the_same_whoever_dies(papers: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = {
        "text": "Does the moon make the tide, as in mars.md, and wind the waves?",
        "folder": str(papers),
        "out": str(out),
    }
    crashes = list(Simulation.crashes(research_plan(), given, agents=AGENTS, of=NAMES))
    assert {crash.process for crash in crashes} == set(NAMES)
    page = out / "answer.md"
    expected = page.read_bytes()
    assert b"mars.md" in expected
    assert b"Sent back" in expected
    for crash in crashes[:: max(1, len(crashes) // CRASHES)]:
        page.unlink()
        run = crash.run(check_invariants=True)
        assert Report.model_validate(run.result()).missing == 1, crash
        assert page.read_bytes() == expected, crash
        assert run.effects("write") == 1, crash
