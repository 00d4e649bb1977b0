"""A folder of one's own, and the command line in it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from holdfast.cli import app as app_module


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Invoke = Callable[..., Outcome]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in list(os.environ):
        if name.startswith("HOLDFAST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)
    yield folder
    for name, module in list(sys.modules.items()):
        if name not in known and str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def invoke(home: Path, capfd: pytest.CaptureFixture[str]) -> Invoke:
    """Runs a command in this process; returns its exit code and what it printed."""

    def call(*arguments: str) -> Outcome:
        capfd.readouterr()
        code = 0
        try:
            app_module.run(list(arguments))
        except SystemExit as ending:
            code = int(ending.code or 0)
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return call
