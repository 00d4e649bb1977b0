"""Passages: whole lines, with the numbers that editors show."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.research.passages import QUOTE_LINES_MAX, lines_of, passages, title_of

KINDS = [
    *["", "  ", "# Tides", "## Of the moon", "- a tide comes", "  and goes", "| tide | moon |"],
    *["```python", "```", "~~~", "tide = moon", "The moon pulls.", "1. first tide", "…", "\f"],
]
LINES = st.lists(st.sampled_from(KINDS), max_size=40)


def cut(text: str) -> list[tuple[int, str]]:
    return [(one.line, one.text) for one in passages(lines_of(text))]


@settings(deadline=None)
@given(lines=LINES)
def test_a_passage_stands_where_it_says(lines: list[str]) -> None:
    text = "\n".join(lines) + "\n"
    whole = lines_of(text)
    last = 0
    for passage in passages(whole):
        end = passage.line + passage.text.count("\n")
        assert whole[passage.line - 1 : end] == passage.text.split("\n")
        assert passage.line > last, "they overlap, or are out of order"
        assert end - passage.line < QUOTE_LINES_MAX
        last = end


def test_paragraphs_items_and_rows_are_passages_of_their_own() -> None:
    text = "\n\nTides come\nand go.\n- spring tide,\n  at full moon\n- neap tide\n| ebb | tide |\n"
    assert cut(text) == [
        (3, "Tides come\nand go."),
        (5, "- spring tide,\n  at full moon"),
        (7, "- neap tide"),
        (8, "| ebb | tide |"),
    ]


@pytest.mark.parametrize("fence", ["```", "~~~"])
def test_code_and_headings_are_not_quoted(fence: str) -> None:
    other = "~~~" if fence == "```" else "```"
    text = f"# Tide\n{fence}sh\ntide --all\n{other}\n# moon\n{fence}\nAfter the tide.\n"
    assert cut(text) == [(7, "After the tide.")]


def test_a_long_paragraph_is_cut() -> None:
    text = "\n".join(f"tide {n}" for n in range(10))
    assert [(line, text.count("\n")) for line, text in cut(text)] == [(1, 3), (5, 3), (9, 1)]


def test_lines_are_counted_as_grep_counts_them() -> None:
    # `str.splitlines` would end a line at each of these, and be wrong from there on.
    assert lines_of("a\fb\x1cc\u2028d\r\ne\n") == ["a\fb\x1cc\u2028d", "e"]
    assert lines_of("") == []
    assert lines_of("a\n\n") == ["a", ""]


def test_the_headings_above_are_known_and_forgotten_in_time() -> None:
    text = "# Moon\n## Phase\nfirst tide\n## Orbit\nsecond tide\n# Sun\nthird tide\n"
    found = [sorted(passage.heading) for passage in passages(lines_of(text))]
    assert found == [["moon", "phas"], ["moon", "orbit"], ["sun"]]


def test_a_title_is_the_first_heading_or_the_name() -> None:
    assert title_of("a/b.md", ["text", "## The tides ##"]) == "The tides"
    assert title_of("a/b.md", ["text"]) == "b.md"
