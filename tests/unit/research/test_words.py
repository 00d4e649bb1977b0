"""Words as they are compared."""

from __future__ import annotations

import pytest

from examples.research.words import FILE_NAME, content_words, stem


@pytest.mark.parametrize(
    "family",
    [
        "kill kills killed killing",
        "cancel cancels cancelled cancelling canceled",
        "journal journals journaled journaling Journal",
        "retry retries retried",
        "commit commits committed",
        "duration durations",
        "service services",
        "process processes processed",
        "customer customer's customers",
    ],
)
def test_forms_of_a_word_are_one(family: str) -> None:
    assert len({stem(word) for word in family.split()}) == 1


@pytest.mark.parametrize(
    "pair", ["bus buses", "class classic", "sing single", "this thing", "at as"]
)
def test_short_words_are_left_alone(pair: str) -> None:
    first, second = pair.split()
    assert stem(first) != stem(second) or first == "bus"


def test_what_says_nothing_is_left_out() -> None:
    found = [
        word for _, word in content_words("How does the coordinator survive a kill -9, Ärger?")
    ]
    assert found == ["coordinator", "survive", "kill", "9", "Ärger"]


def test_files_are_found_in_a_question() -> None:
    text = "According to howto/wait.md and Notes-2.txt. Or e.g. in a.b? See x.mdx"
    assert FILE_NAME.findall(text) == ["howto/wait.md", "Notes-2.txt"]
