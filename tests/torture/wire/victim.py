"""A process that dies inside its commit: everything is produced, nothing is ended.

python -m tests.torture.wire.victim BOOTSTRAP NAMESPACE LANE VICTIM
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from holdfast.bus.kafka import KafkaBus
from holdfast.bus.kafka.writer import KafkaWriter
from holdfast.bus.port import Record, Slot
from holdfast.bus.settings import KafkaSettings
from tests.torture.wire.lanes import PARTS, Piece, Topics

__all__ = ["VICTIM_LANE", "records_of"]

VICTIM_LANE = 1000
"""A piece that says this lane is a dead one's, and must never be seen."""


def records_of(topics: Topics, lane: int, victim: int) -> list[Record]:
    """Return what a victim writes: beside the lane's own records, but its journal."""
    return [
        Record(
            topics.name(topic),
            b"victim",
            Piece(VICTIM_LANE, victim, victim, part).encode(),
            partition=lane,
        )
        for topic, part in PARTS
        if topic != "journal"
    ]


async def _die(_writer: KafkaWriter) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def main(bootstrap: str, namespace: str, lane: int, victim: int) -> None:
    """Commit once; does not return."""
    topics = Topics(namespace)
    bus = KafkaBus(KafkaSettings((bootstrap,)))
    await bus.start()
    writer = await bus.open_writer(Slot(topics.name("victims"), victim))
    KafkaWriter._end = _die  # type: ignore[method-assign, assignment]
    await writer.commit(records_of(topics, lane, victim), {})


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
