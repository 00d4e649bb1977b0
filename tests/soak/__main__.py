"""A deployment under mixed load and faults, for as long as one likes; nothing may grow.

    python -m tests.soak --bus sqlite --minutes 90 --seed 7 --results FOLDER

First measures the peak, then works at half of it, in windows: load and faults, then quiet, then all
invariants over what the window saw, then it is forgotten. At the end I12 over all of it. Exits 1 if
anything was violated.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.soak.ground import Leak, SoakSettings
from tests.soak.soak import SoakOutcome, soak
from tests.torture.results import line, write
from tests.torture.stage import open_stage

__all__ = ["main"]

NICENESS = -5
"""The recorder must read what is compacted soon; the services go on as they are."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for; return the exit code."""
    options = _parse(argv)
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    logging.getLogger("aiokafka").setLevel(
        logging.CRITICAL
    )  # what it says of a broker that is away
    folder = options.folder or Path(tempfile.mkdtemp(prefix="holdfast-soak-"))
    print(f"seed {options.seed}, folder {folder}", flush=True)
    with open_stage(options.bus, folder) as stage:
        bus, place, namespace = stage.place()
        settings = SoakSettings(
            bus,
            place,
            namespace,
            options.seed,
            options.minutes * 60,
            window_s=options.window * 60,
            peak_s=options.peak,
            sample_s=options.sample,
            fault_every_s=options.fault_every,
            rate_per_s=options.rate,
            leak=_leak(options.leak),
        )
        outcomes = asyncio.run(soak(settings, stage))
    for outcome in outcomes:
        print(line([outcome]), flush=True)
    whole = outcomes[0]
    assert isinstance(whole, SoakOutcome)
    for growth in whole.growths:
        print(_told(growth), flush=True)
    print(f"disk {whole.disk}; starts {whole.startup_s}", flush=True)
    if options.results is not None:
        write(options.results, outcomes)
    if not options.keep and not whole.violations:
        shutil.rmtree(place, ignore_errors=True)
    return 1 if whole.violations else 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bus", choices=("sqlite", "kafka"), default="sqlite")
    parser.add_argument("--minutes", type=float, default=90.0, help="in all")
    parser.add_argument("--seed", type=int, default=random.randrange(2**31))
    parser.add_argument("--results", type=Path, help="folder for the JSON file")
    parser.add_argument("--folder", type=Path, help="where it happens; default: a new one")
    parser.add_argument("--window", type=float, default=4.0, help="minutes of load in a window")
    parser.add_argument("--peak", type=float, default=90.0, help="seconds that measure the peak")
    parser.add_argument("--rate", type=float, help="runs a second, instead of half of the peak")
    parser.add_argument("--sample", type=float, default=10.0, help="seconds between samples")
    parser.add_argument("--fault-every", type=float, default=15.0, help="seconds, on average")
    parser.add_argument("--leak", help="plant one: INSTANCE=BYTES of each task (beta-2=100000)")
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    return parser.parse_args(argv)


def _leak(text: str | None) -> Leak | None:
    if text is None:
        return None
    instance, _, each = text.partition("=")
    return Leak(instance, int(each))


def _told(growth: dict[str, object]) -> str:
    return (
        f"{growth['instance']!s:24} {growth['measure']!s:14} level {growth['level']:>14,} "
        f"slope {growth['per_hour']:>12,}/h allowed {growth['allowed_per_hour']:>12,}/h"
        f"{'' if growth['enough'] else '  (too few samples)'}{'  GROWS' if growth['grows'] else ''}"
    )


if __name__ == "__main__":
    sys.exit(main())
