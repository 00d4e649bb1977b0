"""`holdfast state …` says what is wrong in one line."""

from __future__ import annotations

import pytest

from tests.unit.cli.conftest import Invoke


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("state", "delete", "desk", "ada"), "--reason"),
        (("state", "get", "desk"), "KEY"),
        (("state", "list", "desk", "--limit", "0"), "--limit"),
    ],
)
def test_bad_arguments(invoke: Invoke, arguments: tuple[str, ...], told: str) -> None:
    outcome = invoke(*arguments)
    assert outcome.code == 2
    assert told in outcome.err
    assert outcome.out == ""


def test_help_tells_the_commands(invoke: Invoke) -> None:
    outcome = invoke("state", "--help")
    assert outcome.code == 0
    for command in ("list", "get", "delete", "deletions"):
        assert command in outcome.out
