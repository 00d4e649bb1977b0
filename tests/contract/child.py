"""A process of its own for contract tests: one role, told in one JSON argument.

python -m tests.contract.child '{"kit": "sqlite", "url": …, "role": "member" | "commit", …}'
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

from holdfast.bus.port import AssignmentListener, Bus, Record, Slot, TopicPartition
from tests.contract.kit import BusKit, Timing
from tests.contract.kits import kit_class

Say = Callable[[dict[str, Any]], None]


def say_aloud(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


class Speaker(AssignmentListener):
    def __init__(self, say: Say) -> None:
        self._say = say

    def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        self._say({"event": "assigned", "partitions": sorted(partitions)})

    def revoked(self) -> None:
        self._say({"event": "revoked"})


async def member(bus: Bus, request: dict[str, Any], say: Say) -> None:
    subscription = await bus.subscribe(
        request["group"], request["topics"], member=request["member"], listener=Speaker(say)
    )
    while True:
        await subscription.poll(1.0)
        say({"event": "polled"})


async def commit(kit: type[BusKit], bus: Bus, request: dict[str, Any], say: Say) -> None:
    records = [
        Record(topic, _bytes(key), _bytes(value), (), partition)
        for topic, key, value, partition in request["records"]
    ]
    offsets = {TopicPartition(t, p): offset for t, p, offset in request["offsets"]}
    writer = await bus.open_writer(Slot(request["group"], request["partition"]))
    await writer.prepare({record.topic for record in records})
    async with kit.hold_commit(bus) as held:
        task = asyncio.create_task(writer.commit(records, offsets))
        await held.reached()
        say({"event": "inside"})
        await asyncio.Event().wait()
        await task


async def play(kit: type[BusKit], bus: Bus, request: dict[str, Any], say: Say) -> None:
    """Be what the request says, for good."""
    await bus.start()
    if request["role"] == "member":
        await member(bus, request, say)
    else:
        await commit(kit, bus, request, say)


async def main(request: dict[str, Any]) -> None:
    kit = kit_class(request["kit"])
    await play(kit, kit.build(request["url"], Timing(**request["timing"])), request, say_aloud)


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
