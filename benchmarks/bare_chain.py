"""The limit to be compared with: a bare 3-hop exactly-once chain, through the port of the bus.

    python -m benchmarks.bare_chain kafka://127.0.0.1:9092 --in-flight 1,64,2000

Each hop only reads and commits: poll, then one commit of what came to the next topic together with
the consumed offset. A source keeps so many chains in flight; a sink that reads the last topic tells
when each is done. 200-byte payloads; everything in one process, on uvloop.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import uvloop

from holdfast.bus.connect import open_bus
from holdfast.bus.port import (
    AssignmentListener,
    Bus,
    Record,
    Slot,
    Subscription,
    TopicPartition,
    TopicSpec,
)

HOPS = 3
PAYLOAD_BYTES = 200
WARM_UP_S = 2.0
MAX_BATCH = 2_000
KEY = b"chain"


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run measured; times in milliseconds."""

    in_flight: int
    chains_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms_per_chain: float


class Everything(AssignmentListener):
    """Takes each partition from its beginning."""

    def __init__(self) -> None:
        self.partitions: frozenset[TopicPartition] = frozenset()
        self.subscription: Subscription | None = None

    def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """Begin at once, if the subscription is known already."""
        self.partitions = partitions
        self.begin()

    def begin(self) -> None:
        """Read all of it from the start."""
        if self.subscription is not None:
            for partition in self.partitions:
                self.subscription.seek(partition, 0)
            self.subscription.resume(self.partitions)

    def revoked(self) -> None:
        """Nobody else joins."""


async def hop(bus: Bus, group: str, source: str, target: str, ready: asyncio.Event) -> None:
    """Carry records from `source` to `target`, for ever."""
    listener = Everything()
    subscription = await bus.subscribe(group, [source], member="m", listener=listener)
    writer = await bus.open_writer(Slot(group, 0))
    await writer.prepare({source, target})
    listener.subscription = subscription
    listener.begin()
    partition = TopicPartition(source, 0)
    while True:
        if listener.partitions:
            ready.set()
        records = await subscription.poll(0.5, MAX_BATCH)
        if records:
            onward = [Record(target, r.key, r.value, r.headers) for r in records]
            await writer.commit(onward, {partition: records[-1].offset + 1})


async def drive(bus: Bus, first: str, last: str, in_flight: int, seconds: float) -> Figures:
    """Keep `in_flight` chains under way and time them."""
    ends = await bus.end_offsets([TopicPartition(last, 0)])
    reader = await bus.open_reader(ends)
    padding = b"x" * (PAYLOAD_BYTES - 8)

    def fresh() -> Record:
        return Record(first, KEY, time.perf_counter_ns().to_bytes(8, "big") + padding)

    await bus.publish([fresh() for _ in range(in_flight)])
    began = time.perf_counter()
    measured_from, cpu_from = 0.0, 0.0
    times: list[int] = []
    sending: list[asyncio.Task[object]] = []
    while (now := time.perf_counter()) < began + WARM_UP_S + seconds:
        if not measured_from and now > began + WARM_UP_S:
            measured_from, cpu_from, times = now, time.process_time(), []
        done = await reader.poll(0.5, MAX_BATCH)
        if done:
            at_ns = time.perf_counter_ns()
            times += [at_ns - int.from_bytes((r.value or b"")[:8], "big") for r in done]
            sending = [task for task in sending if not task.done()]
            sending.append(asyncio.create_task(bus.publish([fresh() for _ in done])))
    elapsed, cpu = time.perf_counter() - measured_from, time.process_time() - cpu_from
    await asyncio.gather(*sending)
    await reader.close()
    cuts = statistics.quantiles(times, n=100) if len(times) > 1 else [0.0] * 99
    count = max(1, len(times))
    return Figures(in_flight, count / elapsed, cuts[49] / 1e6, cuts[98] / 1e6, cpu * 1000 / count)


async def measure(url: str, in_flight: Sequence[int], seconds: float) -> list[Figures]:
    """Return the figures for each number in flight, each on topics of its own."""
    figures = []
    for number in in_flight:
        bus = open_bus(url)
        await bus.start()
        namespace = f"chain{uuid.uuid4().hex[:8]}"
        topics = [f"{namespace}.t{i}" for i in range(HOPS + 1)]
        await bus.create_topics([TopicSpec(topic, 1) for topic in topics])
        ready = [asyncio.Event() for _ in range(HOPS)]
        hops = [
            asyncio.create_task(hop(bus, f"{namespace}.g{i}", topics[i], topics[i + 1], ready[i]))
            for i in range(HOPS)
        ]
        driving = asyncio.create_task(_drive_when(ready, bus, topics, number, seconds))
        done, _ = await asyncio.wait({*hops, driving}, return_when=asyncio.FIRST_COMPLETED)
        for task in (*hops, driving):
            if task not in done:
                task.cancel()
        await asyncio.gather(*hops, return_exceptions=True)
        await bus.close()
        for task in done - {driving}:
            task.result()  # a hop ends only by its error
        figures.append(driving.result())
    return figures


async def _drive_when(
    ready: Sequence[asyncio.Event], bus: Bus, topics: Sequence[str], number: int, seconds: float
) -> Figures:
    for event in ready:
        await event.wait()
    return await drive(bus, topics[0], topics[-1], number, seconds)


def table(url: str, figures: Sequence[Figures]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        f"bare {HOPS}-hop chain on {url.partition('?')[0]}",
        "| in flight | chains/s | p50 / p99 ms | client CPU ms a chain |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {f.in_flight:,} | {f.chains_per_s:,.0f} | {f.p50_ms:.1f} / {f.p99_ms:.1f} "
        f"| {f.cpu_ms_per_chain:.3f} |"
        for f in figures
    ]
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(description="The bare exactly-once chain")
    parser.add_argument("url")
    parser.add_argument("--in-flight", default="1,64,2000")
    parser.add_argument("--seconds", type=float, default=8.0)
    arguments = parser.parse_args(argv)
    numbers = [int(number) for number in arguments.in_flight.split(",")]
    figures = uvloop.run(measure(arguments.url, numbers, arguments.seconds))
    print(table(arguments.url, figures))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
