"""A process of its own for contract tests: one role, told in one JSON argument.

python -m tests.contract.child '{"kit": "sqlite", "url": …, "role": "member" | "commit", …}'
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from holdfast.bus.port import AssignmentListener, Bus, Record, Slot, TopicPartition
from tests.contract.kit import BusKit, Timing
from tests.contract.kits import kit_class


def say(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


class Speaker(AssignmentListener):
    def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        say("assigned", partitions=sorted(partitions))

    def revoked(self) -> None:
        say("revoked")


async def member(bus: Bus, request: dict[str, Any]) -> None:
    subscription = await bus.subscribe(
        request["group"], request["topics"], member=request["member"], listener=Speaker()
    )
    while True:
        await subscription.poll(1.0)
        say("polled")


async def commit(kit: type[BusKit], bus: Bus, request: dict[str, Any]) -> None:
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
        say("inside")
        await asyncio.Event().wait()
        await task


async def main(request: dict[str, Any]) -> None:
    kit = kit_class(request["kit"])
    bus = kit.build(request["url"], Timing(**request["timing"]))
    await bus.start()
    if request["role"] == "member":
        await member(bus, request)
    else:
        await commit(kit, bus, request)


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
