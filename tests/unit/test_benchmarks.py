"""What every benchmark prints beside its figures: without it they cannot be compared."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import benchmarks.__main__ as command
from benchmarks.stage import sync_ms


def test_each_run_prints_the_disks_sync_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextlib.contextmanager
    def none(wanted: str) -> Iterator[dict[str, str]]:
        yield {}

    monkeypatch.setattr(command, "buses", none)
    monkeypatch.setattr(command, "sync_ms", lambda folder: 12.34)
    monkeypatch.setattr(sys, "argv", ["benchmarks"])
    command.main()
    assert "sync 12.34 ms" in capsys.readouterr().out


def test_it_is_measured_on_the_disk_that_is_asked_about(tmp_path: Path) -> None:
    assert sync_ms(tmp_path) > 0
