"""`python -m examples.research`: what is refused, what it hands on, what it tells."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from examples.killing import Kill
from examples.research import __main__ as command
from examples.research import demo, telling
from examples.research.models import Answer, LeftOut, Part, Problem, Quote, Report, SentBack
from holdfast.schemas import Plan, compare_plans


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[demo.Choices]:
    """What was begun: nothing is carried out."""
    found: list[demo.Choices] = []

    async def research(choices: demo.Choices) -> None:
        found.append(choices)

    (tmp_path / "papers").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOLDFAST_BUS", raising=False)
    monkeypatch.setattr(demo, "research", research)
    return found


def called(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["examples.research", *arguments])
    return command.main()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["  ", "papers"], "QUESTION has 0 characters"),
        (["x" * 2_001, "papers"], "QUESTION has 2001 characters"),
        (["the?", "papers"], "QUESTION='the?' has no word to look for"),
        (["of notes.md?", "papers"], "has no word to look for"),
        (["tides?", "nowhere"], "FOLDER: cannot read 'nowhere'"),
        (["tides?", "file.md"], "FOLDER: 'file.md' is not a folder"),
    ],
)
def test_bad_input_is_refused_before_anything_is_begun(
    begun: list[demo.Choices],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    told: str,
) -> None:
    Path("file.md").write_text("tide")
    assert called(monkeypatch, *arguments) == command.EXIT_BAD_INPUT
    assert told in capsys.readouterr().err
    assert begun == []


def test_what_is_asked_for_is_handed_on(
    begun: list[demo.Choices], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = [" Why tides? ", "papers", "--kill", "--victim", "critic", "--out", "there"]
    assert called(monkeypatch, *given) == 0
    assert (
        called(monkeypatch, "Which tides?", "papers", "--victim", "critic", "--bus", "sqlite:///x")
        == 0
    )
    first, second = begun
    assert (first.question, first.folder, first.victim) == (
        "Why tides?",
        tmp_path / "papers",
        "critic",
    )
    assert (second.bus, second.victim) == ("sqlite:///x", None)


class Killer:
    """Stands for a supervisor."""

    def __init__(self) -> None:
        self.killed: list[tuple[str, int]] = []
        self.processes = {"reader": SimpleNamespace(starts=1)}

    def kill(self, name: str, number: int) -> int:
        self.killed.append((name, number))
        return 7


def test_a_kill_is_told_from_what_was_executed(tmp_path: Path) -> None:
    witness = tmp_path / "witness.jsonl"
    killer: Any = Killer()
    kill = Kill(killer, "reader", witness)
    assert not kill.happened
    kill.strike({"kept", "repeated"}, "2 of 4 documents")
    assert killer.killed == [("reader", signal.SIGKILL)]
    assert kill.happened
    seen = [
        ("kept", "look", "", -9.0, 1),
        ("resumed", "look", "", -1.0, 1),
        ("resumed", "search", "", 1.0, 2),
        ("again", "look", "", -1.0, 1),
        ("again", "look", "", 1.0, 2),
        ("repeated", "look", "", -5.0, 1),
        ("repeated", "look", "", 2.0, 2),  # what must never be
        ("loop", "choose", "1", -1.0, 3),
        ("loop", "choose", "2", 3.0, 3),  # another round, no other body
    ]
    lines = [
        {"task": task, "step": step, "key": key, "at": kill.at + after, "pid": pid}
        for task, step, key, after, pid in seen
    ]
    witness.write_text("".join(json.dumps(line) + "\n" for line in lines))
    counts = "2 results kept, 3 tasks resumed, 2 steps run again, 1 repeated"
    kill.heard("reader")  # it had said so before it died
    place = "reader killed at 2 of 4 documents"
    assert kill.story() == f"{place}; no result of it since; {counts}"
    killer.processes["reader"].starts = 2
    kill.heard("writer")
    assert "no result of it since" in kill.story()
    kill.heard("reader")
    assert kill.story() == f"{place}; back after 0.0 s; {counts}"


def test_the_answer_is_told_with_all_that_happened() -> None:
    quote = Quote(path="a.md", line=3, text="one\ntwo", stems=[], score=1.0)
    problem = Problem(kind="few", subject="", text="1 of 3 quotes")
    answer = Answer(
        part=Part(number=1, text="why \x1b[31mtides", terms=[], sources=[]),
        quotes=[quote],
        rounds=2,
        sent_back=[SentBack(round=1, problems=[problem])],
        missing=[LeftOut(path="b.md", reason="not there")],
        open=[problem],
    )
    report = Report(
        path="", text="", documents=1, quotes=1, sent_back=1, missing=1, answers=[answer]
    )
    told = telling.told_answer(report).splitlines()
    assert told[2:] == [
        "1. why \\x1b[31mtides",
        "   a.md:3-4",
        "     | one",
        "     | two",
        "   sent back, round 1: 1 of 3 quotes",
        "   missing: b.md (not there)",
        "   still open: 1 of 3 quotes",
        "",
        "1 quote; 1 document looked through; 1 draft sent back; 1 source missing",
    ]


def test_a_difference_of_plans_is_told() -> None:
    before, after = Plan("p"), Plan("p")
    before.task("first", "a.work")
    after.task("first", "a.work", n=1)
    after.task("more", "b.work")
    differences = compare_plans(before.document(), after.document())
    assert telling.told_difference(differences, after.document()) == [
        "    ~ first        a.work         input",
        "    + more         b.work",
    ]
