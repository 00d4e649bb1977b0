"""What the command line tells of runs that wait, and how a signal is sent: with real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_cli import Project
from tests.waiting import until_sync

HELLO = """
from datetime import timedelta
from pydantic import BaseModel
from holdfast.agents import Agent, Context
from holdfast.schemas import Plan

greeter = Agent("greeter")
judge = Agent("judge")

class Person(BaseModel):
    name: str

class Verdict(BaseModel):
    grade: int

class Greeting(BaseModel):
    text: str

@judge.task()
async def weigh(ctx: Context, person: Person) -> Greeting:
    verdict = await ctx.wait_for("verdict", Verdict, timeout=timedelta(days=2))
    return Greeting(text=f"{person.name}: {verdict.grade}")

nap = Plan("nap")
nap.task("nap", "greeter.rest", name=nap.input("name"))

@greeter.task()
async def rest(ctx: Context, person: Person) -> Greeting:
    await ctx.sleep("long", timedelta(days=3))
    return Greeting(text=person.name)

@greeter.task()
async def ask(ctx: Context, person: Person) -> Greeting:
    return await ctx.call(weigh, person)

@greeter.task()
async def spawn(ctx: Context, person: Person) -> Greeting:
    await ctx.start_run(nap, {"name": person.name}, run_id="child")
    return Greeting(text=person.name)
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path)
    (tmp_path / "hello.py").write_text(HELLO)
    project.start_dev()
    yield project
    project.stop()


def submit(project: Project, task: str, run_id: str) -> None:
    found = project.call("submit", "--task", task, "--input", "name=Ada", "--run-id", run_id)
    assert found.returncode == 0, found.stderr


def waits(project: Project, run_id: str) -> list[str]:
    return [wait["text"] for wait in project.json("run", "show", run_id)["waits"]]


def test_a_called_task_waits_for_a_signal_and_gets_it(project: Project) -> None:
    submit(project, "greeter.ask", "r1")
    until_sync(lambda: len(waits(project, "r1")) == 2, "both tasks wait", 30)
    whole = project.json("run", "show", "r1")
    caller, called = sorted(whole["waits"], key=lambda wait: str(wait["kind"]))
    assert (caller["kind"], caller["subject"], caller["child"]) == (
        "call",
        "judge.weigh",
        called["task_id"],
    )
    row = next(task for task in whole["task_rows"] if task["task_id"] == called["task_id"])
    assert row["caller"] == caller["task_id"]
    told = project.call("run", "show", "r1").stdout
    assert "waits for signal 'verdict'" in told
    assert f"called by {caller['task_id']}" in told
    why = project.call("why", "r1").stdout
    assert "-> holdfast signal r1 verdict PAYLOAD" in why
    alone = project.json("why", f"r1/{called['task_id']}")["reasons"]
    assert [reason["code"] for reason in alone] == ["waits.signal", "called"]

    for payload in (["{}"], ["--input", "grade=good"]):
        refused = project.call("signal", "r1", "verdict", *payload)
        assert refused.returncode == 2
        assert "grade" in refused.stderr
        assert "schemas show signal.verdict" in refused.stderr
    assert project.call("schemas", "show", "signal.verdict").returncode == 0
    early = project.json("signal", "r1", "other", '"later"', "--id", "s1")
    assert (early["outcome"], early["task_id"], early["signal_id"]) == ("kept", None, "s1")
    assert project.json("signal", "r1", "other", "--id", "s1")["outcome"] == "repeated"
    assert project.json("run", "show", "r1")["signals"][0]["payload"] == "later"
    assert "no task waits for one of this name" in project.call("why", "r1").stdout
    taken = project.call("signal", "r1", "verdict", "--input", "grade=7")
    assert taken.stdout == f"task {called['task_id']!r} has it\n"
    again = ("--task", "greeter.ask", "--input", "name=Ada", "--run-id", "r1", "--wait")
    assert project.json("submit", *again)["output"] == {"text": "Ada: 7"}
    ended = project.json("run", "show", "r1")
    assert (ended["state"], ended["output"], ended["waits"]) == (
        "succeeded",
        {"text": "Ada: 7"},
        [],
    )
    closed = project.call("signal", "r1", "verdict", "1")
    assert (closed.returncode, "is closed (succeeded)" in closed.stderr) == (2, True)
    history = project.json("run", "history", "r1")["events"]
    assert {event["signal"]["signal"] for event in history if event["signal"]} == {
        "verdict",
        "other",
    }
    assert "waits for judge.weigh" in project.call("run", "history", "r1").stdout


def test_a_child_run_and_its_sleep_are_told_and_end_with_a_cancel(project: Project) -> None:
    submit(project, "greeter.spawn", "r2")

    def child_sleeps() -> bool:
        found = project.call("run", "show", "child", "--json")
        return found.returncode == 0 and waits(project, "child") == ["sleeps ('long')"]

    until_sync(child_sleeps, "the child sleeps", 30)
    parent = project.json("run", "show", "r2")
    assert [(c["run_id"], c["plan"], c["state"]) for c in parent["children"]] == [
        ("child", "nap", "running")
    ]
    assert [wait["text"] for wait in parent["waits"]] == ["waits for run child (plan nap)"]
    child = project.json("run", "show", "child")
    assert child["parent"]["run_id"] == "r2"
    assert "parent  r2" in project.call("run", "show", "child").stdout
    assert "-> holdfast why child" in project.call("why", "r2").stdout
    assert "from now" in project.call("why", "child").stdout
    assert project.call("run", "cancel", "r2").returncode == 0
    until_sync(
        lambda: project.json("run", "show", "child")["state"] == "cancelled", "it ends too", 30
    )
    assert project.json("run", "show", "child")["waits"] == []
