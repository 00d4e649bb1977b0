"""What armed timers cost, and how late they are: 10,000 handlers that sleep, by default.

    python -m benchmarks.timers sqlite:///{folder}/bus.db
    python -m benchmarks.timers kafka://127.0.0.1:9092 --timers 10000

Everything is real: coordinator and agent as users start them. Measured are the growth of both
(resident MiB) by all who sleep for a day, their processor time while nothing happens, beside
what they take with no timer at all, and, with all of them armed, how late others wake that sleep
for seconds: from the moment that their event names (`until_ms`) to that of the answer's event.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import uvloop

from benchmarks.restoring import submit_all, until
from benchmarks.stage import ROOT, Stage, process_cpu_s, services
from holdfast.bus.connect import open_bus
from holdfast.bus.port import TopicPartition
from holdfast.bus.topics import Topics
from holdfast.client import Client
from holdfast.schemas.codec import decode
from holdfast.schemas.records import Event, EventType

SERVICES = ("coordinator", "sleeper")
DAY_S = 86_400.0
SHORT = 500
SHORT_S = (15.0, 25.0)
"""Those who wake are asleep by then: they are replayed, as those who sleep for days are."""
QUIET_S = 20.0
SETTLE_S = 15.0
ARMING_S = 900.0
LATE_MAX_MS, GROWTH_MAX_MIB = 200.0, 50.0


@dataclass
class Timers:
    """What the events tell. `late_ms`: of each answer to a short sleep."""

    armed: int = 0
    late_ms: list[float] = field(default_factory=list)

    def take(self, event: Event) -> None:
        """Look at one event."""
        if event.ask is None:
            return
        if event.type is EventType.TASK_ASKED:
            self.armed += 1
        elif event.type is EventType.TASK_ANSWERED and event.ask.until_ms is not None:
            self.late_ms.append(event.at_ms - event.ask.until_ms)


@asynccontextmanager
async def watching(stage: Stage) -> AsyncIterator[Timers]:
    """Follow the events from the start."""
    bus = open_bus(stage.bus)
    await bus.start()
    events, timers = Topics(stage.namespace).events, Timers()
    places = {TopicPartition(events, number): 0 for number in range(stage.partitions)}
    reader = await bus.open_reader(places)

    async def follow() -> None:
        while True:
            for record in await reader.poll(0.2, 2_000):
                timers.take(decode(Event, record.value or b""))

    following = asyncio.create_task(follow())
    try:
        yield timers
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await reader.close()
        await bus.close()


async def idle_cpu(stage: Stage) -> dict[str, float]:
    """Return the share of a core that each service takes while nothing happens, in per cent."""
    before = {name: process_cpu_s(stage.processes[name].pid) for name in SERVICES}
    began = time.monotonic()
    await asyncio.sleep(QUIET_S)
    took = time.monotonic() - began
    return {
        name: (process_cpu_s(stage.processes[name].pid) - before[name]) / took * 100
        for name in SERVICES
    }


async def measure(stage: Stage, count: int) -> bool:
    """Measure and print; tell whether all bounds are held."""
    stage.start("coordinator", "coordinator", "--instance", "c1")
    stage.start("sleeper", "agent", "benchmarks.agents:sleeper", "--instance", "s1")
    async with (
        watching(stage) as timers,
        Client(url=stage.bus, namespace=stage.namespace) as client,
    ):
        await submit_all(client, "sleeper.nap", [{"seconds": 0.1}] * 200, "warm")
        await until(lambda: len(timers.late_ms) == 200, "the warm-up", ARMING_S)
        await asyncio.sleep(SETTLE_S)
        sizes = {name: stage.resident_mib(name) for name in SERVICES}
        without = await idle_cpu(stage)
        await submit_all(client, "sleeper.nap", [{"seconds": DAY_S}] * count, "day")
        await until(lambda: timers.armed == count + 200, "all are armed", ARMING_S)
        await asyncio.sleep(SETTLE_S)
        growth = {name: stage.resident_mib(name) - sizes[name] for name in SERVICES}
        with_all = await idle_cpu(stage)
        timers.late_ms.clear()
        naps = [{"seconds": random.uniform(*SHORT_S)} for _ in range(SHORT)]
        await submit_all(client, "sleeper.nap", naps, "short")
        await until(lambda: len(timers.late_ms) == SHORT, "all short sleeps end", ARMING_S)
    late = sorted(timers.late_ms)
    for name in SERVICES:
        sys.stdout.write(
            f"{name}: {count:,} armed timers cost {growth[name]:.1f} MiB; idle it takes "
            f"{with_all[name]:.2f} % of a core, {without[name]:.2f} % without them\n"
        )
    sys.stdout.write(
        f"{SHORT} short sleeps among them woke {late[len(late) // 2]:.0f} ms late at the median, "
        f"{late[len(late) * 99 // 100]:.0f} ms at the 99th percentile, {late[-1]:.0f} ms at most\n"
    )
    return late[-1] <= LATE_MAX_MS and growth["coordinator"] <= GROWTH_MAX_MIB


def main(argv: Sequence[str]) -> int:
    """Measure and print; the exit code is 1 where a bound is not held."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.timers", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--timers", type=int, default=10_000)
    options = parser.parse_args(argv)
    (ROOT / "build").mkdir(exist_ok=True)
    with services(options.url) as stage:
        return 0 if uvloop.run(measure(stage, options.timers)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
