"""Inputs, settings, flags, modules, and the shapes of `--json` of an empty bus."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast.cli.app import hoist
from holdfast.cli.failures import BadInput, ExitCode, exit_code
from holdfast.cli.inputs import parse_input
from holdfast.cli.modules import find_agent, find_source, services_in
from holdfast.cli.printing import clip, duration
from holdfast.cli.reading import projection_file
from holdfast.cli.settings import load_settings
from holdfast.client import RunFailed, RunNotFound, WaitTimeout
from tests.unit.cli.conftest import Invoke


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ([], {}),
        (["name=Ada"], {"name": "Ada"}),
        (
            ["count=3", "rate=0.5", "on=true", "no=null"],
            {"count": 3, "rate": 0.5, "on": True, "no": None},
        ),
        (
            ['tags=["a"]', 'zip="123"', "id=007", "eq=a=b", "empty="],
            {"tags": ["a"], "zip": "123", "id": "007", "eq": "a=b", "empty": ""},
        ),
        (['{"a": {"b": 1}}'], {"a": {"b": 1}}),
        (["[1, 2]"], [1, 2]),
        (["x=NaN"], {"x": "NaN"}),
    ],
)
def test_inputs(given: list[str], value: object) -> None:
    assert parse_input(given) == value


def test_inputs_from_files(home: Path) -> None:
    (home / "a.yaml").write_text("a: [1, two]\n")
    (home / "a.json").write_text('{"a": 1}')
    assert parse_input(["@a.yaml"]) == {"a": [1, "two"]}
    assert parse_input(["@a.json"]) == {"a": 1}


def test_an_input_of_two_kinds_is_refused() -> None:
    with pytest.raises(BadInput, match="name=value"):
        parse_input(["a=1", '{"b": 2}'])


def test_flags_may_stand_anywhere_but_after_two_dashes() -> None:
    given = ["runs", "--bus", "b", "--json", "--namespace=n", "--debug", "--", "--bus", "c"]
    assert hoist(given) == [
        *["--bus", "b", "--namespace=n", "--debug"],
        *["runs", "--json", "--", "--bus", "c"],
    ]


def test_settings_come_from_flags_then_variables_then_the_table(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "pyproject.toml").write_text(
        '[tool.holdfast]\nnamespace = "table"\nbus = "kafka://table:1"\npartitions = 7\n'
    )
    monkeypatch.setenv("HOLDFAST_BUS", "kafka://variable:1")
    settings = load_settings(namespace="flag", bus=None)
    assert (settings.namespace, settings.bus) == ("flag", "kafka://variable:1")
    assert settings.topic_partitions == 7
    assert settings.environment()["HOLDFAST_PARTITIONS"] == "7"


def test_partitions_depend_on_the_bus(home: Path) -> None:
    assert load_settings().topic_partitions == 4
    assert load_settings(bus="kafka://host:1").topic_partitions == 12


def test_each_bus_and_namespace_has_a_projection_of_its_own(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = load_settings(), load_settings(namespace="two")
    first = projection_file(one)
    assert first != projection_file(two)
    (home / "other").mkdir()
    monkeypatch.chdir(home / "other")
    assert projection_file(one) != first  # a relative path is another file elsewhere


def test_exit_codes() -> None:
    assert exit_code(RunFailed("r", None)) is ExitCode.RUN_FAILED
    assert exit_code(WaitTimeout("late")) is ExitCode.TIMEOUT
    assert exit_code(RunNotFound("r")) is ExitCode.NOT_FOUND
    assert exit_code(BadInput("x")) is ExitCode.BAD_INPUT
    assert exit_code(KeyError("x")) is ExitCode.UNEXPECTED


def test_an_agent_is_found_by_its_name_or_its_variable(home: Path) -> None:
    (home / "one_agent.py").write_text(
        'from holdfast.agents import Agent\nvariable = Agent("the-name")\n'
    )
    found = find_agent("one_agent.py:the-name")
    assert found is find_agent("one_agent.py:variable")
    assert found is find_agent("one_agent.py")
    assert found is find_agent("one_agent:variable")


def test_sources_are_found_as_agents_are(home: Path) -> None:
    (home / "shop.py").write_text(
        "from holdfast.sources import Source\n"
        'orders = Source("orders-v1", topic="orders", plan="packer.pack")\n'
    )
    found = find_source("shop.py:orders-v1")
    assert found is find_source("shop.py:orders") is find_source("shop.py")
    assert services_in("shop.py") == ({}, {"orders-v1": found})
    with pytest.raises(BadInput, match="did you mean 'orders-v1'"):
        find_source("shop.py:orders-v2")
    with pytest.raises(BadInput, match="has no agent"):
        find_agent("shop.py:orders")
    (home / "nothing.py").write_text("x = 1\n")
    with pytest.raises(BadInput, match="has no source"):
        find_source("nothing.py")
    with pytest.raises(BadInput, match="has no agent"):
        services_in("nothing.py")


def test_durations_and_clips() -> None:
    assert [duration(ms) for ms in (None, 5, 1_500, 600_000, 9_000_000)] == [
        *["-", "5 ms", "1.5 s"],
        *["10 min", "2.5 h"],
    ]
    assert clip("a\n  b", 10) == "a b"
    assert clip("x" * 20, 5) == "xxxx…"


def test_reads_of_an_empty_bus(invoke: Invoke) -> None:
    assert invoke("topics", "create", "greeter").code == 0
    expected: dict[str, object] = {
        "runs": {"runs": [], "next": None},
        "dead-letters list": {"dead_letters": []},
        "agents": {"agents": [], "pauses": []},
        "schemas list": {"schemas": []},
    }
    for command, shape in expected.items():
        found = invoke(*command.split(), "--json")
        assert (found.code, json.loads(found.out)) == (0, shape)
        assert invoke(*command.split()).out == ""  # the answer is empty; the note is on stderr
    topics = json.loads(invoke("topics", "check", "greeter", "--json").out)["topics"]
    assert topics[0] == {
        "topic": "holdfast.coordinator",
        "partitions": 4,
        "kept": "consumed",
        "state": "ok",
    }
    assert len(topics) == 9
    findings = json.loads(invoke("doctor", "--json").out)["findings"]
    assert {finding["state"] for finding in findings} == {"ok"}


def test_version_needs_no_settings(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_BUS", "nonsense")
    assert invoke("version").code == 0
    assert json.loads(invoke("version", "--json").out)["holdfast"]


def test_doctor_names_the_problem(invoke: Invoke) -> None:
    found = invoke("doctor", "--bus", "sqlite:////nowhere/bus.db")
    assert found.code == 2
    assert "problem" in found.out
