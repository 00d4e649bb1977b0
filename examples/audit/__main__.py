"""`python -m examples.audit FOLDER`: the demo's command line; see `demo`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from holdfast.client import RunFailed
from holdfast.schemas.errors import HoldfastError

BUS_FILE = Path(".holdfast") / "bus.db"
EXIT_BAD_INPUT = 2


class Refused(Exception):
    """What was asked for cannot be done here; the message says why, and what can be done."""


def main() -> int:
    """Parse, run, and answer with an exit code: 0 done, 1 the run failed, 2 bad input."""
    parser = argparse.ArgumentParser(prog="python -m examples.audit", description="Audit a folder")
    parser.add_argument("folder", nargs="?", default=".", help="a folder or Git repository")
    parser.add_argument("--out", default="build/audit", help="where the report goes")
    parser.add_argument("--bus", default="sqlite", help="sqlite, kafka, or a bus URL")
    parser.add_argument("--kill", action="store_true", help="kill an agent half-way")
    parser.add_argument("--fresh", action="store_true", help="remove the bus file first")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    began = time.monotonic()
    try:
        code = run(options)
    except Refused as error:
        print(f"demo: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except RunFailed as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except HoldfastError as error:
        print(f"demo: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("\nStopped. Nothing is lost: `make demo` begins a new run.", file=sys.stderr)
        return 130
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


def remove_bus() -> None:
    """Remove the embedded bus with all that is beside it; refused while a process uses it."""
    import shutil

    from holdfast.bus.embedded import in_use

    if in_use(BUS_FILE):
        raise Refused(
            f"--fresh would remove {BUS_FILE}, which another process uses (a demo that still runs, "
            "an agent, a coordinator, a client): stop it first, or leave --fresh out"
        )
    for path in BUS_FILE.parent.glob(f"{BUS_FILE.name}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextlib.contextmanager
def bus_url(wanted: str) -> Iterator[str]:
    """Yield the URL of the bus; starts and stops a Kafka where one is asked for by name."""
    if wanted == "kafka":
        with local_kafka() as url:
            yield url
    elif wanted == "sqlite":
        url = os.environ.get("HOLDFAST_BUS") or f"sqlite:///{BUS_FILE}"
        if url.startswith("sqlite"):
            print(f"The bus is one file: {url.removeprefix('sqlite:///')}", flush=True)
        yield url
    else:
        yield wanted


@contextlib.contextmanager
def local_kafka() -> Iterator[str]:
    """Yield the URL of a Kafka of our own, on this machine, which ends with the demo."""
    # Imported late: only who asks for Kafka needs it. `deploy` is a folder of the project's root.
    from deploy.kafka.broker import LocalBroker, NotInstalled

    with tempfile.TemporaryDirectory(prefix="holdfast-kafka-") as folder:
        broker = LocalBroker(Path(folder), fast=True)
        # As on SQLite: twelve partitions for each topic of five groups are for clusters.
        os.environ.setdefault("HOLDFAST_PARTITIONS", "4")
        try:
            print("Starting a Kafka broker on this machine …", flush=True)
            broker.start()
        except NotInstalled as error:
            raise Refused(f"BUS=kafka needs a broker: {error}") from None
        try:
            yield f"kafka://{broker.bootstrap}"
        finally:
            broker.stop()


if __name__ == "__main__":
    sys.exit(main())
