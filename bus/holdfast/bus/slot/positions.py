"""From which offsets a slot goes on reading, once it is opened."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from holdfast.bus.errors import OffsetOutOfRange
from holdfast.bus.port import Bus, Slot, TopicPartition
from holdfast.schemas.records import SlotOffset

__all__ = ["start_positions"]


async def start_positions(
    bus: Bus,
    slot: Slot,
    topics: Sequence[str],
    newest: SlotOffset | None,
    *,
    from_end: Collection[str] = (),
) -> dict[str, int]:
    """Return the offset of the next record of each topic, in the slot's partition.

    The journal says it (`newest`, its last `offset` record); the broker is asked for what no commit
    has named. Offsets and journal are written by the same commits, but only the journal is read
    from the log. What a broker tells of a group is its memory: stale after a takeover, gone when
    the group was idle for 7 days, and for ever "unstable" where it was loaded wrongly (ADR 8).

    `from_end`: topics that are read from their end, and not from their begin, where nothing was
    ever committed. Raises `OffsetOutOfRange`, `BusUnavailable`.
    """
    partitions = [TopicPartition(topic, slot.partition) for topic in topics]
    known = {each.topic: each.offset for each in newest.offsets} if newest else {}
    if unknown := [partition for partition in partitions if partition.topic not in known]:
        told = await bus.committed(slot.group, unknown)
        known |= {partition.topic: offset for partition, offset in told.items()}
    begins = await bus.begin_offsets(partitions)
    positions = {}
    for partition in partitions:
        begin = begins[partition]
        at = known.get(partition.topic, begin)
        if at < begin:
            raise OffsetOutOfRange(
                f"slot {slot.group}/{slot.partition} stands at offset {at} of {partition.topic}, "
                f"whose log begins at {begin}: {begin - at} records were deleted before they were "
                "consumed. Check the topic's retention (`holdfast topics check`); nothing was "
                "skipped."
            )
        positions[partition.topic] = at
        if partition.topic not in known and partition.topic in from_end:
            positions[partition.topic] = (await bus.end_offsets([partition]))[partition]
    return positions
