"""The torture sees: it passes on sound code, and finds a bug that was planted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SEED = "11"


INSIDE_A_COMMIT = "kill-agent:before-produce+before-offsets+before-commit-sent+after-commit-sent"


def torture(folder: Path, faults: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.torture", "--bus", "sqlite", "--seed", SEED]
    command += ["--faults", faults, "--minutes", "0.2", "--results", str(folder / "results")]
    command += ["--folder", str(folder / "scratch"), *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=150, check=False
    )


def test_kills_at_every_point_break_nothing(tmp_path: Path) -> None:
    done = torture(tmp_path, "kill-agent")
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = [
        outcome
        for path in (tmp_path / "results").iterdir()
        for outcome in json.loads(path.read_text())
    ]
    assert sum(outcome["injected"] for outcome in outcomes) >= 10
    assert sum(outcome["tasks"] for outcome in outcomes) > 50


def test_offsets_outside_the_commit_are_found(tmp_path: Path) -> None:
    done = torture(tmp_path, INSIDE_A_COMMIT, "--planted", "offset-outside-the-commit")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "VIOLATION I" in done.stdout
