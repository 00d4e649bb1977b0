"""Transactions that a dead client left open: how long their neighbours wait.

Until the broker aborts it (transaction time-out, 5 s, and its scan for such ones,
`transaction.abort.timed.out.transaction.cleanup.interval.ms`, 10 s as delivered), no reader of
committed records gets past its first record, in every partition it touched.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from holdfast.bus.port import TopicPartition
from tests.torture.wire.bed import Bed
from tests.torture.wire.lanes import PARTS, Lane
from tests.waiting import until

__all__ = ["NEIGHBOUR_BOUND_S", "strike"]

NEIGHBOUR_BOUND_S = 15.0
PATIENCE_S = 60.0
ROOT = Path(__file__).parents[3]


async def strike(bed: Bed, lane: Lane, victim: int) -> float:
    """Have a process die inside a commit beside `lane`; return after how many seconds the follower
    had read what the lane committed after that, from every partition it touched."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.torture.wire.victim",
        bed.direct,
        bed.lanes.topics.namespace,
        str(lane.index),
        str(victim),
        cwd=ROOT,
        stderr=asyncio.subprocess.DEVNULL,
    )
    code = await process.wait()
    at, begun = time.monotonic(), lane.begun
    assert code == -9, f"the victim ended by itself, with {code}"
    touched = {topic for topic, _ in PARTS if topic != "journal"}
    partitions = [TopicPartition(bed.lanes.topics.name(topic), lane.index) for topic in touched]

    def gone_on() -> bool:
        newest = [bed.follower.newest.get(partition) for partition in partitions]
        return all(piece is not None and piece.attempt > begun for piece in newest)

    await until(gone_on, f"the neighbours of lane {lane.index} go on", PATIENCE_S)
    return time.monotonic() - at
