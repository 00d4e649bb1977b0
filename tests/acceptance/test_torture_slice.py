"""The torture sees: it passes on sound code, and finds a bug that was planted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SEED = 11
ARENAS_MAX = 12
"""Each finds the planted bug some twice. Its first kills count: whoever was killed before has each
task accepted before its handler starts (`PROBATION_S`), and what is accepted is not worked again.
"""
BETWEEN_TWO_COMMITS = "kill-agent:after-result"
"""With the bug planted a task's result is committed here, and its offset is not yet."""


def torture(
    folder: Path, faults: str, *arguments: str, seed: int = SEED
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.torture", "--bus", "sqlite", "--seed", str(seed)]
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
    planted = ("--planted", "offset-outside-the-commit")
    for seed in range(SEED, SEED + ARENAS_MAX):
        done = torture(tmp_path / str(seed), BETWEEN_TWO_COMMITS, *planted, seed=seed)
        if done.returncode:
            break
    assert done.returncode == 1, done.stdout + done.stderr
    assert "VIOLATION I" in done.stdout
