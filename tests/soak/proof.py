"""Does the soak see a leak? One is planted in one process of a real deployment, for two minutes.

    python -m tests.soak.proof --bus sqlite

Exits 0 if I12 names that process and its memory, and nothing else is violated.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.soak.ground import Leak, SoakSettings
from tests.soak.soak import soak
from tests.soak.trouble import SPARED
from tests.torture.stage import open_stage

__all__ = ["main"]

MINUTES = 2.0
LEAKY = SPARED[0]
EACH_BYTES = 500_000
"""A hundred megabytes a minute at some tasks a second: coarse, as a short soak needs it."""
RATE_PER_S = 6.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.proof", description=__doc__)
    parser.add_argument("--bus", choices=("sqlite", "kafka"), default="sqlite")
    parser.add_argument("--seed", type=int, default=random.randrange(2**31))
    options = parser.parse_args(argv)
    print(f"seed {options.seed}", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="holdfast-soak-") as folder,
        open_stage(options.bus, Path(folder)) as stage,
    ):
        bus, place, namespace = stage.place()
        settings = SoakSettings(
            bus,
            place,
            namespace,
            options.seed,
            MINUTES * 60,
            window_s=30.0,
            peak_s=8.0,
            sample_s=1.0,
            fault_every_s=10.0,
            rate_per_s=RATE_PER_S,
            leak=Leak(LEAKY, EACH_BYTES),
        )
        whole = asyncio.run(soak(settings, stage))[0]
    found = {(v["invariant"], v["where"]) for v in whole.violations}
    seen = found == {("I12", LEAKY)}
    print(f"the leak of {LEAKY} was {'found, and nothing else' if seen else 'not what was found'}")
    return 0 if seen else 1


if __name__ == "__main__":
    sys.exit(main())
