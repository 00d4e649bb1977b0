"""The writer of a slot: an epoch in the file, checked by every commit in its own transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence

from holdfast.bus.embedded.append import Append, Claim
from holdfast.bus.embedded.catalog import Catalog, group_id
from holdfast.bus.embedded.commit_thread import CommitThread, Transaction
from holdfast.bus.embedded.encoding import to_row
from holdfast.bus.embedded.store import Counter, counter
from holdfast.bus.errors import BusError, Fenced, Rejected, TopicMissing
from holdfast.bus.port import Record, Slot, TopicPartition

__all__ = ["EmbeddedWriter", "claim_slot"]


def claim_slot(transaction: Transaction, slot: Slot) -> tuple[int, Claim]:
    """Raise the slot's epoch; return the group's number and what commits must find from now on."""
    group = group_id(transaction, slot.group)
    epoch_counter = counter(Counter.EPOCH, group, slot.partition)
    epoch = transaction.counted(epoch_counter) + 1
    transaction.count(epoch_counter, epoch)
    return group, Claim(epoch_counter, epoch, f"{slot.group}[{slot.partition}]")


class EmbeddedWriter:
    """See `holdfast.bus.port.Writer`."""

    def __init__(
        self,
        slot: Slot,
        claimed: tuple[int, Claim],
        thread: CommitThread,
        catalog: Catalog,
        max_record_bytes: int,
        closed: Callable[[EmbeddedWriter], None],
    ) -> None:
        self._slot = slot
        self._group, self._claim = claimed
        self._thread = thread
        self._catalog = catalog
        self._max_record_bytes = max_record_bytes
        self._closed = closed
        self._dead: BusError | None = None

    @property
    def slot(self) -> Slot:
        """Whose writer this is."""
        return self._slot

    def check(self, record: Record) -> None:
        """Raise `Rejected` if the bus would not take `record`."""
        topic = self._catalog.known(record.topic)
        if topic is not None:
            to_row(record, topic, self._max_record_bytes)

    async def prepare(self, topics: Collection[str]) -> None:
        """Learn about `topics`; raises `TopicMissing`."""
        for name in topics:
            self._catalog.topic(name)

    async def commit(
        self, records: Sequence[Record], offsets: Mapping[TopicPartition, int]
    ) -> None:
        """Write all records and offsets in one SQLite transaction; see the port."""
        if self._dead is not None:
            raise Fenced(f"this writer of {self._claim.slot} is dead: {self._dead}")
        if not records:
            raise ValueError("a commit needs at least one record: an empty one proves nothing")
        try:
            op = self._operation(records, offsets)
            self._thread.append(op)
            await op.future
        except BusError as error:
            self._dead = error
            raise
        except asyncio.CancelledError:
            self._dead = Fenced("a commit was cancelled: its outcome is unknown")
            raise

    async def close(self) -> None:
        """Let go."""
        if self._dead is None:
            self._dead = Fenced("it was closed")
        closed, self._closed = self._closed, _nothing
        closed(self)

    def _operation(
        self, records: Sequence[Record], offsets: Mapping[TopicPartition, int]
    ) -> Append:
        rows = []
        for record in records:
            topic = self._catalog.find(record.topic)
            if topic is None:
                raise Rejected(
                    record, "the topic does not exist; create it: holdfast topics create"
                )
            rows.append(to_row(record, topic, self._max_record_bytes))
        consumed = [
            (counter(Counter.CONSUMED, self._group, self._stream(partition, records[0])), offset)
            for partition, offset in offsets.items()
        ]
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        return Append(rows, records, future, self._claim, consumed)

    def _stream(self, partition: TopicPartition, record: Record) -> int:
        try:
            return self._catalog.stream(partition)
        except TopicMissing as error:
            raise Rejected(record, f"the offsets of its commit name a topic: {error}") from error


def _nothing(writer: EmbeddedWriter) -> None:
    """What a second close does."""
