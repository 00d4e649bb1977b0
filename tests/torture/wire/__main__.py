"""Run faults on the wire, and of brokers, against the bus alone.

    python -m tests.torture.wire --faults cuts,torn --count 100 --seed 1 --results FOLDER

Each family has a broker of its own, started for it. Prints one line for each; exits 1 if anything
was violated. What a bound says is for the reader of the results: a slow machine is no violation.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.torture.results import line, write
from tests.torture.wire.suites import SUITES, Order

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture.wire")
    parser.add_argument("--faults", default="cuts", help=f"of {', '.join(SUITES)}; or all")
    parser.add_argument("--count", type=int, default=100, help="injections of each family")
    parser.add_argument("--seed", type=int, default=random.randrange(2**31))
    parser.add_argument("--results", type=Path, help="folder for the JSON files")
    parser.add_argument("--verbose", action="store_true", help="one line for each injection")
    options = parser.parse_args(argv)
    logging.disable(logging.CRITICAL)  # what clients say about faults would drown the rest
    print(f"seed {options.seed}", flush=True)
    names = list(SUITES) if options.faults == "all" else options.faults.split(",")
    sound = [_run(name, options) for name in names]
    return 0 if all(sound) else 1


def _run(name: str, options: argparse.Namespace) -> bool:
    folder = Path(tempfile.mkdtemp(prefix=f"holdfast-wire-{name}-"))
    tell = (lambda text: print(text, flush=True)) if options.verbose else (lambda _text: None)
    try:
        outcomes = asyncio.run(SUITES[name](Order(options.count, options.seed, folder, tell)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(line(outcomes) if outcomes else f"{name}: nothing struck", flush=True)
    for violation in (found for outcome in outcomes for found in outcome.violations):
        told = f"{violation['invariant']} {violation['where']}: {violation['what']}"
        print(f"VIOLATION {told}", flush=True)
    if options.results is not None and outcomes:
        write(options.results, outcomes)
    return bool(outcomes) and not any(outcome.violations for outcome in outcomes)


if __name__ == "__main__":
    sys.exit(main())
