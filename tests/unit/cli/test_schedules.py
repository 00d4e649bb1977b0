"""Schedules from the command line: what can be typed, and what is refused before it is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.cli.commands.schedules import _listed
from holdfast.schemas import (
    Firing,
    FiringCause,
    FiringOutcome,
    OverlapPolicy,
    PlanDocument,
    PlanError,
    Schedule,
    ScheduleError,
    ScheduleRow,
    ScheduleState,
    load_schedule,
)
from tests.unit.cli.conftest import Invoke

PLAN = "name: report\ntasks:\n  write: {task: writer.write, input: {day: '${input.day}'}}\n"
FILE = """
name: nightly
plan: plans/report.yaml
cron: 30 2 * * MON-FRI
timezone: Europe/Berlin
input: {day: "${schedule.date}"}
overlap: cancel-previous
start: 2026-11-21
"""


def test_nothing_is_there(home: Path, invoke: Invoke) -> None:
    assert invoke("topics", "create").code == 0
    found = invoke("schedules", "list")
    assert (found.code, found.out, found.err) == (0, "", "No schedules.\n")
    found = invoke("schedules", "list", "--json")
    assert found.out == '{\n  "schedules": []\n}\n'
    found = invoke("schedules", "show", "nightly")
    assert (found.code, found.out) == (4, "")
    assert "no schedule 'nightly'" in found.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["create"], "name the schedule"),
        (["create", "nightly", "--cron", "0 9 * * *"], "name a plan file"),
        (["create", "nightly", "--task", "a.b", "--every", "5", "--file", "x"], "leave PLAN"),
        (["create", "--file", "nowhere.yaml"], "schedule file 'nowhere.yaml' does not exist"),
        (["create", "n", "--task", "a.b", "--overlap", "skp"], "it is one of skip, queue, allow"),
        (["create", "n", "--task", "a.b"], "give cron expressions, or an interval"),
        (["create", "n", "--task", "a.b", "--cron", "61 * * * *"], "bad minute"),
        (["create", "N!", "--task", "a.b", "--every", "5"], "schedule name 'N!' cannot be used"),
        (["update", "nightly"], "name what is to be changed"),
        (["trigger", "nightly", "--overlap", "alow"], "did you mean 'allow'"),
        (["backfill", "nightly", "--from", "yesterday", "--to", "2026-01-01"], "--from"),
        (["update", "nightly", "--every", "5"], "there is no schedule 'nightly'"),
    ],
)
def test_what_is_refused_before_anything_is_sent(
    home: Path, invoke: Invoke, arguments: list[str], complaint: str
) -> None:
    assert invoke("topics", "create").code == 0
    found = invoke("schedules", *arguments)
    assert found.code != 0
    assert found.out == ""
    assert complaint in found.err
    assert "Traceback" not in found.err


def test_a_file_says_all_of_it(home: Path) -> None:
    (home / "plans").mkdir()
    (home / "plans/report.yaml").write_text(PLAN)
    (home / "nightly.yaml").write_text(FILE)
    found = load_schedule(home / "nightly.yaml")
    assert found.name == "nightly"
    assert isinstance(found.work, PlanDocument)
    assert found.work.name == "report"
    schedule = found.schedule
    assert schedule.cron == ("30 2 * * MON-FRI",)
    assert schedule.overlap is OverlapPolicy.CANCEL_PREVIOUS
    spec = schedule.spec("report")
    assert spec.start_ms == 1_795_215_600_000, "midnight in Berlin"
    again = Schedule.from_spec(spec).spec("report")
    assert again == spec
    text = FILE.replace("plan: plans/report.yaml", "task: writer.write")
    (home / "task.yaml").write_text(text)
    assert load_schedule(home / "task.yaml").work == "writer.write"
    inline = FILE.replace("plan: plans/report.yaml", "plan:\n  " + PLAN.replace("\n", "\n  "))
    (home / "inline.yaml").write_text(inline)
    assert load_schedule(home / "inline.yaml").work == found.work


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("cron:", "cronn:"), "cronn: Extra inputs are not permitted; did you mean 'cron'?"),
        (("name: nightly", "name: [1]"), "name: it is missing, or no text"),
        (("plan: plans/report.yaml", ""), "name a plan"),
        (("plan: plans/report.yaml", "plan: 7"), "plan: it is a file's name, or a plan"),
        (("plan: plans/report.yaml", "plan: {name: x}"), "plan"),
        (("plans/report", "plans/other"), "does not exist"),
        (("Europe/Berlin", "Europe/Atlantis"), "time zone 'Europe/Atlantis' is not known"),
        (("name: nightly", "- nightly\n#"), "nightly.yaml"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(
    home: Path, change: tuple[str, str], complaint: str
) -> None:
    (home / "plans").mkdir()
    (home / "plans/report.yaml").write_text(PLAN)
    (home / "nightly.yaml").write_text(FILE.replace(*change))
    with pytest.raises((ScheduleError, PlanError), match=complaint.replace("?", r"\?")):
        load_schedule(home / "nightly.yaml")


def test_a_line_of_the_list() -> None:
    spec = Schedule(every_s=90).spec("report")
    cause, outcome = FiringCause.TIME, FiringOutcome.FAILED
    firings = [Firing(0, "r", cause, outcome, 0)]
    state = ScheduleState.PAUSED
    row = ScheduleRow("n", 3, 1, state, "audit", spec, 9, 1, 2, 3, 4, firings, 0, 0, "ada")
    assert _listed(row) == ("n", "report", "paused", "every 90 s", "-", "1", "failed", "audit")
