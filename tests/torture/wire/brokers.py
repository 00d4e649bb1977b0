"""Brokers that are killed and come back: the only one, and the coordinator among three."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any, NamedTuple

from aiokafka.client import AIOKafkaClient, CoordinationType

from tests.torture.wire.bed import Bed

__all__ = ["BACK_BOUND_S", "Restart", "kill_coordinator", "kill_only"]

BACK_BOUND_S = 10.0
"""From the broker's being ready."""
MAX_DOWN_S = 1.0
REPLICATED_S = 60.0


class Restart(NamedTuple):
    """How long after the kill, and after the broker was ready again, all lanes had gone on.

    `taken_over_s` is None where no other broker could.
    """

    taken_over_s: float | None
    back_s: float


async def kill_only(bed: Bed, broker: Any, choose: random.Random) -> Restart:
    """`kill -9` the broker inside commits, and start it again."""
    await asyncio.to_thread(broker.kill)
    await asyncio.sleep(choose.uniform(0, MAX_DOWN_S))
    await asyncio.to_thread(broker.start)
    return Restart(None, await bed.lanes.progress(time.monotonic()))


async def kill_coordinator(bed: Bed, cluster: Any, choose: random.Random) -> Restart:
    """`kill -9` the broker that coordinates a lane's transactions; wait until the others do it;
    start it again, and wait until it has all partitions anew."""
    lane = choose.choice(bed.lanes.all)
    node = await _asked(bed, lambda client: _coordinator(client, lane.transactional_id))
    broker = next(broker for broker in cluster.brokers if broker.node_id == node)
    at = time.monotonic()
    await asyncio.to_thread(broker.kill)
    taken_over_s = await bed.lanes.progress(at)
    await asyncio.to_thread(broker.start)
    back_s = await bed.lanes.progress(time.monotonic())
    deadline = time.monotonic() + REPLICATED_S
    while not await _asked(bed, lambda client: _replicated(client, len(cluster.brokers))):
        if time.monotonic() > deadline:
            raise AssertionError(f"broker {node} does not catch up within {REPLICATED_S:g} s")
        await asyncio.sleep(0.1)
    return Restart(taken_over_s, back_s)


async def _asked(bed: Bed, ask: Any) -> Any:
    client = AIOKafkaClient(bootstrap_servers=bed.direct)
    await client.bootstrap()
    try:
        return await ask(client)
    finally:
        await client.close()


async def _coordinator(client: AIOKafkaClient, transactional_id: str) -> int:
    node: int = await client.coordinator_lookup(CoordinationType.TRANSACTION, transactional_id)
    return node


async def _replicated(client: AIOKafkaClient, replicas: int) -> bool:
    metadata = await client.fetch_all_metadata()
    partitions = [p for topic in metadata._partitions.values() for p in topic.values()]
    return bool(partitions) and all(len(p.isr) == replicas for p in partitions)
