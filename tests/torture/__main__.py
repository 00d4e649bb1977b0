"""Real processes under faults, judged by the invariants.

    python -m tests.torture --bus sqlite --minutes 5 --faults kill-agent,freeze --seed 7
    python -m tests.torture --slice                 # what CI runs: both buses, at most 8 minutes

`--minutes` is shared out over the faults; `--count` bounds the injections of each fault (of each
of its points). Prints one line for each round; exits 1 if anything was violated.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.torture.arena import ArenaSettings
from tests.torture.catalog import FAULTS, SLICE, fault_named
from tests.torture.faults.base import Fault
from tests.torture.results import Outcome, line, write
from tests.torture.rounds import Plan, run_round
from tests.torture.stage import Stage, open_stage

__all__ = ["main"]

CHAPTER_S = 120.0
"""A round is cut into arenas of at most so long: a history is judged as a whole, in memory."""
PLANTED_CHAPTER_S = 30.0
"""The judge tells at the end of each: a planted bug shall be told of soon."""
CHAPTER_MIN_S = 5.0
"""A rest that is shorter is not worth an arena."""
UNBOUNDED = 10**9
NICENESS = -5
"""The recorder must read what is compacted soon. Where it is not allowed, some checks say that
they could not judge. The services are put back to normal by the zygote."""
SLICE_BUSES = ("sqlite", "kafka")


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for; return the exit code."""
    options = _parse(argv)
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="holdfast-torture-"))
    print(f"seed {options.seed}, folder {folder}", flush=True)
    sound = True
    for bus in SLICE_BUSES if options.slice else (options.bus,):
        with open_stage(bus, folder) as stage:
            for fault, count, seconds in _wanted(options, bus):
                sound &= asyncio.run(_run(stage, fault, count, seconds, options))
    return 0 if sound else 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.torture",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--slice", action="store_true", help="what CI runs")
    parser.add_argument("--bus", choices=SLICE_BUSES, default="sqlite")
    parser.add_argument("--minutes", type=float, default=5.0, help="of injecting, in all")
    parser.add_argument("--faults", default="kill-agent", help=f"of {', '.join(FAULTS)}; or all")
    parser.add_argument("--count", type=int, default=UNBOUNDED, help="of each fault and point")
    parser.add_argument("--seed", type=int, default=random.randrange(2**31))
    parser.add_argument("--results", type=Path, help="folder for the JSON files")
    parser.add_argument("--folder", type=Path, help="scratch folder; kept where a round fails")
    parser.add_argument("--planted", default="", help="name of a planted bug")
    parser.add_argument("--keep", action="store_true", help="keep all scratch folders")
    return parser.parse_args(argv)


def _wanted(options: argparse.Namespace, bus: str) -> list[tuple[Fault, int, float]]:
    if options.slice:
        drawn = [(fault_named(name), count, seconds) for name, count, seconds in SLICE]
        return [wanted for wanted in drawn if bus in wanted[0].buses]
    names = list(FAULTS) if options.faults == "all" else options.faults.split(",")
    faults = [fault_named(name) for name in names]
    able = [fault for fault in faults if bus in fault.buses]
    return [(fault, options.count, options.minutes * 60 / len(able)) for fault in able]


async def _run(
    stage: Stage, fault: Fault, count: int, seconds: float, options: argparse.Namespace
) -> bool:
    """Run one fault for as many arenas as it takes; tell whether nothing was violated."""
    deadline = time.monotonic() + seconds
    left = count * len(fault.points)
    sound, chapter = True, 0
    while left > 0 and (rest_s := deadline - time.monotonic()) > CHAPTER_MIN_S:
        bus, folder, namespace = stage.place()
        settings = ArenaSettings(
            bus, folder, namespace, options.seed + chapter, planted=options.planted
        )
        longest_s = PLANTED_CHAPTER_S if options.planted else CHAPTER_S
        plan = Plan(left, min(rest_s, longest_s), options.keep)
        outcomes = await run_round(settings, fault, plan)
        _tell(outcomes, options.results)
        sound &= not any(outcome.violations for outcome in outcomes)
        left -= sum(outcome.injected for outcome in outcomes)
        chapter += 1
        if options.planted and not sound:
            break
    return sound


def _tell(outcomes: list[Outcome], results: Path | None) -> None:
    print(line(outcomes), flush=True)
    for outcome in outcomes:
        for violation in outcome.violations[:10]:
            told = f"{violation['invariant']} {violation['where']}: {violation['what']}"
            print(f"VIOLATION {told}", flush=True)
    if results is not None:
        write(results, outcomes)


if __name__ == "__main__":
    sys.exit(main())
