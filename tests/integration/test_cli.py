"""The command line with real processes: what a person types, and what becomes of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import until_sync

HOLDFAST = (sys.executable, "-m", "holdfast.cli")
HELLO = """
import asyncio, os
from pydantic import BaseModel
from holdfast.agents import Agent, Context, Fatal

greeter = Agent("greeter")

class Person(BaseModel):
    name: str

class Greeting(BaseModel):
    text: str
    pid: int = 0

@greeter.task()
async def greet(ctx: Context, person: Person) -> Greeting:
    return Greeting(text=f"Hello, {person.name}", pid=os.getpid())

@greeter.task()
async def fail(ctx: Context, person: Person) -> Greeting:
    if not os.path.exists("mended"):
        raise Fatal(f"cannot greet {person.name}")
    return Greeting(text="mended")

@greeter.task()
async def sleep(ctx: Context, person: Person) -> Greeting:
    open("sleeping", "w").close()
    await asyncio.sleep(600)
    return Greeting(text="slept")
"""


class Project:
    """A folder with a module, and the command line in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("HOLDFAST_")}
        self.environment["XDG_CACHE_HOME"] = str(folder / "cache")
        self._dev: subprocess.Popen[str] | None = None
        (folder / "hello.py").write_text(HELLO)

    def call(self, *arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*HOLDFAST, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def json(self, *arguments: str, code: int = 0) -> Any:
        found = self.call(*arguments, "--json")
        assert found.returncode == code, found.stderr
        return json.loads(found.stdout)

    def spawn(self, *arguments: str, log: str = "said.txt") -> subprocess.Popen[str]:
        with (self.folder / log).open("w") as said:
            return subprocess.Popen(
                [*HOLDFAST, *arguments],
                cwd=self.folder,
                env=self.environment,
                stdout=said,
                stderr=said,
                text=True,
            )

    def start_dev(self) -> subprocess.Popen[str]:
        self._dev = self.spawn("dev", "hello.py")
        until_sync(lambda: "greeter " in self.said(), "dev says what runs", 30)
        return self._dev

    def said(self, log: str = "said.txt") -> str:
        path = self.folder / log
        return path.read_text() if path.exists() else ""

    def pids(self) -> dict[str, int]:
        """The processes that `dev` said it runs, the newest of each."""
        found: dict[str, int] = {}
        for line in self.said().splitlines():
            words = line.replace(",", "").split()
            if "process" in words[1:-1] or (len(words) > 2 and words[-2:-1] == ["process"]):
                found[words[0]] = int(words[words.index("process") + 1])
        return found

    def stop(self) -> None:
        if self._dev is not None and self._dev.poll() is None:
            self._dev.send_signal(signal.SIGINT)
            self._dev.wait(30)


def runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path)
    yield project
    project.stop()


def test_hello_world_is_one_command(project: Project) -> None:
    began = time.monotonic()
    found = project.call(
        "dev", "hello.py", "--run", "greeter.greet", "--input", "name=Ada", "--json"
    )
    print(f"took {time.monotonic() - began:.2f} s", found.stderr)
    assert found.returncode == 0, found.stderr
    answer = json.loads(found.stdout)
    assert (answer["state"], answer["output"]["text"]) == ("succeeded", "Hello, Ada")
    for name, pid in project.pids().items():
        assert not runs(pid), name
    again = project.call("dev", "hello.py", "--run", "greeter.greet", "--input", "name=Bob")
    assert "Hello, Bob" in again.stdout
    assert len(project.json("runs")["runs"]) == 2
    fresh = project.call(
        *["dev", "hello.py", "--fresh", "--run", "greeter.greet", "--input", "name=Cy"]
    )
    assert fresh.returncode == 0, fresh.stderr
    assert len(project.json("runs")["runs"]) == 1


