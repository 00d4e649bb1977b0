"""`python -m examples.audit`: what is refused before anything is begun."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from examples.audit import __main__ as command
from examples.audit import demo
from tests.unit.embedded.places import started

AUDITED = "folder"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / AUDITED).mkdir()
    (tmp_path / command.BUS_FILE.parent).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOLDFAST_BUS", raising=False)
    monkeypatch.setattr(sys, "argv", ["examples.audit", AUDITED, "--fresh"])
    return tmp_path


@pytest.fixture
def audits(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The audits that were begun: none is carried out."""
    begun: list[object] = []

    async def audit(choices: object) -> None:
        begun.append(choices)

    monkeypatch.setattr(demo, "audit", audit)
    return begun


async def test_fresh_is_refused_while_another_process_uses_the_file(
    here: Path, audits: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    async with started(here / command.BUS_FILE.parent):
        assert await asyncio.to_thread(command.main) == command.EXIT_BAD_INPUT
        assert (here / command.BUS_FILE).exists()
        assert (here / f"{command.BUS_FILE}.d" / "members").is_dir()
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "which another process uses" in told
    assert audits == []
    assert await asyncio.to_thread(command.main) == 0, "nobody uses it any more"


def test_fresh_removes_the_file_and_all_beside_it(here: Path, audits: list[object]) -> None:
    beside = here / f"{command.BUS_FILE}.d" / "wake"
    beside.mkdir(parents=True)
    (here / command.BUS_FILE).write_text("old")
    (beside / "left-behind").touch()
    assert command.main() == 0
    assert list((here / command.BUS_FILE.parent).iterdir()) == []
    assert len(audits) == 1
