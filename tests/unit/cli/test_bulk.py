"""`holdfast bulk …`: what it shows, what it sends, and what only some of its words take."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from holdfast.bus.connect import open_bus
from holdfast.bus.partition import partition_for
from holdfast.bus.port import Record
from holdfast.client import run as run_module
from holdfast.schemas import (
    Cause,
    Command,
    CoordinatorEnvelope,
    Event,
    EventType,
    RunState,
    decode,
    encode,
)
from tests.unit.cli.conftest import Invoke
from tests.unit.client.conftest import run_row

PARTITIONS = 4
PLACE = partition_for(b"trip-7", PARTITIONS)
WHERE = ("--where", "run=trip-7")
SAID = [
    ((), None, "undoing what each plan says"),
    (("--compensate",), True, "undoing what has succeeded"),
    (("--no-compensate",), False, "undoing nothing"),
]


@pytest.fixture
def trip(home: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on, and no coordinator that answers."""
    monkeypatch.setattr(run_module, "COMMAND_WAIT_S", 0.02)
    assert invoke("topics", "create", "--partitions", str(PARTITIONS)).code == 0

    async def start() -> None:
        bus = open_bus("sqlite:///.holdfast/bus.db")
        await bus.start()
        row = run_row("trip-7", RunState.RUNNING)
        event = Event("trip-7", EventType.RUN_STARTED, 1, Cause(PLACE, 0), row, None, "", "{}")
        await bus.publish([Record("holdfast.events", None, encode(event), (), PLACE)])
        await bus.close()

    asyncio.run(start())


def sent() -> list[Any]:
    """What stands on the coordinator's topic."""

    async def read() -> list[Any]:
        bus = open_bus("sqlite:///.holdfast/bus.db")
        await bus.start()
        found = [
            decode(CoordinatorEnvelope, record.value or b"").body
            async for batch in bus.read("holdfast.coordinator", PLACE)
            for record in batch
        ]
        await bus.close()
        return found

    return asyncio.run(read())


@pytest.mark.parametrize(("flags", "compensate", "told"), SAID)
def test_a_cancel_shows_what_it_would_undo(
    trip: None, invoke: Invoke, flags: tuple[str, ...], compensate: bool | None, told: str
) -> None:
    shown = invoke("bulk", "cancel", *WHERE, *flags, "--dry-run")
    assert (shown.code, f"cancel, {told}: 1 in 1 runs" in shown.out) == (0, True)
    document = json.loads(invoke("bulk", "cancel", *WHERE, *flags, "--dry-run", "--json").out)
    assert list(document) == ["action", "compensate", "targets"]
    assert (document["compensate"], len(document["targets"])) == (compensate, 1)
    asked = invoke("bulk", "cancel", *WHERE, *flags)
    assert asked.code == 2
    assert f"give --yes to cancel 1, {told}, or --dry-run" in asked.err
    assert sent() == []


@pytest.mark.parametrize(("flags", "compensate", "told"), SAID)
def test_a_cancel_sends_what_it_has_shown(
    trip: None, invoke: Invoke, flags: tuple[str, ...], compensate: bool | None, told: str
) -> None:
    done = invoke("bulk", "cancel", *WHERE, *flags, "--yes")
    assert (done.code, f"cancel, {told}: 1 unanswered" in done.out) == (3, True)
    document = json.loads(invoke("bulk", "cancel", *WHERE, *flags, "--yes", "--json").out)
    assert list(document) == ["action", "compensate", "bulk_id", "counts", "results"]
    assert document["compensate"] is compensate
    commands = sent()
    assert len(commands) == 2
    for command in commands:
        assert isinstance(command, Command)
        assert json.loads(command.arguments).get("compensate") is compensate


@pytest.mark.parametrize("word", ["pause", "resume", "retry", "replay", "skip", "discard"])
def test_no_other_word_undoes_anything(trip: None, invoke: Invoke, word: str) -> None:
    for flag in ("--compensate", "--no-compensate"):
        found = invoke("bulk", word, *WHERE, flag, "--yes")
        assert (found.code, found.out) == (2, "")
        assert found.err.startswith("holdfast: No such option")
        assert flag in found.err
        assert found.err.endswith(f"see holdfast bulk {word} --help\n")
        assert found.err.count("\n") == 1
    document = json.loads(invoke("bulk", word, *WHERE, "--dry-run", "--json").out)
    assert list(document) == ["action", "targets"]
    assert sent() == []
