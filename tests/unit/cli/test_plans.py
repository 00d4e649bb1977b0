"""`holdfast run plan`: the versions of a plan, and how they differ."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from holdfast.bus.port import Record
from holdfast.cli.commands.plans import difference_lines
from holdfast.cli.invocation import Invocation
from holdfast.schemas import Event, EventType, PlanDifference, encode
from tests.unit.cli.conftest import Invoke
from tests.unit.projection.changed_plans import begun, plan_changed, revision
from tests.unit.projection.conftest import run_row


def publish(*events: Event) -> None:
    invocation = Invocation({}, False)

    async def work() -> None:
        async with invocation.environment() as environment:
            topic = invocation.settings.topics.events
            records = [Record(topic, b"r1", encode(event), (), 0) for event in events]
            await environment.bus.publish(records)

    asyncio.run(work())


@pytest.fixture
def changed(home: Path, invoke: Invoke) -> None:
    assert invoke("topics", "create").code == 0
    publish(
        Event("r1", EventType.RUN_STARTED, 1_000, None, run_row("r1", 1), None, "", begun()),
        plan_changed(revision(2, "x", "y"), 2),
        plan_changed(revision(3, "z", skip="late"), 3),
    )


@pytest.mark.usefixtures("changed")
def test_the_newest_version_is_shown_with_all_that_made_it(invoke: Invoke) -> None:
    found = invoke("run", "plan", "r1")
    assert (found.code, found.err) == (0, "")
    lines = [line.split() for line in found.out.splitlines() if line]
    assert lines[0] == ["run", "r1", "(audit),", "version", "3", "of", "3"]
    assert lines[1][:3] == ["VERSION", "MADE", "BY"]
    assert [line[0] for line in lines[2:5]] == ["1", "2", "3"]
    assert found.out.count("+ x, y") == 1
    assert "+ z; skipped: late" in found.out
    assert ["x", "b.work", "planner"] in lines
    assert ["late", "a.work,", "skipped", "planner"] in lines
    assert "version 3: see `holdfast run plan r1`" in invoke("run", "show", "r1").out


@pytest.mark.usefixtures("changed")
def test_an_older_version_is_shown_as_it_was(invoke: Invoke) -> None:
    found = invoke("run", "plan", "r1", "--version", "2", "--json")
    document: Any = json.loads(found.out)
    assert document["version"] == 2
    assert list(document["plan"]["tasks"]) == ["planner", "late", "x", "y"]
    assert [each["version"] for each in document["versions"]] == [1, 2, 3]
    assert document["versions"][2]["change"]["skip"] == ["late"]
    assert "skipped\n" not in invoke("run", "plan", "r1", "--version", "1").out
    assert ", skipped" in invoke("run", "plan", "r1").out


@pytest.mark.usefixtures("changed")
def test_two_versions_are_compared(invoke: Invoke) -> None:
    found = invoke("run", "plan", "r1", "--diff", "1", "3")
    assert found.out.splitlines() == [
        "run   r1, plan version 1 -> 3",
        "x late  skipped or cancelled",
        "+ x  b.work",
        "+ y  b.work",
        "+ z  b.work",
    ]
    back: Any = json.loads(invoke("run", "plan", "r1", "--diff", "2", "1", "--json").out)
    assert [(d["kind"], d["task_id"]) for d in back["differences"]] == [
        ("removed", "x"),
        ("removed", "y"),
    ]
    assert "They are the same." in invoke("run", "plan", "r1", "--diff", "2", "2").out


def test_a_changed_setting_is_shown_as_a_whole() -> None:
    was = {"n": 1, "text": "be brief\nname sources\n" + "x" * 90, "of": ["a" * 60], "gone": None}
    is_ = {"n": 2, "text": "be brief\nname all\n" + "x" * 90, "of": ["a" * 60, "b" * 60]}
    details = (("input", was, is_), ("after", None, ["y"]), ("timeout_s", 3, None))
    assert difference_lines(PlanDifference("changed", "report", "e.write", details)) == [
        "~ report  e.write",
        "    input.n: 1 -> 2",
        "    input.text:",
        "       be brief",
        "      -name sources",
        "      +name all",
        "       " + "x" * 90,
        "    input.of:",
        "       [",
        '      -  "' + "a" * 60 + '"',
        '      +  "' + "a" * 60 + '",',
        '      +  "' + "b" * 60 + '"',
        "       ]",
        "    input.gone: null -> not set",
        '    after: not set -> ["y"]',
        "    timeout_s: 3 -> not set",
    ]
    long = "y" * 99
    only_a_break = (("when", long, f"{long}\n"),)
    assert difference_lines(PlanDifference("changed", "r", "e.w", only_a_break)) == [
        "~ r  e.w",
        f'    when: "{long}" -> "{long}\\n"',
    ]


@pytest.mark.usefixtures("changed")
@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("r1", "--version", "4"), 4, "no version 4: there are 1 to 3"),
        (("r1", "--diff", "1", "9"), 4, "no version 9"),
        (("r2",), 4, "no run 'r2'"),
        (("r1", "--version", "1", "--diff", "1", "2"), 2, "not both"),
        (("r1", "--version", "0"), 2, "'--version'"),
    ],
)
def test_what_there_is_not_is_named(
    invoke: Invoke, arguments: tuple[str, ...], code: int, complaint: str
) -> None:
    found = invoke("run", "plan", *arguments)
    assert (found.code, found.out) == (code, "")
    assert complaint in found.err
