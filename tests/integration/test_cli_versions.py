"""Builds, restarts and replays by the command line, with real processes."""

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

greeter = Agent("greeter")

class Person(BaseModel):
    name: str

def pay(name: str, *, idempotency_key: str) -> str:
    return idempotency_key

@greeter.task()
async def rest(ctx: Context, person: Person) -> Person:
    await ctx.step("one", str, person.name)
    await ctx.effect("pay", pay, person.name, idempotent=True)
    await ctx.sleep("long", timedelta(days=3))
    return person
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path)
    project.environment["HOLDFAST_BUILD"] = "b1"
    (tmp_path / "hello.py").write_text(HELLO)
    project.start_dev()
    yield project
    project.stop()


def sleeps(project: Project, attempt: int) -> bool:
    found = project.json("run", "show", "r1")
    rows = found["task_rows"]
    return bool(found["waits"]) and [row["attempt"] for row in rows] == [attempt]


def test_a_task_is_restarted_and_told_by_builds(project: Project) -> None:
    arguments = ("--task", "greeter.rest", "--input", "name=Ada", "--run-id", "r1")
    assert project.call("submit", *arguments).returncode == 0
    until_sync(lambda: sleeps(project, 1), "it sleeps", 60)
    assert "b1" in project.call("agents").stdout

    fits = project.json("replay-test", "hello.py:greeter")
    assert [(each["task"], each["fit"], each["build"]) for each in fits["tasks"]] == [
        ("r1/task", "so far", "b1")
    ]
    other = project.folder / "other.py"
    other.write_text(HELLO.replace('"one"', '"eins"'))
    misfits = project.call("replay-test", "other.py:greeter")
    assert misfits.returncode == 1
    assert "+ eins" in misfits.stdout

    done = project.call("run", "restart-task", "r1", "task", "--reason", "new code")
    assert done.returncode == 0, done.stderr
    assert "1 effects had been committed" in done.stderr
    assert "pay" in done.stderr
    until_sync(lambda: sleeps(project, 2), "it sleeps again", 60)
    history = project.json("run", "history", "r1")["events"]
    assert "b1" in {str(event["build_id"]).partition("+")[0] for event in history}
    assert any("new code" in event["message"] for event in history)
    refused = project.call("run", "restart-task", "r1", "nothing", "--reason", "x")
    assert refused.returncode == 2
    assert "has no task 'nothing'" in refused.stderr
