"""What a torture found, as JSON (an object for each fault and point) and as one line of text."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Outcome", "Tally", "line", "machine", "quantile", "write"]

ROOT = Path(__file__).parents[2]


@dataclass
class Outcome:
    """One (suite, bus, fault, point). `recovery_s`: one for each recovery that was measured."""

    suite: str
    bus: str
    fault: str
    point: str
    injected: int
    runs: int
    tasks: int
    violations: list[dict[str, str]]
    recovery_s: list[float]
    bound_s: float | None
    seed: int
    commit: str
    started: str
    seconds: float
    machine: dict[str, Any]
    notes: str


@dataclass
class Tally:
    """Counts of one round, by point ("" where a fault has none)."""

    injected: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    recovery_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    missed: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    slow: list[str] = field(default_factory=list)
    unsuccessful: Mapping[str, int] = field(default_factory=dict)
    """Runs that ended in another way than with success, by their last event."""
    problems: list[tuple[str, str]] = field(default_factory=list)
    """What the harness saw itself: the invariant that it breaks, and what it was."""

    @property
    def total(self) -> int:
        """All injections."""
        return sum(self.injected.values())

    def problem(self, invariant: str, what: str) -> None:
        """Note what breaks an invariant."""
        self.problems.append((invariant, what))

    def points(self) -> list[str]:
        """Return the points that were hit, or under whose name a recovery is told, sorted."""
        return sorted({*self.injected, *self.recovery_s})


def shares(total: int, parts: Sequence[int]) -> list[int]:
    """Split `total` in proportion to `parts`; nothing is lost."""
    whole = sum(parts) or 1
    found = [total * part // whole for part in parts]
    if found:
        found[0] += total - sum(found)
    return found


def quantile(values: Iterable[float], share: float) -> float | None:
    """Return the smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    if not ordered:
        return None
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def line(outcomes: Sequence[Outcome]) -> str:
    """Return one line for a round."""
    first = outcomes[0]
    injected = sum(o.injected for o in outcomes)
    recoveries = [s for o in outcomes for s in o.recovery_s]
    violations = sum(len(o.violations) for o in outcomes)
    told = f"{first.bus:6} {first.fault:18} {injected:5} injected"
    told += f" {injected / max(first.seconds, 0.001) * 60:6.0f}/min"
    told += f"  runs {sum(o.runs for o in outcomes):6}  tasks {sum(o.tasks for o in outcomes):7}"
    if recoveries:
        middle, high = quantile(recoveries, 0.5), quantile(recoveries, 0.99)
        told += f"  recovery p50 {middle:.2f} p99 {high:.2f} worst {max(recoveries):.2f} s"
    told += f"  violations {violations}"
    return told + (f"  ({first.notes})" if first.notes else "")


def write(folder: Path, outcomes: Sequence[Outcome]) -> Path:
    """Write a round's outcomes to a file of its own in `folder`; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    first = outcomes[0]
    stamp = first.started.replace(":", "").replace("-", "").partition("+")[0].partition(".")[0]
    path = folder / f"{first.suite}-{first.bus}-{first.fault}-{stamp}-{first.seed}.json"
    path.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")
    return path


def machine() -> dict[str, Any]:
    """Return what the numbers were measured on.

    `load`: processes that wanted to run in the last minute. `started_by` fork: services come from
    a process that has imported everything, so that recovery holds no imports (some 0.5 s).
    """
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(pages / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
        "started_by": "fork",
    }


def commit() -> str:
    """Return the commit of the working tree, with a `+` if it has been changed since."""
    head = _git("rev-parse", "HEAD")
    return head + ("+" if head and _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()
