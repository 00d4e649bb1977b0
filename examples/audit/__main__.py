"""`python -m examples.audit FOLDER`: the demo's command line; see `demo`."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

from examples.processes import BUS_FILE, EXIT_BAD_INPUT, Refused, answered, bus_url, remove_bus

__all__ = ["BUS_FILE", "EXIT_BAD_INPUT", "main", "parser"]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m examples.audit", description="Audit a folder")
    made.add_argument("folder", nargs="?", default=".", help="a folder or Git repository")
    made.add_argument("--out", default="build/audit", help="where the report goes")
    made.add_argument("--bus", default="sqlite", help="sqlite, kafka, or a bus URL")
    made.add_argument("--kill", action="store_true", help="kill an agent half-way")
    made.add_argument("--fresh", action="store_true", help="remove the bus file first")
    return made


def main() -> int:
    """Parse, run, and answer with an exit code: 0 done, 1 the run failed, 2 bad input."""
    options = parser().parse_args()
    began = time.monotonic()
    code = answered("demo", "make demo", lambda: run(options))
    if code == 0:
        print(f"\nDone in {time.monotonic() - began:.1f} s.")
    return code


def run(options: argparse.Namespace) -> int:
    """Check what was asked, then audit."""
    folder = Path(options.folder).expanduser()
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise Refused(f"FOLDER={options.folder} {what}; give the path of a folder to audit")
    # Imported late: a wrong folder is answered at once.
    from .demo import Choices, audit

    if options.fresh:
        remove_bus()
    with bus_url(options.bus) as url:
        print(f"Auditing {folder} over {url}", flush=True)
        asyncio.run(audit(Choices(folder, Path(options.out), url, options.kill)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
