"""A slot's journal: a compacted changelog, written to the slot's partition by number.

Beside the machine's own keys it holds `offset`: what the slot knows of itself (`SlotOffset`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from holdfast.bus.port import Bus, Record, Slot, TopicPartition
from holdfast.schemas.codec import decode, encode
from holdfast.schemas.records import ConsumedOffset, SlotOffset

__all__ = ["Journal", "ProcessIdentity"]

OFFSET_KEY = b"offset"
TAIL_RECORDS = 16
"""The last commit's `offset` record stands among the last so many offsets: markers count too."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """Who writes: the stable name of the instance, and a UUID made when this process started."""

    instance: str
    process_id: str


class Journal:
    """Makes the records of one slot's journal, and reads them back."""

    def __init__(self, bus: Bus, slot: Slot, topic: str, identity: ProcessIdentity) -> None:
        self._bus = bus
        self._slot = slot
        self._identity = identity
        self._floor = 0
        self.topic = topic

    @property
    def partition(self) -> TopicPartition:
        """Where the journal stands."""
        return TopicPartition(self.topic, self._slot.partition)

    def record(self, key: str, value: bytes | None) -> Record:
        """Return the record that sets `key`, or removes it."""
        return Record(self.topic, key.encode(), value, (), self._slot.partition)

    def offset_record(
        self, number: int, offsets: Mapping[str, int], now_ms: int, *, clean: bool
    ) -> Record:
        """Return the slot's record of itself for commit `number`."""
        consumed = [ConsumedOffset(topic, offset) for topic, offset in sorted(offsets.items())]
        entry = SlotOffset(
            number, consumed, self._identity.instance, self._identity.process_id, clean, now_ms
        )
        return Record(self.topic, OFFSET_KEY, encode(entry), (), self._slot.partition)

    async def end(self) -> int:
        """Return where the journal ends now."""
        return (await self._bus.end_offsets([self.partition]))[self.partition]

    async def newest_offset(self) -> SlotOffset | None:
        """Return the newest `offset` record at or above the floor, or None.

        The floor is a lower bound of the end of what this slot has read or had acknowledged:
        reading from there is short however long the journal is, and finds everything newer.
        """
        return await self._newest_from(self._floor)

    async def last_offset(self) -> SlotOffset | None:
        """Return the `offset` record of the last commit: it is the last record of each.

        None where the journal is empty, or ends in what was aborted. Short however long it is.
        """
        end = await self.end()
        return await self._newest_from(max(0, end - TAIL_RECORDS)) if end else None

    async def _newest_from(self, begin: int) -> SlotOffset | None:
        newest: bytes | None = None
        async for batch in self._bus.read(self.topic, self._slot.partition, begin):
            for received in batch:
                if received.key == OFFSET_KEY and received.value is not None:
                    newest = received.value
        return None if newest is None else decode(SlotOffset, newest)

    def raise_floor(self, end: int) -> None:
        """Note that every journal record below `end` is known."""
        self._floor = max(self._floor, end)

    def raise_floor_by(self, records: int) -> None:
        """Note that `records` more of our own were acknowledged: the log's end rose at least so."""
        self._floor += records
