"""`python -m tests.planted`: which planted bugs does a suite find, and how soon?

    python -m tests.planted --list
    python -m tests.planted --suite simulation --minutes 10 --results docs/reliability/results
    python -m tests.planted --suite torture --bus kafka --bugs reads-uncommitted,batch-not-awaited

Exits with 0 when every bug was found, 1 when one was not, 2 when a suite has failed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from tests.planted import BUGS
from tests.planted.runner import SUITES, Hunt, Result, hunt
from tests.planted.table import Bug


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.planted")
    parser.add_argument("--suite", choices=sorted(SUITES), default="simulation")
    parser.add_argument(
        "--bus", choices=["sim", "sqlite", "kafka"], help="torture: sqlite or kafka"
    )
    parser.add_argument(
        "--bugs", default="", help="names, by commas; default: all the suite can see"
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="for each bug, at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, help="folder for the JSON of each bug")
    parser.add_argument("--list", action="store_true", help="print the table and end")
    return parser.parse_args()


def _hunts(given: argparse.Namespace) -> list[Hunt]:
    suite = SUITES[given.suite]
    hunts = []
    for bug in _chosen(given.bugs):
        buses = [bus for bus in suite.buses if bus in bug.buses and given.bus in (None, bus)]
        if suite.name in bug.suites and buses:
            hunts.append(Hunt(bug, suite, buses[0], given.minutes, given.seed))
        elif given.bugs:
            print(f"{bug.name}: {suite.name} on {given.bus or 'its buses'} cannot see it; left out")
    return hunts


def _chosen(names: str) -> list[Bug]:
    if not names:
        return list(BUGS.values())
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = sorted(set(wanted) - BUGS.keys())
    if unknown:
        sys.exit(f"no planted bugs {', '.join(unknown)}; see --list")
    return [BUGS[name] for name in wanted]


async def _hunt_all(hunts: list[Hunt], results: Path | None) -> list[Result]:
    done = []
    for wanted in hunts:
        result = await hunt(wanted)
        done.append(result)
        print(_told(result), flush=True)
        if results is not None:
            result.write(results)
    return done


def _told(result: Result) -> str:
    wanted = result.hunt
    where = f"{wanted.bug.name:42} {wanted.suite.name}/{wanted.bus}"
    if result.violation is not None:
        invariant, what = result.violation
        return f"{where} found by {invariant} after {result.seconds:.1f} s: {what}"
    if result.failure:
        return f"{where} FAILED after {result.seconds:.1f} s: {result.failure}"
    return f"{where} NOT FOUND in {result.seconds:.0f} s"


def _list() -> None:
    for bug in BUGS.values():
        suites, buses = "+".join(bug.suites), "+".join(bug.buses)
        print(f"{bug.name:42} {bug.area:12} {','.join(bug.breaks):14} {suites:19} {buses}")


def main() -> int:
    """Run it; return the exit code."""
    given = _arguments()
    if given.list:
        _list()
        return 0
    done = asyncio.run(_hunt_all(_hunts(given), given.results))
    found = sum(result.found for result in done)
    print(f"{found} of {len(done)} planted bugs were found")
    if any(result.failure for result in done):
        return 2
    return 0 if found == len(done) else 1


if __name__ == "__main__":
    sys.exit(main())
