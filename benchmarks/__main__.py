"""`make bench`: the figures of the issue's table, and the limit beside them, in one run."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks import bare_chain, startup
from benchmarks.runs import Figures, measure, measure_map, three_steps, three_tasks
from benchmarks.stage import ROOT, stage, sync_ms
from deploy.kafka.broker import LocalBroker

SQLITE = "sqlite:///{folder}/bus.db"
MAP_ITEMS = 100_000
MAP_WINDOW = 1_000


@contextmanager
def buses(wanted: str) -> Iterator[dict[str, str]]:
    """Yield name to URL; starts a Kafka of its own unless HOLDFAST_TEST_BOOTSTRAP names one."""
    found = {}
    if wanted in ("sqlite", "both"):
        found["SQLite"] = SQLITE
    if wanted == "sqlite":
        yield found
        return
    if bootstrap := os.environ.get("HOLDFAST_TEST_BOOTSTRAP"):
        yield {**found, "Kafka": f"kafka://{bootstrap}"}
        return
    with tempfile.TemporaryDirectory(prefix="holdfast-kafka-") as folder:
        broker = LocalBroker(Path(folder), stock=True, fast=True)
        broker.start()
        try:
            yield {**found, "Kafka": f"kafka://{broker.bootstrap}"}
        finally:
            broker.stop()


def row(table: Table, bus: str, what: str, figures: Figures) -> None:
    """Add one measurement."""
    table.add_row(
        bus,
        what,
        str(figures.in_flight),
        f"{figures.rate:,.0f}",
        f"{figures.p50_ms:.1f} / {figures.p99_ms:.1f}",
        f"{figures.cpu_ms_per_run:.2f}",
        "",
    )


def measure_bus(table: Table, name: str, url: str, options: argparse.Namespace) -> None:
    """Measure one bus: the limit first, then what stands on it."""
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-", dir=ROOT / "build") as folder:
        limit_url = url.format(folder=folder)
        limits = uvloop.run(bare_chain.measure(limit_url, (1, 64, 256), options.seconds))
    for limit in limits:
        table.add_row(
            name,
            "bare chain (limit)",
            str(limit.in_flight),
            f"{limit.chains_per_s:,.0f}",
            f"{limit.p50_ms:.1f} / {limit.p99_ms:.1f}",
            f"{limit.cpu_ms_per_chain:.2f}",
            "",
        )
    for in_flight in (1, 16, 64, 256):
        with stage(url) as running:
            figures = uvloop.run(measure(running, three_tasks(), in_flight, options.seconds))
        row(table, name, "three tasks", figures)
    with stage(url) as running:
        figures = uvloop.run(measure(running, three_steps(), 256, options.seconds))
    row(table, name, "three steps", figures)
    items = 10_000 if options.quick else MAP_ITEMS
    for crash in (False, True):
        with stage(url) as running:
            found = uvloop.run(measure_map(running, items, MAP_WINDOW, crash=crash))
        what = f"map of {items:,}{', coordinator killed half-way' if crash else ''}"
        rate, peak = f"{found.rate:,.0f} items", f"{found.peak_mib:.0f}"
        table.add_row(name, what, str(MAP_WINDOW), rate, "", "", peak)


def main() -> None:
    """Parse the options, measure, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--bus", choices=["sqlite", "kafka", "both"], default="both")
    parser.add_argument("--quick", action="store_true", help="2 s each instead of 10 s")
    parser.add_argument("--seconds", type=float, default=None)
    parser.add_argument(
        "--startup",
        metavar="RUNS,…",
        help="instead: how soon a coordinator starts after so many finished runs, on SQLite",
    )
    parser.add_argument("--results", type=Path, help="of --startup: folder for the JSON file")
    options = parser.parse_args()
    options.seconds = options.seconds or (2.0 if options.quick else 10.0)
    (ROOT / "build").mkdir(exist_ok=True)
    console = Console()
    console.print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"sync {sync_ms(ROOT / 'build'):.2f} ms"
    )
    if options.startup:
        milestones = [int(runs) for runs in options.startup.split(",")]
        console.print(startup.run(milestones, options.results))
        return
    table = Table("bus", "workload", "in flight", "runs/s", "p50 / p99 ms", "CPU ms/run", "MiB")
    with buses(options.bus) as found:
        for name, url in found.items():
            measure_bus(table, name, url, options)
    console.print(table)


if __name__ == "__main__":
    main()
