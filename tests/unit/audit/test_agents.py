"""The agents and the plan: who does what, in which steps, and what an outside witness sees."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from examples.audit import agents, models
from examples.audit.models import HistoryRequest, Inspection, ListRequest, ReportRequest, SourceFile
from examples.audit.plan import audit_plan
from examples.witness import VARIABLE
from holdfast.agents import Agent
from holdfast.schemas.derive import derive
from holdfast.schemas.records import Manifest, TaskManifest
from holdfast.schemas.resolution import check_run_input, resolve

pytestmark = pytest.mark.usefixtures("workers")

AGENTS = (agents.scout, agents.inspector, agents.historian, agents.editor)


class DirectContext:
    """Runs the bodies at once, without a journal; enough for what a handler sees of a context."""

    run_id, task_id, attempt = "run-1", "task-1", 2

    def __init__(self) -> None:
        self.steps: list[str] = []

    async def step(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        self.steps.append(name)
        assert "return" in inspect.get_annotations(function)
        return function(*args)

    async def effect(
        self, name: str, function: Callable[..., Any], *args: Any, idempotent: bool
    ) -> Any:
        assert idempotent
        self.steps.append(f"{name}!")
        return function(*args, idempotency_key="key")


async def audit(folder: Path, out: Path) -> tuple[DirectContext, models.Report]:
    ctx = DirectContext()
    listing: Awaitable[models.FileList] = agents.list_folder(
        ctx, ListRequest(folder=str(folder), out=str(out))
    )
    files = await listing
    inspections = [await agents.inspect(ctx, source) for source in files.files]
    history = await agents.history(ctx, HistoryRequest(folder=str(folder)))
    request = ReportRequest(files=files, inspections=inspections, history=history, out=str(out))
    return ctx, await agents.report(ctx, request)


async def test_an_audit_from_end_to_end(folder, put, commit, tmp_path) -> None:
    put("a.py", "import hashlib\n\n\ndef f(x):\n    return hashlib.md5(x) if x else None\n")
    put("README.md", "hello\n")
    commit()
    ctx, report = await audit(folder, tmp_path / "out")
    each = ["read", "measure", "scan", "search"]
    assert ctx.steps == ["list", *each, *each, "log", "rank", "write!"]
    assert (report.files, report.hot_spots, report.weaknesses) == (2, ["a.py"], 1)
    assert "`a.py`" in Path(report.markdown).read_text()
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    await audit(folder, tmp_path / "again")
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}


async def test_a_file_that_went_is_one_step_and_no_failure(folder) -> None:
    ctx = DirectContext()
    source = SourceFile(folder=str(folder), path="gone.py", size_bytes=1)
    result = await agents.inspect(ctx, source)
    assert ctx.steps == ["read"]
    assert isinstance(result, Inspection)
    assert result.reading.problem == "no longer there"
    assert result.metrics is None


async def test_the_witness_sees_every_body_that_runs(put, tmp_path, monkeypatch) -> None:
    witness = tmp_path / "witness.jsonl"
    monkeypatch.setenv(VARIABLE, str(witness))
    await agents.inspect(DirectContext(), put("a \n.py", "x = 1\n"))
    lines = [json.loads(line) for line in witness.read_text().splitlines()]
    assert [line["step"] for line in lines] == ["read", "measure", "scan", "search"]
    assert {line["file"] for line in lines} == {"a \n.py"}
    assert {(line["run"], line["task"], line["attempt"]) for line in lines} == {
        ("run-1", "task-1", 2)
    }
    assert all(line["pid"] > 0 and line["at"] > 1_700_000_000 for line in lines)


async def test_without_the_variable_nobody_watches(put, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    await agents.inspect(DirectContext(), put("a.py", "x = 1\n"))
    assert sorted(set(tmp_path.iterdir()) - set(before)) == []


@pytest.mark.parametrize(("pace", "fine"), [("0.2", True), ("fast", False), ("-1", False)])
def test_the_pace_is_checked_when_the_agent_starts(pace: str, fine: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import examples.audit.agents as a; print(a.PAUSE_S * 3)"],
        env={"PACE": pace, "PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    if fine:
        assert float(done.stdout) == pytest.approx(0.2)
    else:
        assert f"PACE='{pace}': seconds for each file, 0 to 60" in done.stderr


def test_an_agent_starts_without_loading_the_tools() -> None:
    program = """
import sys, examples.audit.plan
heavy = {'bandit', 'lizard', 'detect_secrets', 'matplotlib', 'requests'} & set(sys.modules)
print(sorted(heavy))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", models.__all__)
def test_everything_handed_on_has_an_avro_schema(name: str) -> None:
    assert derive(getattr(models, name))["type"] == "record"


def manifest(agent: Agent, schemas: dict[int, Any]) -> Manifest:
    tasks = []
    for task in agent.tasks.values():
        ids = []
        for kind in (task.input_type, task.output_type):
            schemas[len(schemas)] = derive(kind)
            ids.append(len(schemas) - 1)
        assert task.retry is not None
        tasks.append(TaskManifest(task.name, *ids, task.retry.policy(), None, None, ""))
    return Manifest(agent.name, "1", "p", "", "", tasks, agent.concurrency, 0, 0)


def test_the_plan_fits_the_agents() -> None:
    schemas: dict[int, Any] = {}
    manifests = {agent.name: manifest(agent, schemas) for agent in AGENTS}
    resolved = resolve(audit_plan(), manifests, schemas.__getitem__)
    assert {task_id: f"{task.agent}.{task.task}" for task_id, task in resolved.tasks.items()} == {
        "list": "scout.list",
        "inspect": "inspector.inspect",
        "history": "historian.history",
        "report": "editor.report",
    }
    check_run_input(resolved, {"folder": ".", "out": "build/audit"}, schemas.__getitem__)
    spec = resolved.plan.tasks["inspect"].map
    assert spec is not None
    assert (spec.max_parallel, spec.on_failure) == (16, "collect")