def test_dev_restarts_what_dies_and_stops_cleanly(project: Project) -> None:
    dev = project.start_dev()
    submit = ("submit", "--task", "greeter.greet", "--input", "name=Ada", "--wait")
    first = project.json(*submit)["output"]["pid"]
    assert first == project.pids()["greeter"]
    second_dev = project.call("dev", "hello.py")
    assert (second_dev.returncode, "another `holdfast dev`" in second_dev.stderr) == (2, True)
    os.kill(first, signal.SIGKILL)
    until_sync(lambda: "greeter is back" in project.said(), "it is restarted", 30)
    assert "greeter died (SIGKILL); starting it again" in project.said()
    second = project.json(*submit)["output"]["pid"]
    assert second != first
    pids = project.pids()
    assert pids["greeter"] == second
    dev.send_signal(signal.SIGINT)
    assert dev.wait(30) == 0
    assert "the same command goes on where it was" in project.said()
    assert not any(runs(pid) for pid in pids.values())
    agents = project.folder / ".holdfast" / "logs" / "greeter.log"
    assert "agent greeter is ready" in agents.read_text()


def test_children_do_not_outlive_a_killed_dev(project: Project) -> None:
    dev = project.start_dev()
    pids = project.pids()
    assert len(pids) == 2
    until_sync(lambda: all(runs(pid) for pid in pids.values()), "both run")
    dev.kill()
    dev.wait()
    until_sync(lambda: not any(runs(pid) for pid in pids.values()), "both are gone", 30)


def test_an_agent_that_cannot_run_ends_dev_with_its_reason(project: Project) -> None:
    run = ("dev", "hello.py", "--run", "greeter.greet", "--input", "name=Ada")
    assert project.call(*run).returncode == 0
    module = project.folder / "hello.py"
    module.write_text(HELLO.replace("    name: str\n", "    name: str\n    surname: str\n"))
    found = project.call(*run)
    assert found.returncode == 2, found.stderr
    last = found.stderr.splitlines()[-1]
    assert last.startswith("holdfast: greeter cannot run: ")
    assert "surname" in last
    assert "greeter.greet.input" in last
    assert not any(runs(pid) for pid in project.pids().values())


def test_a_failed_run_its_dead_letter_and_its_fork(project: Project) -> None:
    project.start_dev()
    failed = project.json(
        *["submit", "--task", "greeter.fail", "--input", "name=Ada", "--run-id", "r1", "--wait"],
        code=1,
    )
    assert failed["state"] == "failed"
    assert "cannot greet Ada" in failed["failure"]["message"]
    (letter,) = project.json("dead-letters", "list")["dead_letters"]
    assert (letter["run_id"], letter["open"]) == ("r1", False)
    whole = project.json("dead-letters", "show", letter["dead_letter_id"])
    assert whole["input"] == {"name": "Ada"}
    assert "Fatal" in project.call("dead-letters", "show", letter["dead_letter_id"]).stdout
    reasons = project.json("why", "r1")["reasons"]
    assert {reason["code"] for reason in reasons} >= {"failed"}
    (project.folder / "mended").touch()
    fork = project.json("dead-letters", "replay", letter["dead_letter_id"])
    assert fork["fork_of"] == "r1"
    again = project.json("dead-letters", "replay", letter["dead_letter_id"])
    assert again["run_id"] == fork["run_id"]
    until_sync(
        lambda: project.json("run", "show", fork["run_id"])["state"] == "succeeded", "forked", 30
    )
    assert project.json("run", "show", fork["run_id"])["origin"] == "r1"


def test_a_dead_letter_that_its_run_waits_for_is_replayed(project: Project) -> None:
    project.start_dev()
    (project.folder / "plan.yaml").write_text(
        "name: patient\non_dead_letter: wait\n"
        "tasks:\n  one: {task: greeter.fail, input: {name: '${input.name}'}}\n"
    )
    run_id = project.call("submit", "plan.yaml", "--input", "name=Ada").stdout.strip()
    until_sync(lambda: project.json("run", "show", run_id)["state"] == "waiting", "it waits", 30)
    (letter,) = project.json("dead-letters", "list", "--open")["dead_letters"]
    why = project.call("why", run_id).stdout
    assert f"holdfast dead-letters replay {letter['dead_letter_id']}" in why
    (project.folder / "mended").touch()
    assert project.call("dead-letters", "replay", letter["dead_letter_id"]).returncode == 0
    until_sync(
        lambda: project.json("run", "show", run_id)["state"] == "succeeded", "it goes on", 30
    )


