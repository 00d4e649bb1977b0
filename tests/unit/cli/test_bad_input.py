"""Whatever is wrong with what was typed: one or two lines that name it and the remedy, exit code 2,
no traceback, nothing half-done."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from holdfast.bus.connect import open_bus
from holdfast.bus.port import Record
from tests.unit.cli.conftest import Invoke

AGENT = """
from pydantic import BaseModel
from holdfast.agents import Agent, Context

class Person(BaseModel):
    name: str

hello = Agent("greeter")
"""
TASK = """
@hello.task()
async def greet(ctx: Context, person: Person) -> Person:
    return person
"""


@pytest.fixture
def files(home: Path) -> Path:
    (home / "hello.py").write_text(AGENT + TASK)
    (home / "none.py").write_text("x = 1\n")
    (home / "broken.py").write_text("def f(:\n")
    (home / "raising.py").write_text("import nowhere_to_be_found\n")
    (home / "twins.py").write_text(AGENT + 'other = Agent("greeter")\n')
    (home / "string.py").write_text("")
    (home / "no name.py").write_text("")
    (home / "two.py").write_text(AGENT + 'other = Agent("other")\n')
    (home / "untyped.py").write_text(AGENT + "@hello.task()\ndef greet(ctx, name): ...\n")
    (home / "bad.yaml").write_text("name: audit\ntasks:\n  a: {task: [}\n")
    (home / "odd.yaml").write_text("name: audit\ntasks:\n  a: {task: greeter.greet, wenn: x}\n")
    (home / "cycle.yaml").write_text(
        "name: c\ntasks:\n  a: {task: x.y, after: [b]}\n  b: {task: x.y, after: [a]}\n"
    )
    (home / "bad.json").write_text('{"a": 1,}')
    (home / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    return home


@pytest.mark.parametrize(
    ("command", "complaints"),
    [
        ("runs --bus nonsense://x", ["unknown bus 'nonsense'", "sqlite:///path"]),
        ("runs --bus kafka://host:badport", ["no broker address", "kafka://host:port"]),
        ("runs --bus kafka://a:b@host:1", ["user or password", "HOLDFAST_KAFKA_PASSWORD"]),
        ("runs --bus sqlite:////nowhere/at/all/bus.db", ["there is no bus", "--bus"]),
        ("topics create --bus sqlite:////nowhere/at/all/bus.db", ["folder", "/nowhere/at/all"]),
        ("topics create --bus sqlite:///none.py", ["none.py"]),
        ("runs", ["there is no bus", "holdfast dev"]),
        ("runs --namespace a.b", ["namespace 'a.b'", "a-z"]),
        ("runs --partitions 0", ["--partitions", "greater than or equal to 1"]),
        ("runs --log-level loud", ["--log-level", "debug"]),
        ("runs --after nonsense", ["--after 'nonsense'"]),
        ("runs --state runing", ["--state 'runing'", "did you mean 'running'"]),
        ("dead-letters list --reason poisn", ["did you mean 'poison'"]),
        ("submit", ["name a plan file"]),
        ("submit a.yaml --task x.y", ["not both"]),
        ("submit nowhere.yaml", ["nowhere.yaml", "does not exist"]),
        ("submit bad.yaml", ["bad.yaml:3:"]),
        ("submit odd.yaml", ["odd.yaml:3:", "wenn"]),
        ("submit cycle.yaml", ["wait for each other", "a -> b"]),
        ("submit binary.yaml", ["binary.yaml", "UTF-8"]),
        ("submit --task x.y --timeout 3", ["--timeout belongs to --wait"]),
        ("submit --task x.y --start-at soon", ["--start-at 'soon'", "2026-11-27T18:00:00+01:00"]),
        ("submit --task x.y --start-at 2030-01-01", ["has no time zone"]),
        ("submit --task x.y --start-at 2030-01-01T00:00Z --start-in 3", ["not both"]),
        ("submit --task x.y --input a=1 --input a=2", ["'a' twice"]),
        ("submit --task x.y --input @nowhere.json", ["nowhere.json", "No such file"]),
        ("submit --task x.y --input @bad.json", ["bad.json:1:9"]),
        ("submit --task x.y --input @bad.yaml", ["bad.yaml:3:"]),
        ("submit --task x.y --input @binary.yaml", ["binary.yaml", "UTF-8"]),
        ("submit --task x.y --input {oops", ["neither name=value nor JSON"]),
        ("dev nowhere.py", ["no file 'nowhere.py'"]),
        ("dev nowhere", ["no module 'nowhere'"]),
        ("dev untyped.py", ["greeter.greet", "untyped.py:9"]),
        ("dev none.py", ["none.py has no agent", "Agent("]),
        ("dev broken.py", ["broken.py:1:", "cannot be imported"]),
        ("dev raising.py", ["No module named 'nowhere_to_be_found'", "raising.py:1"]),
        ("dev twins.py", ["two agents with the name 'greeter'"]),
        ("dev string.py", ["'string'", "rename the file"]),
        ("dev hello.py two.py", ["'greeter' stands in two modules"]),
        ("dev hello.py --run greet", ["names no task"]),
        ("dev hello.py --input a=1", ["belong to --run"]),
        ("dev hello.py --fresh --bus kafka://localhost:1", ["--namespace"]),
        ("dev hello.py --fresh --bus sqlite:///none.py", ["does not remove none.py"]),
        ("agent hello.py:greter", ["no agent 'greter'", "did you mean 'greeter'"]),
        ("agent two.py", ["several agents", "two.py:greeter|other"]),
        ("agent hello.py:greeter --metrics-port x", ["--metrics-port 'x'", "HOST:PORT"]),
        ("agent hello.py:greeter --instance A.b", ["instance 'A.b'"]),
        ("schemas check a nowhere.avsc", ["nowhere.avsc", "No such file"]),
        ("schemas check a none.py", ["none.py:1:1"]),
        ("schemas check a bad.json --mode no", ["--mode 'no'", "did you mean 'none'"]),
        ("nonsense", ["nonsense"]),
        ("runs --nonsense", ["--nonsense"]),
    ],
)
def test_it_is_named(files: Path, invoke: Invoke, command: str, complaints: list[str]) -> None:
    before = sorted(os.listdir(files))
    found = invoke(*command.split(" "))
    for complaint in complaints:
        assert complaint in found.err
    assert found.code == 2
    assert "Traceback" not in found.err
    assert found.out == ""
    if found.err.startswith("holdfast: "):
        assert found.err.count("\n") <= 2
    made = set(os.listdir(files)) - set(before) - {".holdfast", "__pycache__", "none.py.d"}
    assert not made


def test_a_broker_that_is_not_there(files: Path, invoke: Invoke) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        port = taken.getsockname()[1]
        found = invoke("runs", "--bus", f"kafka://127.0.0.1:{port}?connect_timeout_s=0.5")
    assert found.code == 2
    assert f"127.0.0.1:{port}" in found.err
    assert "--bus" in found.err
    assert found.err.count("\n") == 1, "what the client tries meanwhile is not ours to show"


def test_a_metrics_port_in_use(files: Path, invoke: Invoke) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = invoke("agent", "hello.py:greeter", "--metrics-port", f"127.0.0.1:{port}")
    assert found.code == 2
    assert f"port {port} on 127.0.0.1 is in use" in found.err
    assert "Traceback" not in found.err


def test_topics_with_another_partition_count(files: Path, invoke: Invoke) -> None:
    assert invoke("topics", "create", "--partitions", "3").code == 0
    found = invoke("topics", "create")
    assert found.code == 2
    assert "has 3 partitions, not 4" in found.err
    checked = invoke("topics", "check")
    assert checked.code == 2
    assert "HOLDFAST_PARTITIONS=3" in checked.err
    agent = invoke("agent", "hello.py:greeter")
    assert agent.code == 2
    assert "has 3 partitions" in agent.err


def test_a_table_of_settings_with_a_mistake(files: Path, invoke: Invoke) -> None:
    (files / "pyproject.toml").write_text('[tool.holdfast]\nnamspace = "x"\n')
    found = invoke("runs")
    assert (found.code, "did you mean 'namespace'" in found.err) == (2, True)
    (files / "pyproject.toml").write_text("[tool.holdfast\n")
    found = invoke("runs")
    assert (found.code, "pyproject.toml cannot be read" in found.err) == (2, True)


def test_what_does_not_exist_is_not_found(files: Path, invoke: Invoke) -> None:
    assert invoke("topics", "create").code == 0
    for command in ("run show x", "run cancel x", "why x", "dead-letters show x", "schemas show x"):
        found = invoke(*command.split())
        assert found.code == 4
        assert "'x'" in found.err
        assert "Traceback" not in found.err


def test_an_agent_that_is_not_there_changes_nothing_at_any(files: Path, invoke: Invoke) -> None:
    assert invoke("topics", "create", "till").code == 0
    found = invoke("pause-key", "ada", "--agent", "till", "--agent", "tll")
    assert (found.code, found.out) == (2, "")
    assert "agent 'tll' has no topics here; did you mean 'till'?" in found.err
    assert "an order key is not empty" in invoke("agents", "pause", "till", "--key", "").err
    nothing = invoke("run", "history", "agent/till")
    assert nothing.code == 4
    assert "nothing has happened to 'agent/till'" in nothing.err


def test_a_run_that_no_coordinator_has_taken_in_is_not_denied(files: Path, invoke: Invoke) -> None:
    assert invoke("topics", "create").code == 0

    async def submit() -> None:
        bus = open_bus("sqlite:///.holdfast/bus.db")
        await bus.start()
        await bus.publish([Record("holdfast.coordinator", b"x", b"a submission")])
        await bus.close()

    asyncio.run(submit())
    found = invoke("why", "x")
    assert found.code == 4
    assert "1 records wait" in found.err
    assert "holdfast doctor" in found.err


@pytest.mark.parametrize(
    ("command", "help_of"),
    [
        ("nonsense", "holdfast --help"),
        ("run show", "holdfast run show --help"),
        ("runs --partitions x", "holdfast --help"),
    ],
)
def test_misuse_is_one_line_with_the_way_to_help(
    files: Path, invoke: Invoke, command: str, help_of: str
) -> None:
    found = invoke(*command.split())
    assert (found.code, found.out) == (2, "")
    assert found.err.startswith("holdfast: ")
    assert found.err.endswith(f"see {help_of}\n")
    assert found.err.count("\n") == 1


def test_a_module_that_is_not_there_is_named_once(files: Path, invoke: Invoke) -> None:
    found = invoke("agent", "nowhere:x")
    assert found.err == f"holdfast: no module 'nowhere' in {files} or installed\n"


def test_a_traceback_only_with_debug(files: Path, invoke: Invoke) -> None:
    found = invoke("runs", "--bus", "nonsense://x", "--debug")
    assert (found.code, "Traceback" in found.err) == (2, True)
