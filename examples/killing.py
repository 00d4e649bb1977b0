"""`KILL=1`: ends one process of an example in the middle, and finds out what came of it."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Collection
from pathlib import Path

from examples.processes import COORDINATOR
from holdfast.cli.supervisor import Supervisor

__all__ = ["Kill"]


class Kill:
    """One `kill -9`, told from the witness of executions that stands outside of the system.

    `tasks`: what the ids of the tasks that are counted begin with. `witness`: see `witness`.
    """

    def __init__(self, supervisor: Supervisor, victim: str, witness: Path, tasks: str = "") -> None:
        self._supervisor = supervisor
        self._victim = victim
        self._witness = witness
        self._tasks = tasks
        self._kept: frozenset[str] = frozenset()
        self._killed_at = 0.0
        self.at = 0.0
        """When, in seconds since 1970."""
        self._starts = 0
        self._progress = ""
        self._back_after_s: float | None = None

    @property
    def happened(self) -> bool:
        """Whether it was killed."""
        return self._killed_at > 0

    def strike(self, ended: Collection[str], progress: str) -> None:
        """Kill it now. `ended`: the tasks that are done; `progress`: how far it is, in words."""
        self._kept, self._progress = frozenset(ended), progress
        self._starts = self._supervisor.processes[self._victim].starts
        self.at, self._killed_at = time.time(), time.monotonic()
        pid = self._supervisor.kill(self._victim, signal.SIGKILL)
        print(f"  kill -9 {pid} ({self._victim}), at {progress}", flush=True)

    def heard(self, agent: str) -> None:
        """A result of this agent has come: the victim's first one tells how long the gap was."""
        if not self.happened or self._back_after_s is not None:
            return
        # What it had said before it died may come after its death.
        back = self._supervisor.processes[self._victim].starts > self._starts
        if back and self._victim in (agent, COORDINATOR):
            self._back_after_s = time.monotonic() - self._killed_at

    def story(self) -> str:
        """What happened, in numbers.

        Steps run again: their body had begun, and was not committed. Repeated: run again although
        the task had ended, which must never be.
        """
        bodies: dict[tuple[str, str, str], list[float]] = {}
        processes: dict[str, set[int]] = {}
        for line in self._witness.read_text().splitlines():
            seen = json.loads(line)
            if seen["task"].startswith(self._tasks):
                key = (seen["task"], seen["step"], seen["key"])
                bodies.setdefault(key, []).append(seen["at"])
                processes.setdefault(seen["task"], set()).add(seen["pid"])
        again = [key for key, starts in bodies.items() if len(starts) > 1]
        repeated = [
            key for key, starts in bodies.items() if key[0] in self._kept and max(starts) > self.at
        ]
        moved = sum(len(pids) > 1 for pids in processes.values())
        gap = "no result of it since"
        if self._back_after_s is not None:
            gap = f"back after {self._back_after_s:.1f} s"
        return (
            f"{self._victim} killed at {self._progress}; {gap}; {len(self._kept)} results kept, "
            f"{moved} tasks resumed, {len(again)} steps run again, {len(repeated)} repeated"
        )
