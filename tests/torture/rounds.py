"""One round: a fault is injected many times, then all must settle, then the judge has his say."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from holdfast.schemas.records import EventType
from holdfast.testing import INVARIANTS, Evidence, Quiet, Verdict, check
from tests.torture.arena import Arena, ArenaSettings, open_arena
from tests.torture.faults.base import Fault, NotRecovered
from tests.torture.ledger import EVIDENCE as LEDGER_EVIDENCE
from tests.torture.ledger import Ledger
from tests.torture.results import Outcome, Tally, commit, machine, shares
from tests.torture.service import EVIDENCE

__all__ = ["Plan", "run_round"]

SETTLE_S = 90.0
"""All that is open must have ended within this, once nothing is hurt any more."""
WARM_UP_RUNS = 10
WARM_UP_S = 30.0
LOOK_S = 0.02
SLOW_S = 15.0
"""A recovery that takes longer is told by name, and its logs are kept."""
TOLD_MAX = 50
"""So many violations stand in a result; the rest is counted in its notes."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of a fault. `injections`: of all points; `seconds`: at most, of injecting."""

    injections: int
    seconds: float
    keep: bool = False
    """Keep the folder even without a violation."""


class _Budget:
    """What is left of a round."""

    def __init__(self, wanted: int, seconds: float) -> None:
        self._left = wanted
        self._until = time.monotonic() + seconds

    def take(self) -> bool:
        if self._left <= 0 or time.monotonic() > self._until:
            return False
        self._left -= 1
        return True

    def give_back(self) -> None:
        self._left += 1


async def run_round(settings: ArenaSettings, fault: Fault, plan: Plan) -> list[Outcome]:
    """Run one round in an arena of its own; return one outcome for each point."""
    settings = fault.arrange(settings)
    try:
        outcomes = await _round(settings, fault, plan)
    finally:
        fault.clear(settings)
    if not plan.keep and not any(o.violations or "slow:" in o.notes for o in outcomes):
        shutil.rmtree(settings.folder, ignore_errors=True)
    return outcomes


async def _round(settings: ArenaSettings, fault: Fault, plan: Plan) -> list[Outcome]:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    tally = Tally()
    async with open_arena(settings) as arena:
        arena.fleet.explained = fault.exits
        await _warm_up(arena)
        began = time.monotonic()
        budget = _Budget(plan.injections, plan.seconds)
        lanes = [_lane(arena, fault, victim, budget, tally) for victim in fault.victims(arena)]
        await asyncio.gather(*lanes)
        seconds = time.monotonic() - began
        await fault.over(arena)
        verdict = await _judge(arena, fault, tally)
        for end in arena.fleet.unexplained:
            tally.problem("I9", f"{end}, and nobody had hurt it")
        worked = (len(arena.watch.ended), arena.watch.succeeded_tasks)
        tally.unsuccessful = Counter(
            str(end) for end in arena.watch.ended.values() if end is not EventType.RUN_SUCCEEDED
        )
    outcomes = _outcomes(settings, fault, tally, verdict, worked)
    return [replace(o, started=started, seconds=round(seconds, 1)) for o in outcomes]


async def _warm_up(arena: Arena) -> None:
    deadline = time.monotonic() + WARM_UP_S
    while len(arena.watch.ended) < WARM_UP_RUNS:
        if arena.working.done():
            arena.working.result()
        if time.monotonic() > deadline:
            raise AssertionError(f"nothing works before a fault was injected: {arena.folder}")
        await asyncio.sleep(LOOK_S)


async def _lane(arena: Arena, fault: Fault, victim: str, budget: _Budget, tally: Tally) -> None:
    chance = random.Random(f"{arena.settings.seed} {fault.name} {victim}")
    while budget.take():
        injection = await fault.inject(arena, victim, chance)
        if injection is None:
            budget.give_back()
            tally.missed[victim] += 1
            # Without it a victim that is down would never be heard to come up again.
            await asyncio.sleep(LOOK_S)
            continue
        tally.injected[injection.point] += injection.count
        try:
            seconds = await fault.recovered(arena, injection)
        except NotRecovered as error:
            tally.problem("I9", f"{error} (after {fault.name} {injection.point} of {victim})")
            continue
        for name, value in seconds.items():
            tally.recovery_s[name].append(round(value, 4))
            if value > SLOW_S:
                at = datetime.now(UTC).isoformat(timespec="milliseconds")
                tally.slow.append(f"{victim} {name} {value:.1f} s until {at}")


async def _judge(arena: Arena, fault: Fault, tally: Tally) -> Verdict:
    settled = await arena.settle(SETTLE_S)
    if not settled:
        left = sorted(arena.workload.open_runs)
        tally.problem("I9", f"not settled within {SETTLE_S:g} s; open: {left[:10]}")
    history = await arena.recorder.history()
    evidence = Evidence.load(arena.folder / EVIDENCE, arena.folder / LEDGER_EVIDENCE)
    evidence.add(Quiet(time.time_ns() // 1_000_000))
    for name, what in await fault.judge(arena, history):
        tally.problem(name, what)
    for what in Ledger(arena.folder).paid_twice():
        tally.problem("I2", what)
    only = [name for name in INVARIANTS if name not in fault.unjudged]
    verdict = await asyncio.to_thread(partial(check, history, evidence, only=only))
    verdict.not_checkable |= {name: [why] for name, why in fault.unjudged.items()}
    (arena.folder / "verdict.txt").write_text(verdict.report() + "\n")
    return verdict


def _outcomes(
    settings: ArenaSettings,
    fault: Fault,
    tally: Tally,
    verdict: Verdict,
    worked: tuple[int, int],
) -> list[Outcome]:
    """Runs and tasks are shared out over the points; violations stand in the first outcome: which
    point they belong to only the evidence tells."""
    points = tally.points() or [""]
    weights = [tally.injected[point] for point in points]
    runs, tasks = (shares(total, weights) for total in worked)
    told = [v._asdict() for v in verdict.violations[:TOLD_MAX]]
    told += [
        {"invariant": name, "what": what, "where": settings.namespace}
        for name, what in tally.problems
    ]
    notes = _notes(settings, tally, verdict)
    return [
        Outcome(
            "torture",
            settings.bus.partition(":")[0],
            fault.name,
            point,
            tally.injected[point],
            runs[n],
            tasks[n],
            told if n == 0 else [],
            tally.recovery_s[point],
            fault.bound_s,
            settings.seed,
            commit(),
            "",
            0.0,
            machine(),
            notes,
        )
        for n, point in enumerate(points)
    ]


def _notes(settings: ArenaSettings, tally: Tally, verdict: Verdict) -> str:
    notes = []
    if settings.planted:
        notes.append(f"planted: {settings.planted}")
    if tally.unsuccessful:
        ends = ", ".join(f"{count} {end}" for end, count in sorted(tally.unsuccessful.items()))
        notes.append(f"ends: {ends}")
    if tally.slow:
        notes.append(f"slow: {', '.join(tally.slow)}")
    if missed := sum(tally.missed.values()):
        notes.append(f"{missed} armed points were not passed in time")
    more = len(verdict.violations) - TOLD_MAX + verdict.untold
    if more > 0:
        notes.append(f"{more} more violations")
    for name, whys in verdict.not_checkable.items():
        notes += [f"{name} could not judge: {why}" for why in whys]
    return "; ".join(notes)