def test_a_run_is_cancelled_and_time_runs_out(project: Project) -> None:
    project.start_dev()
    submit = ("submit", "--task", "greeter.sleep", "--input", "name=Ada", "--run-id", "r1")
    late = project.call(*submit, "--wait", "--timeout", "1")
    assert (late.returncode, "it goes on" in late.stderr) == (3, True)
    until_sync((project.folder / "sleeping").exists, "it runs", 30)
    repeated = project.json(*submit)  # the same id and input: one run
    assert repeated["run_id"] == "r1"
    assert project.json("run", "pause", "r1")["run_id"] == "r1"
    refused = project.call("run", "pause", "r1")
    assert (refused.returncode, "is paused: only a run that is running" in refused.stderr) == (
        2,
        True,
    )
    assert project.call("run", "resume", "r1").returncode == 0
    assert project.call("run", "cancel", "r1", "--reason", "enough").returncode == 0
    until_sync(lambda: project.json("run", "show", "r1")["state"] == "cancelled", "it ends", 30)
    other = ("submit", "--task", "greeter.greet", "--input", "name=Ada", "--run-id", "r1")
    for flags in (("--wait",), ()):
        conflict = project.call(*other, *flags)
        assert (conflict.returncode, "another plan or input" in conflict.stderr) == (2, True)
    closed = project.call("run", "cancel", "r1")
    assert (closed.returncode, "is closed (cancelled)" in closed.stderr) == (2, True)
    kinds = [event["type"] for event in project.json("run", "history", "r1")["events"]]
    assert kinds[0] == "run.started"
    assert kinds.count("run.cancelled") == 1


def test_services_by_hand_with_metrics(project: Project) -> None:
    free = _free_port()
    children = [
        project.spawn("coordinator", log="c.txt"),
        project.spawn(
            *["agent", "hello.py:greeter", "--metrics-port", f"127.0.0.1:{free}"], log="a.txt"
        ),
        project.spawn("agent", "hello:greeter", log="b.txt"),
    ]
    try:
        until_sync(lambda: "is ready" in project.said("a.txt"), "the agent is ready", 30)
        until_sync(lambda: "is ready" in project.said("c.txt"), "the coordinator is ready", 30)
        until_sync(lambda: "is ready" in project.said("b.txt"), "the other agent is ready", 30)
        submit = ("submit", "--task", "greeter.greet", "--input", "name=Ada", "--wait")
        assert project.json(*submit)["state"] == "succeeded"
        assert len(project.json("agents")["agents"]) == 2  # each with a name of its own
        with urllib.request.urlopen(f"http://127.0.0.1:{free}/livez", timeout=10) as answer:
            assert answer.status == 200
        with urllib.request.urlopen(f"http://127.0.0.1:{free}/metrics", timeout=10) as answer:
            assert b"holdfast_commits_total" in answer.read()
        for child in children:
            child.send_signal(signal.SIGTERM)
        assert [child.wait(30) for child in children] == [0, 0, 0]
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()


SCRIPT = """
from holdfast.client import Client, RunFailed
from hello import Person, greet
with Client.sync() as client:
    run = client.submit(greet, Person(name="Ada"))
    result = run.result(30)
    assert result.text == "Hello, Ada", result
    assert [event.type for event in run.events()][-1] == "run.succeeded"
    found = client.run(run.id)
    assert found.result(30)["text"] == "Hello, Ada"
    try:
        client.submit("greeter.fail", {"name": "Bob"}).result(30)
    except RunFailed as error:
        print(error.failure.message)
"""


def test_the_client_in_a_script(project: Project) -> None:
    project.start_dev()
    (project.folder / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=project.folder,
        env=project.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "task 'task' failed: cannot greet Bob\n"), (
        done.stderr
    )


async def test_the_client_inside_a_loop_of_its_caller(project: Project) -> None:
    from holdfast.client import Client

    project.start_dev()
    url = f"sqlite:///{project.folder}/.holdfast/bus.db"
    async with Client(url, "holdfast") as client:
        runs = await asyncio.gather(
            *(client.submit("greeter.greet", {"name": f"n{n}"}) for n in range(100))
        )
        results = await asyncio.gather(*(run.result(30) for run in runs))
    assert [result["text"] for result in results] == [f"Hello, n{n}" for n in range(100)]


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
