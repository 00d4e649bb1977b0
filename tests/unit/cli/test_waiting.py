"""Signals from the command line: what can be typed, and what is refused before anything is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.cli.commands.waiting import event_text
from holdfast.cli.failures import BadInput
from holdfast.cli.inputs import parse_payload
from tests.unit.cli.conftest import Invoke


@pytest.mark.parametrize(
    ("given", "pairs", "payload"),
    [
        (None, [], None),
        ("null", [], None),
        ("7", [], 7),
        ('"yes"', [], "yes"),
        ('{"grade": 7}', [], {"grade": 7}),
        (None, ["grade=7", "by=Ada"], {"grade": 7, "by": "Ada"}),
        (None, ["[1, 2]"], [1, 2]),
    ],
)
def test_payloads_are_read(given: str | None, pairs: list[str], payload: object) -> None:
    assert parse_payload(given, pairs) == payload


def test_a_payload_may_stand_in_a_file(home: Path) -> None:
    (home / "verdict.json").write_text('{"grade": 7}')
    (home / "verdict.yaml").write_text("grade: 7\n")
    assert parse_payload("@verdict.json", []) == {"grade": 7}
    assert parse_payload("@verdict.yaml", []) == {"grade": 7}
    assert parse_payload(None, ["@verdict.json"]) == {"grade": 7}


@pytest.mark.parametrize(
    ("given", "pairs", "complaint"),
    [
        ("yes", [], "'yes' is not JSON .*'\"text\"'"),
        ("grade=7", [], "--input name=value"),
        ("NaN", [], "not JSON"),
        ("7", ["a=1"], "not both"),
        ("@nowhere.json", [], "nowhere.json"),
    ],
)
def test_what_cannot_be_read_is_named(given: str, pairs: list[str], complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        parse_payload(given, pairs)


def test_a_signal_to_nobody(home: Path, invoke: Invoke) -> None:
    assert invoke("topics", "create").code == 0
    found = invoke("signal", "x", "go")
    assert (found.code, found.out) == (4, "")
    assert "no run 'x'" in found.err
    assert invoke("why", "x/a").code == 4
    found = invoke("signal", "x", "go", "maybe")
    assert (found.code, found.out) == (2, "")
    assert found.err.count("\n") == 1
    assert "see holdfast signal --help" in invoke("signal", "x").err


def test_a_line_of_history_tells_of_asks_and_signals() -> None:
    ask = {
        "task_id": "a",
        "name": "go",
        "key": "",
        "kind": "signal",
        "subject": "go",
        "child": None,
        "until_ms": None,
        "asked_ms": 1,
        "schema_id": None,
    }
    word = {"signal_id": "s", "signal": "go", "actor": "ann"}
    assert event_text("", ask, None) == "waits for signal 'go'"
    assert event_text("", ask, word) == "waits for signal 'go'; signal 'go' of ann"
    assert event_text("refused", None, word) == "signal 'go' of ann; refused"
    assert event_text("paused", None, None) == "paused"
