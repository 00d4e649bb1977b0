"""Run seeds: `python -m tests.simulation --seeds 2000`, or one: `--seed 17 [--keep 1,3 --runs 2]`.

Prints one line for each seed that violates something, the line that runs it again, and the smallest
history found that still does. Exit code 1 if there was one.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.simulation.scenario import Outcome, Scenario, run_seed

FAILURES_MAX = 5
"""No more failing seeds are looked for."""
SHRINK_MAX_S = 60.0


def main() -> int:
    """Run what the command line asks for; return the exit code."""
    options = parse()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of a set of strings is part of a seed's history.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])
    logging.disable(logging.INFO if options.verbose else logging.CRITICAL)
    if options.verbose:
        logging.basicConfig(level=logging.WARNING)
    if options.seed is not None:
        return one(options)
    return many(options)


def parse() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first one")
    parser.add_argument("--minutes", type=float, help="stop after so long")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--keep", help="only these of its faults: 0,2")
    parser.add_argument("--runs", type=int, help="at most so many of its runs")
    parser.add_argument("--planted", help="with this planted bug (see tests/planted)")
    parser.add_argument("--results", type=Path, help="a folder for the result as JSON")
    parser.add_argument("--verbose", action="store_true", help="show what the code logs")
    return parser.parse_args()


def one(options: argparse.Namespace) -> int:
    """Run one seed and tell all about it."""
    keep = None
    if options.keep is not None:
        keep = [int(number) for number in options.keep.split(",") if number]
    with planted(options.planted):
        scenario = Scenario(options.seed, keep, options.runs)
        world = scenario.world
        world.on_death.append(
            lambda p: print(f"{world.clock.now:9.3f}  {p.name}#{p.incarnation}: {p.reason}")
        )
        for fault in scenario.faults:
            print(f"{fault.at_s:9.3f}  fault: {fault.name}")
        outcome = scenario.run()
    tell(outcome)
    return 0 if outcome.ok else 1


def many(options: argparse.Namespace) -> int:
    """Run many seeds on all cores."""
    began = time.monotonic()
    failed: list[Outcome] = []
    looked: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    for outcome in outcomes(options):
        totals.update(
            seeds=1,
            runs=outcome.runs,
            tasks=outcome.tasks,
            faults=len(outcome.faults),
            deaths=outcome.deaths,
            takeovers=outcome.takeovers,
            virtual_s=int(outcome.virtual_s),
        )
        looked.update(name for name, seen in outcome.looked_at.items() if any(seen.values()))
        if not outcome.ok:
            failed.append(outcome)
            tell(outcome)
            print("again:", command(options, outcome), flush=True)
        enough = options.minutes is not None and time.monotonic() - began > options.minutes * 60
        if len(failed) == FAILURES_MAX or enough or (failed and options.planted):
            break
    seconds = time.monotonic() - began
    counted = ", ".join(f"{count:,} {name}" for name, count in totals.items())
    print(f"{counted}; {len(failed)} seeds failed; {seconds:.0f} s")
    print("seeds in which an invariant had something to look at:", dict(sorted(looked.items())))
    if options.results is not None:
        write(options, totals, failed, seconds)
    if failed and not options.planted:
        print("smallest:", shrink(options, failed[0]))
    return 1 if failed else 0


def outcomes(options: argparse.Namespace) -> Iterator[Outcome]:
    """Yield the outcomes as they come."""
    seeds = range(options.start, options.start + options.seeds)
    with ExitStack() as stack:
        if options.processes == 1:
            stack.enter_context(planted(options.planted))
            yield from map(run_seed, seeds)
            return
        start = partial(begin, options.planted)
        pool = stack.enter_context(multiprocessing.Pool(options.processes, start))
        yield from pool.imap_unordered(run_seed, seeds, chunksize=4)


def begin(bug: str | None) -> None:
    """Make a worker process ready."""
    # Worlds are full of cycles and short-lived: looking for garbage less often saves an eighth.
    gc.freeze()
    gc.set_threshold(100_000, 50, 1_000)
    planted(bug).__enter__()


def planted(bug: str | None) -> ExitStack:
    """Return a context with the planted bug, if one is asked for."""
    stack = ExitStack()
    if bug is not None:
        from tests.planted import plant

        stack.enter_context(plant(bug))
    return stack


def shrink(options: argparse.Namespace, failed: Outcome) -> str:
    """Return the line of the smallest history that still violates something."""
    until = time.monotonic() + SHRINK_MAX_S
    keep, runs = list(range(len(failed.faults))), failed.runs
    for number in tuple(keep):
        fewer = [n for n in keep if n != number]
        if time.monotonic() < until and not run_seed(failed.seed, fewer, runs).ok:
            keep = fewer
    while runs > 1 and time.monotonic() < until and not run_seed(failed.seed, keep, runs - 1).ok:
        runs -= 1
    kept = ",".join(map(str, keep))
    return f"{command(options, failed)} --keep '{kept}' --runs {runs}"


def command(options: argparse.Namespace, outcome: Outcome) -> str:
    """Return the line that runs a seed again."""
    bug = f" --planted {options.planted}" if options.planted else ""
    return f"python -m tests.simulation --seed {outcome.seed}{bug}"


def tell(outcome: Outcome) -> None:
    """Print what became of a seed."""
    for violation in outcome.violations[:10]:
        print(f"VIOLATION {violation}")
    print(
        f"seed {outcome.seed}: {len(outcome.violations)} violations; {outcome.runs} runs, "
        f"{outcome.tasks} tasks, {outcome.deaths} deaths, {outcome.takeovers} takeovers, "
        f"{outcome.virtual_s:.1f} s, {outcome.steps} callbacks; {'; '.join(outcome.faults)}"
    )


def write(
    options: argparse.Namespace, totals: Counter[str], failed: list[Outcome], seconds: float
) -> None:
    """Write the result as it is kept in `docs/reliability/results`."""
    violations = [
        {"invariant": text.split()[0], "what": text, "where": f"seed {outcome.seed}"}
        for outcome in failed
        for text in outcome.violations
    ]
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    result = {
        "suite": "simulation",
        "bus": "sim",
        "fault": "all",
        "point": options.planted or "",
        "injected": totals["faults"],
        "seeds": totals["seeds"],
        "runs": totals["runs"],
        "tasks": totals["tasks"],
        "deaths": totals["deaths"],
        "takeovers": totals["takeovers"],
        "virtual_s": totals["virtual_s"],
        "violations": violations,
        "recovery_s": [],
        "bound_s": None,
        "seed": options.start,
        "commit": commit.stdout.strip(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - seconds)),
        "seconds": round(seconds, 1),
        "machine": {"cores": os.cpu_count()},
        "notes": "",
    }
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"simulation-{options.start}-{totals['seeds']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
