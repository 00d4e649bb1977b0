"""The windows of a soak: load and faults, then quiet, then a verdict; then all is forgotten."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from contextlib import closing
from functools import partial

from holdfast.coordinator import CoordinatorSettings
from holdfast.testing import INVARIANTS, Evidence, Quiet, Verdict, check
from tests.soak.ground import DEDUPE_RUNS
from tests.soak.load import PacedLoad, draw_mixed
from tests.soak.trouble import Trouble
from tests.torture.arena import Arena
from tests.torture.ledger import EVIDENCE as LEDGER_EVIDENCE
from tests.torture.ledger import Ledger
from tests.torture.service import EVIDENCE

__all__ = ["Windows"]

SETTLE_S = 120.0
"""All that is open must have ended within this, once nothing is hurt any more."""
PEAK_WIDTH = 64
"""Runs open at a time while the peak is measured: more only wait longer."""
WARM_UP_SHARE = 0.25
PROBLEMS_MAX = 50
"""So many are told; the rest is counted."""


class Windows:
    """One after the other. `problems`: all that was found so far, as results tell it."""

    def __init__(self, arena: Arena, seed: int) -> None:
        self._arena = arena
        self._seed = seed
        self._number = 0
        self.judged = 0
        self.runs = 0
        self.records = 0
        self.held_s = 0.0
        self.loaded_s = 0.0
        self.problems: list[dict[str, str]] = []
        self.untold = 0
        self.unjudged: Counter[str] = Counter()
        """In how many windows an invariant could not judge all; records that were purged or
        compacted before they were read, mostly."""
        self.hangs = False
        """All did not settle: nothing may be forgotten, so that no window can follow."""

    async def peak(self, seconds: float) -> float:
        """Return how many runs a second end at most, measured with all that can be open."""
        load = self._load()
        self._arena.working = asyncio.create_task(load.run(PEAK_WIDTH))
        await self._work(seconds * WARM_UP_SHARE)
        ended, began = len(self._arena.watch.ended), time.monotonic()
        await self._work(seconds * (1 - WARM_UP_SHARE))
        rate = (len(self._arena.watch.ended) - ended) / (time.monotonic() - began)
        await self._judge()
        return rate

    async def window(self, rate_per_s: float, seconds: float, trouble: Trouble) -> None:
        """Load and hurt for so long, then judge."""
        load = self._load()
        self._arena.working = asyncio.create_task(load.pace(rate_per_s))
        hurting = asyncio.create_task(trouble.run(self._arena))
        try:
            await self._work(seconds)
            trouble.stop()
            await hurting
        finally:
            hurting.cancel()
        self.loaded_s += seconds
        self.held_s += load.held_s
        await self._judge()

    def _load(self) -> PacedLoad:
        arena, number = self._arena, self._number
        self._number += 1
        load = PacedLoad(
            arena.client, arena.watch, arena.evidence, draw_mixed, self._seed * 1_000 + number
        )
        load.prefix = f"w{number}"
        arena.workload = load
        return load

    async def _work(self, seconds: float) -> None:
        """Wait; raise what ended the load."""
        await asyncio.wait({self._arena.working}, timeout=seconds)
        if self._arena.working.done():
            self._arena.working.result()

    async def _judge(self) -> None:
        arena = self._arena
        where = f"window {self._number - 1}"
        if not await arena.settle(SETTLE_S):
            left = sorted(arena.workload.open_runs)
            self.problem("I9", f"not settled within {SETTLE_S:g} s; open: {left[:10]}", where)
            self.hangs = True
        verdict = await self._verdict()
        for violation in verdict.violations:
            self.problem(violation.invariant, violation.what, f"{where}, {violation.where}")
        self.untold += verdict.untold
        self.unjudged.update(verdict.not_checkable.keys())
        for what in Ledger(arena.folder).paid_twice():
            self.problem("I2", what, where)
        self.judged += 1
        self._forget()

    async def _verdict(self) -> Verdict:
        arena = self._arena
        history = await arena.recorder.history()
        history.limits = CoordinatorSettings(dedupe_runs=DEDUPE_RUNS).limits()
        evidence = Evidence.load(arena.folder / EVIDENCE, arena.folder / LEDGER_EVIDENCE)
        evidence.add(Quiet(time.time_ns() // 1_000_000))
        only = [name for name in INVARIANTS if name != "I12"]  # over all windows, at the end
        verdict = await asyncio.to_thread(partial(check, history, evidence, only=only))
        (arena.folder / "verdict.txt").write_text(verdict.report() + "\n")
        self.records += len(history)
        arena.recorder.forget(history)
        return verdict

    def problem(self, invariant: str, what: str, where: str) -> None:
        """Note what breaks an invariant."""
        if len(self.problems) >= PROBLEMS_MAX:
            self.untold += 1
            return
        self.problems.append({"invariant": invariant, "what": what, "where": where})
        print(f"VIOLATION {invariant} {where}: {what}", flush=True)

    def _forget(self) -> None:
        """All is quiet: nobody writes to these, and what comes next needs none of it."""
        arena = self._arena
        self.runs += len(arena.watch.ended)
        arena.watch.ended.clear()
        for name in (EVIDENCE, LEDGER_EVIDENCE):
            if (arena.folder / name).exists():
                os.truncate(arena.folder / name, 0)  # writers append: they go on at the new end
        with closing(Ledger(arena.folder)._connect()) as db:
            db.execute("DELETE FROM payments")
