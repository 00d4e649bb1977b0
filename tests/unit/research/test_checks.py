"""The critic's checks: each finds what it is for, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.research.checks import check, misquoted
from examples.research.models import Draft, Part, Quote, ReviewRequest, Term
from examples.research.scripted import ScriptedThinker

from .conftest import Put

MOON, SUN = "The moon pulls\nat the tide.", "The sun pulls at the tide too."


@pytest.fixture(autouse=True)
def documents(put: Put) -> None:
    put("moon.md", f"# Moon\n\n{MOON}\n\nA tide, once more.\n")
    put("sun.md", f"# Sun\n\n{SUN}\n")


def quote(path: str, line: int, text: str) -> Quote:
    return Quote(path=path, line=line, text=text, stems=["tid"], score=1.0)


GOOD = [
    quote("moon.md", 3, MOON),
    quote("sun.md", 3, SUN),
    quote("moon.md", 6, "A tide, once more."),
]


def review(
    folder: Path,
    quotes: list[Quote],
    known: list[Quote] | None = None,
    unread: tuple[str, ...] = (),
    terms: tuple[tuple[str, float], ...] = (("tid", 1.0),),
) -> list[tuple[str, str, bool]]:
    part = Part(
        number=1,
        text="tides",
        terms=[Term(stem=stem, word=stem, weight=weight) for stem, weight in terms],
        sources=["moon.md", "sun.md"],
        spares=list(unread),
    )
    request = ReviewRequest(
        folder=str(folder),
        part=part,
        draft=Draft(quotes=quotes),
        known=quotes if known is None else known,
        unread=list(unread),
    )
    return [(found.kind, found.subject, found.mendable) for found in check(request)]


def test_a_good_draft_has_no_problem(folder: Path) -> None:
    assert review(folder, GOOD) == []


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (quote("moon.md", 4, MOON), "other words stand there"),
        (quote("moon.md", 3, MOON.replace("pulls", "pushes")), "other words stand there"),
        (quote("moon.md", 3, MOON + " "), "other words stand there"),
        (quote("moon.md", 6, "A tide, once more.\nAnd again."), "the file ends at line 6"),
        (quote("moon.md", 0, MOON), "the file ends at line 6"),
        (quote("mars.md", 1, MOON), "the file cannot be read: not there"),
        (quote("../moon.md", 3, MOON), "the file cannot be read: not there"),
    ],
)
def test_a_quote_that_does_not_stand_there_is_found(folder: Path, wrong: Quote, why: str) -> None:
    assert misquoted(folder, wrong) == why
    assert ("wrong", wrong.place, True) in review(folder, [*GOOD, wrong])


def test_a_file_outside_of_the_folder_is_no_source(folder: Path) -> None:
    (folder.parent / "secret.md").write_text(SUN)
    assert "outside" in misquoted(folder, quote("../secret.md", 1, SUN))


def test_the_same_words_twice_are_found(folder: Path, put: Put) -> None:
    put("copy.md", f"{SUN}\n")
    assert review(folder, [*GOOD, quote("copy.md", 1, SUN)]) == [("twice", "copy.md:1", True)]


@pytest.mark.parametrize(
    ("known", "unread", "mendable"),
    [(GOOD, (), True), (GOOD[:2], ("x.md",), True), (GOOD[:2], (), False)],
)
def test_too_few_are_found(
    folder: Path, known: list[Quote], unread: tuple[str, ...], mendable: bool
) -> None:
    assert review(folder, GOOD[:2], known, unread) == [("few", "", mendable)]


@pytest.mark.parametrize(
    ("known", "unread", "mendable"), [(GOOD, (), True), ([], ("x.md",), True), ([], (), False)]
)
def test_a_single_voice_is_found(
    folder: Path, put: Put, known: list[Quote], unread: tuple[str, ...], mendable: bool
) -> None:
    lines = [f"tide {n} of the moon" for n in range(3)]
    put("only.md", "\n".join(lines))
    alone = [quote("only.md", n, line) for n, line in enumerate(lines, 1)]
    assert review(folder, alone, alone + known, unread) == [("one-sided", "only.md", mendable)]


@pytest.mark.parametrize(
    ("weight", "unread", "mendable"),
    [(1.0, ("x.md",), True), (1.0, (), False), (0.0, ("x.md",), False)],
)
def test_a_term_that_no_quote_has_is_found(
    folder: Path, weight: float, unread: tuple[str, ...], mendable: bool
) -> None:
    terms = (("tid", 1.0), ("mar", weight))
    assert review(folder, GOOD, None, unread, terms) == [("uncovered", "mar", mendable)]


def test_what_a_quote_says_of_itself_is_not_believed(folder: Path) -> None:
    liar = GOOD[0].model_copy(update={"stems": ["tid", "mar"]})
    found = review(folder, [liar, *GOOD[1:]], terms=(("mar", 1.0),))
    assert found == [("uncovered", "mar", False)]


def test_only_what_can_be_mended_is_sent_back() -> None:
    judge = ScriptedThinker().judge
    part = Part(number=1, text="", terms=[], sources=[])
    from examples.research.models import Problem

    hopeless = Problem(kind="few", subject="", text="1 of 3", mendable=False)
    verdict = judge(part, [hopeless], ["a", "b", "c"])
    assert (verdict.accepted, verdict.problems, verdict.read_more) == (True, [hopeless], [])
    few = Problem(kind="few", subject="", text="1 of 3")
    assert judge(part, [hopeless, few], ["a", "b", "c"]).read_more == ["a", "b"]
    twice = Problem(kind="twice", subject="a:1", text="again")
    verdict = judge(part, [twice], ["a"])
    assert (verdict.accepted, verdict.read_more) == (False, [])
