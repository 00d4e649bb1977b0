"""The torture sees: it passes on sound code, and finds a bug that was planted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SEED = "11"


BETWEEN_TWO_COMMITS = "kill-agent:before-commit-sent+after-commit-sent"


def torture(
    folder: Path, faults: str, *arguments: str, minutes: float = 0.2
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.torture", "--bus", "sqlite", "--seed", SEED]
    command += ["--faults", faults, "--minutes", str(minutes), "--results", str(folder / "results")]
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
    # Some 200 kills: only one that meets the second of the two commits of an ended task shows it.
    planted = ("--planted", "offset-outside-the-commit")
    done = torture(tmp_path, BETWEEN_TWO_COMMITS, *planted, minutes=0.4)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "VIOLATION I" in done.stdout
