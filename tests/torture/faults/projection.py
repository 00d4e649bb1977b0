"""The process that follows the events into a database, killed before and after each commit."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.testing import History
from tests.torture.faults.base import RECOVERY_MAX_S, Injection, NotRecovered
from tests.torture.faults.kills import KillAtPoint
from tests.torture.points import PROJECTION_POINTS
from tests.torture.service import PROJECTION
from tests.torture.watch import Recovery

if TYPE_CHECKING:
    from tests.torture.arena import Arena, ArenaSettings

__all__ = ["KillProjection"]

CATCH_UP_S = 30.0
LOOK_S = 0.02
State = tuple[int, str]
"""Version and state of a run or a task."""


class KillProjection(KillAtPoint):
    """Kills the projection at its points; in the end the database must tell what the events tell.

    Recovery is the time until the positions in the database have moved again.
    """

    def __init__(self) -> None:
        super().__init__("kill-projection", "projection", PROJECTION_POINTS)

    def arrange(self, settings: ArenaSettings) -> ArenaSettings:
        """A projection, beside all others."""
        return replace(settings, beside={**settings.beside, "p1": (("projection",), {})})

    async def inject(self, arena: Arena, victim: str, chance: random.Random) -> Injection | None:
        """See `Fault`."""
        began = time.monotonic()
        injection = await super().inject(arena, victim, chance)
        if injection is None:
            return None
        found = Recovery(max(began, arena.hits.all()[-1].at_ns / 1e9), {}, 1)
        return replace(injection, awaited={injection.point: found})

    async def recovered(self, arena: Arena, injection: Injection) -> dict[str, float]:
        """See `Fault`."""
        path = arena.folder / PROJECTION
        before = _position(path)
        deadline = time.monotonic() + RECOVERY_MAX_S
        while _position(path) <= before:
            if time.monotonic() > deadline:
                raise NotRecovered("the projection stands still")
            await asyncio.sleep(LOOK_S)
        recovery = injection.awaited[injection.point]
        return {injection.point: time.monotonic() - recovery.at}

    async def judge(self, arena: Arena, history: History) -> list[tuple[str, str]]:
        """See `Fault`: rows and positions stand in one transaction, or neither does."""
        runs, tasks = _told(history)
        deadline = time.monotonic() + CATCH_UP_S
        while True:
            wrong = [
                *_differences("run", runs, _rows(arena.folder / PROJECTION, "runs", "run_id")),
                *_differences(
                    "task", tasks, _rows(arena.folder / PROJECTION, "tasks", "run_id, task_id")
                ),
            ]
            if not wrong or time.monotonic() > deadline:
                return [("I4", what) for what in wrong]
            await asyncio.sleep(0.1)


def _told(history: History) -> tuple[dict[tuple[str, ...], State], dict[tuple[str, ...], State]]:
    """Return the newest state of each run and task, as the events tell it."""
    runs: dict[tuple[str, ...], State] = {}
    tasks: dict[tuple[str, ...], State] = {}
    for event in history.events:
        body = event.body
        if body.run is not None:
            state = (body.run.version, str(body.run.state))
            runs[body.run_id,] = max(runs.get((body.run_id,), state), state)
        if body.task is not None:
            key = (body.run_id, body.task.task_id)
            state = (body.task.version, str(body.task.state))
            tasks[key] = max(tasks.get(key, state), state)
    return runs, tasks


def _differences(
    what: str, told: dict[tuple[str, ...], State], kept: dict[tuple[str, ...], State]
) -> Iterable[str]:
    for key in told.keys() | kept.keys():
        if told.get(key) != kept.get(key):
            name = "/".join(key)
            yield f"the events say {told.get(key)} of {what} {name}, the database {kept.get(key)}"


def _rows(path: Path, table: str, key: str) -> dict[tuple[str, ...], State]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        rows = db.execute(f"SELECT {key}, version, state FROM {table}").fetchall()
    return {tuple(row[:-2]): (row[-2], row[-1]) for row in rows}


def _position(path: Path) -> int:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT coalesce(sum(next_offset), 0) FROM positions").fetchone()[0])
