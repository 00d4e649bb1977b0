"""`replay-test`, `journals export` and `run restart-task`: by exported journals, without a bus."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.frozen.loading import frozen_logs, load
from tests.unit.cli.conftest import Invoke

LOG = str(frozen_logs()[0])
GOOD = """
from tests.frozen.workload import Gates, make_worker

worker = make_worker(Gates.opened())
"""
BAD = """
from holdfast.agents import Agent, Context
from tests.frozen.workload import Word

worker = Agent("worker", version="new")

@worker.task
async def steps(ctx: Context, word: Word) -> Word:
    return Word(text=await ctx.step("renamed", str, "x"))
"""


def test_journals_that_fit(invoke: Invoke, tmp_path: Path) -> None:
    module = tmp_path / "good_worker.py"
    module.write_text(GOOD)
    told = invoke(
        "--namespace", "frozen", "replay-test", f"{module}:worker", "--from", LOG, "--json"
    )
    assert told.code == 0, told.err
    document = json.loads(told.out)
    assert document["bad"] == 0
    fits = {each["task"]: each["fit"] for each in document["tasks"]}
    assert fits["steps/only"] == "so far"
    assert fits["fatal/only"] in ("ended", "skipped")
    assert {each["build"] for each in document["tasks"] if each["steps"]} == {"frozen"}


def test_journals_that_do_not(invoke: Invoke, tmp_path: Path) -> None:
    module = tmp_path / "bad_worker.py"
    module.write_text(BAD)
    told = invoke("--namespace", "frozen", "replay-test", str(module), "--from", LOG)
    assert told.code == 1
    assert "steps/only: mismatch" in told.out
    assert "- first  [step, attempt 1, build frozen]  <- the first difference" in told.out
    assert "+ renamed" in told.out
    assert "do not fit" in told.err


def test_an_export_is_what_replay_test_reads(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast.bus.connect import open_bus
    from holdfast.bus.port import Environment

    async def fill() -> None:
        bus = open_bus(f"sqlite:///{tmp_path}/bus.db")
        await bus.start()
        await load(Environment(bus), frozen_logs()[0])
        await bus.close()

    asyncio.run(fill())
    monkeypatch.setenv("HOLDFAST_NAMESPACE", "frozen")
    file = tmp_path / "journals.gz"
    bus = f"sqlite:///{tmp_path}/bus.db"
    told = invoke("--bus", bus, "journals", "export", "worker", "--to", str(file))
    assert told.code == 0, told.err
    assert "records of worker in" in told.out
    module = tmp_path / "exported_worker.py"
    module.write_text(GOOD)
    replayed = invoke("replay-test", str(module), "--from", str(file), "--runs", "2", "--json")
    assert replayed.code == 0, replayed.err
    tasks = json.loads(replayed.out)["tasks"]
    assert len({each["task"].partition("/")[0] for each in tasks}) == 2


def test_an_agent_that_the_journals_do_not_hold_is_named(invoke: Invoke, tmp_path: Path) -> None:
    module = tmp_path / "two_workers.py"
    module.write_text(GOOD + '\nfrom holdfast.agents import Agent\n\nnew = Agent("new")\n')
    told = invoke("--namespace", "frozen", "replay-test", str(module), "--from", LOG)
    assert "holds no journal of new: nothing of it is replayed" in told.err
    assert "worker: " in told.err
    assert told.code == 0, told.err
    alone = invoke("--namespace", "frozen", "replay-test", f"{module}:new", "--from", LOG)
    assert alone.code == 2
    assert "holds no journal of new: the agent has never run there" in alone.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("replay-test", "no_such_module_here"), "no module"),
        (("run", "restart-task", "run-1", "task"), "--reason"),
        (("journals", "export", "worker"), "--to"),
    ],
)
def test_bad_arguments(invoke: Invoke, arguments: tuple[str, ...], told: str) -> None:
    outcome = invoke(*arguments)
    assert outcome.code == 2
    assert told in outcome.err


def test_a_file_that_is_no_export(invoke: Invoke, tmp_path: Path) -> None:
    module = tmp_path / "other_worker.py"
    module.write_text(GOOD)
    file = tmp_path / "file.txt"
    file.write_text("nonsense")
    outcome = invoke("replay-test", str(module), "--from", str(file))
    assert outcome.code == 2
    assert "does not begin saved records" in outcome.err
