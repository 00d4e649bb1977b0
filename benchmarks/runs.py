"""Runs a second, how long one takes, what it costs: through client, coordinator and agents."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from benchmarks.stage import Stage
from holdfast.bus.connect import open_bus
from holdfast.bus.port import TopicPartition
from holdfast.bus.topics import Topics
from holdfast.client import Client
from holdfast.schemas import Plan

TEXT = "x" * 200


@dataclass(frozen=True)
class Figures:
    """What one measurement saw. Latencies in ms, rate in runs (or items) a second."""

    in_flight: int
    rate: float
    p50_ms: float
    p99_ms: float
    cpu_ms_per_run: float


@dataclass(frozen=True)
class MapFigures:
    """What a map took: items a second, from its submission to its end; the coordinator's peak."""

    rate: float
    peak_mib: float


def three_tasks() -> Plan:
    """Three dependent tasks, each handed to the agent by the coordinator."""
    plan = Plan("three")
    one = plan.task("one", "bench.one", text=plan.input("text"))
    two = plan.task("two", "bench.two", text=one["text"])
    plan.task("three", "bench.three", text=two["text"])
    return plan


def three_steps() -> Plan:
    """One task whose handler takes three journaled steps."""
    plan = Plan("stepped")
    plan.task("stepped", "bench.stepped", text=plan.input("text"))
    return plan


def wide_map(items: int, window: int) -> Plan:
    """A list, a task for each item, and a reducer."""
    plan = Plan("wide")
    listed = plan.task("listed", "bench.listed", count=items, text=TEXT)
    each = plan.map("each", "bench.one", over=listed["items"], max_parallel=window)
    plan.task("counted", "bench.counted", items=each)
    return plan


async def measure(stage: Stage, plan: Plan, in_flight: int, seconds: float) -> Figures:
    """Keep `in_flight` runs going for `seconds`, after a warm-up of a fifth of that."""
    latencies: list[float] = []
    ended = False
    counting = False

    async def worker(client: Client) -> None:
        while not ended:
            began = time.perf_counter()
            run = await client.submit(plan, {"text": TEXT})
            await run.result(timeout_s=60)
            if counting:
                latencies.append(time.perf_counter() - began)

    async with Client(url=stage.bus, namespace=stage.namespace) as client:
        workers = [asyncio.create_task(worker(client)) for _ in range(in_flight)]
        await asyncio.sleep(seconds / 5)
        counting, began, cpu = True, time.perf_counter(), stage.cpu_s()
        await asyncio.sleep(seconds)
        counting, took = False, time.perf_counter() - began
        cpu = stage.cpu_s() - cpu
        ended = True
        await asyncio.gather(*workers)
    latencies.sort()
    count = max(1, len(latencies))
    return Figures(
        in_flight,
        len(latencies) / took,
        latencies[len(latencies) // 2] * 1000 if latencies else float("nan"),
        latencies[int(len(latencies) * 0.99)] * 1000 if latencies else float("nan"),
        cpu / count * 1000,
    )


async def measure_map(stage: Stage, items: int, window: int, *, crash: bool = False) -> MapFigures:
    """Work one map; with `crash` its coordinator is killed half-way, and started again."""
    async with Client(url=stage.bus, namespace=stage.namespace) as client:
        began = time.perf_counter()
        run = await client.submit(wide_map(items, window), {})
        before_mib = await _crash_half_way(stage, items) if crash else 0.0
        assert await run.result(timeout_s=600) == {"count": items}
        rate = items / (time.perf_counter() - began)
        return MapFigures(rate, max(before_mib, stage.peak_mib("coordinator")))


async def _crash_half_way(stage: Stage, items: int) -> float:
    """Return the coordinator's peak memory until it was killed, once another one is ready."""
    topic = Topics(stage.namespace).tasks("bench")
    places = [TopicPartition(topic, number) for number in range(stage.partitions)]
    bus = open_bus(stage.bus)
    await bus.start()
    try:
        while sum((await bus.end_offsets(places)).values()) < items // 2:
            await asyncio.sleep(0.05)
    finally:
        await bus.close()
    peak_mib = stage.peak_mib("coordinator")
    await asyncio.to_thread(stage.kill, "coordinator")
    await asyncio.to_thread(stage.again, "coordinator")
    return peak_mib
