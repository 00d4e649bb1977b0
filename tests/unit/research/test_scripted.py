"""The scripted thinker: how it splits, what it names, finds and mends."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from examples.research import index
from examples.research.library import BadFolder, open_document
from examples.research.models import Answer, Part, Problem, Question, Quote, Term, Verdict
from examples.research.scripted import PARTS_MAX, ScriptedThinker

from .conftest import Put

SCRIPTED = ScriptedThinker()


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """Our own pages; a copy, so that nobody edits them meanwhile."""
    return Path(shutil.copytree(Path(__file__).parents[3] / "docs", tmp_path / "docs"))


def parts_of(folder: Path, text: str) -> list[Part]:
    question = Question(text=text, folder=str(folder), out=str(folder / "out"))
    return SCRIPTED.split(question, index.survey(question))


@pytest.fixture
def papers(folder: Path, put: Put) -> Path:
    put("moon.md", "# Moon\nThe moon pulls at the tide.\n")
    put("deep/sun.md", "# Sun\nThe sun pulls too, but is far.\n")
    put("wind.txt", "Wind makes waves. Waves are no tide.\n")
    put("salt.md", "Rain has no salt.\n")
    return folder


def test_a_question_is_split_at_its_joints(papers: Path) -> None:
    parts = parts_of(papers, "What pulls at the tide, and how does wind make waves; why salt?")
    assert [part.text for part in parts] == [
        "What pulls at the tide",
        "how does wind make waves",
        "why salt",
    ]
    assert [part.number for part in parts] == [1, 2, 3]
    assert [part.sources for part in parts] == [
        ["moon.md", "deep/sun.md", "wind.txt"],
        ["wind.txt"],
        ["salt.md"],
    ]


def test_terms_that_no_document_has_together_are_asked_apart(papers: Path) -> None:
    parts = parts_of(papers, "Moon tide wind waves salt rain")
    assert [[term.word for term in part.terms] for part in parts] == [
        ["Moon", "tide"],
        ["wind", "waves"],
        ["salt", "rain"],
    ]
    assert parts[0].text == "Moon tide wind waves salt rain (Moon, tide)"


def test_a_named_file_comes_first_whether_it_is_there_or_not(papers: Path) -> None:
    (first,) = parts_of(papers, "What pulls at the tide, according to sun.md?")
    assert first.sources[0] == "deep/sun.md"
    (second,) = parts_of(papers, "What pulls at the tide, according to mars.md?")
    assert second.sources[0] == "mars.md"
    assert "mar" not in {term.stem for term in second.terms}


def test_what_nobody_knows_is_a_part_without_sources(papers: Path) -> None:
    (zebras,) = parts_of(papers, "Who feeds zebras?")
    assert (zebras.sources, [term.weight for term in zebras.terms]) == ([], [0.0, 0.0])


@pytest.mark.parametrize("text", ["?", "and", "the", "a.md", "x" * 2_000])
def test_any_question_has_a_part(papers: Path, text: str) -> None:
    assert parts_of(papers, text)


def test_parts_are_bounded(papers: Path) -> None:
    assert len(parts_of(papers, ", ".join(f"tide{n} moon" for n in range(50)))) == PARTS_MAX


def test_every_quote_from_our_own_pages_is_exact(docs: Path) -> None:
    """Whatever is asked of the real folder, each quote stands at its lines, letter by letter."""
    found = 0
    for text in (
        "retries and breakers",
        "kill, crash, journal",
        "cancel a called task",
        "order key",
    ):
        for part in parts_of(docs, text):
            for path in [*part.sources, *part.spares]:
                raw = (docs / path).read_bytes().split(b"\n")
                for quote in SCRIPTED.search(part, path, open_document(docs, path).lines):
                    lines = raw[quote.line - 1 : quote.last_line]
                    assert b"\n".join(lines).decode() == quote.text, quote.place
                    assert quote.stems
                    found += 1
    assert found > 100


def test_the_same_question_has_the_same_parts(docs: Path) -> None:
    text = "How does a cancel reach called tasks, and what survives a kill?"
    first = [part.model_dump_json() for part in parts_of(docs, text)]
    assert first == [part.model_dump_json() for part in parts_of(docs, text)]


def test_what_has_more_words_of_the_question_ranks_higher(papers: Path) -> None:
    part = Part(
        number=1,
        text="",
        terms=[Term(stem=stem, word=stem, weight=1.0) for stem in ("moon", "tid")],
        sources=[],
    )
    lines = ["tide tide tide tide", "", "moon and tide", "", "nothing"]
    assert [quote.line for quote in SCRIPTED.search(part, "a.md", lines)] == [3, 1]


def quote(path: str, line: int, score: float, *stems: str) -> Quote:
    return Quote(path=path, line=line, text=f"{path} {line}", stems=list(stems), score=score)


PART = Part(number=1, text="tides", terms=[], sources=["a", "b"], spares=["c", "d", "e"])


def test_a_first_draft_takes_what_ranks_highest() -> None:
    known = [quote("a", n, float(n)) for n in range(5)] + [quote("b", 1, 0.5)]
    assert [q.place for q in SCRIPTED.choose(PART, known, None).quotes] == ["a:4", "a:3", "a:2"]


def test_a_second_draft_mends_what_the_critic_said() -> None:
    known = [quote("a", n, float(n)) for n in range(1, 6)] + [quote("b", 1, 0.5, "moon")]
    problems = [
        Problem(kind="wrong", subject="a:5", text=""),
        Problem(kind="one-sided", subject="a", text=""),
        Problem(kind="uncovered", subject="moon", text=""),
    ]
    again = SCRIPTED.choose(PART, known, Verdict(accepted=False, problems=problems))
    assert [q.place for q in again.quotes] == ["a:4", "a:3", "b:1"]


def test_what_stands_in_is_a_spare_for_each() -> None:
    assert SCRIPTED.stand_ins(PART, ["a", "c"]) == ["d", "e"]
    assert SCRIPTED.stand_ins(PART.model_copy(update={"spares": []}), ["a"]) == []


def test_the_short_answer_names_the_best_place() -> None:
    answers = [
        Answer(part=PART, quotes=quotes, rounds=1, sent_back=[], missing=[], open=[])
        for quotes in ([quote("a", 1, 1.0), quote("b", 7, 2.0)], [])
    ]
    question = Question(text="", folder="", out="")
    told = SCRIPTED.conclude(question, answers)
    assert told == "tides: see b:7; tides: no document says anything."


def test_the_survey_leaves_out_what_is_no_source_and_says_why(folder: Path, put: Put) -> None:
    put("a.md", "tide\n")
    put("out/answer.md", "tide\n")
    put("build/b.md", "tide\n")
    put(".hidden/c.md", "tide\n")
    put("code.py", "tide = 1\n")
    put("bad.md", "tide\0\n")
    (folder / "link.md").symlink_to(folder / "a.md")
    found = index.survey(Question(text="tide?", folder=str(folder), out=str(folder / "out")))
    assert [(one.path, one.counts) for one in found.documents] == [("a.md", {"tid": 1})]
    assert {one.path: one.reason for one in found.left_out} == {
        "bad.md": "binary",
        "link.md": "a symbolic link",
    }
    assert found.total == 1


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFolder, match="Name a folder you can read"):
        index.survey(Question(text="tide?", folder=str(tmp_path / "no"), out=""))
