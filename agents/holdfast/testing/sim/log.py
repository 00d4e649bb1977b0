"""One partition as a broker keeps it: transactions, markers, gaps, purges, compaction.

As in Kafka a transaction's records stand in the log before it is decided, its end leaves a marker
that takes an offset, and readers of committed records stop at the first open transaction (the last
stable offset, KIP-98). So offsets have gaps, and whoever counts them is found out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from holdfast.bus.port import Position, Received, Slot, TopicPartition

__all__ = ["Entry", "Log", "Transaction", "TransactionState"]

TOMBSTONE_KEPT_MS = 600_000
"""How long compaction keeps a tombstone, so that whoever restores meanwhile sees it."""


class TransactionState(Enum):
    """Of one transaction."""

    OPEN = "open"
    COMMITTED = "committed"
    ABORTED = "aborted"


@dataclass(eq=False, slots=True)
class Transaction:
    """What one writer does at once. `offsets`: what it moves for its group."""

    slot: Slot
    epoch: int
    offsets: dict[TopicPartition, int]
    state: TransactionState = TransactionState.OPEN
    partitions: set[TopicPartition] = field(default_factory=set)
    written: list[Position] = field(default_factory=list)


@dataclass(slots=True)
class Entry:
    """One place of a log: a record, or a marker (`record` None)."""

    offset: int
    record: Received | None
    transaction: Transaction | None

    @property
    def visible(self) -> bool:
        """Whether readers of committed records see it, now."""
        if self.record is None:
            return False
        return self.transaction is None or self.transaction.state is TransactionState.COMMITTED

    @property
    def open(self) -> bool:
        """Whether it is not decided yet."""
        return self.transaction is not None and self.transaction.state is TransactionState.OPEN


class Log:
    """One partition. `archive` keeps every entry there ever was, for the checks."""

    def __init__(self, topic: str, partition: int) -> None:
        self.where = TopicPartition(topic, partition)
        self.begin = 0
        self.end = 0
        self._offsets: list[int] = []
        self._entries: list[Entry] = []
        self.archive: list[Entry] = []
        self._open: dict[Transaction, int] = {}

    def append(self, received: Received | None, transaction: Transaction | None) -> int:
        """Write a record or a marker at the end; return its offset."""
        offset = self.end
        if received is not None:
            received = received._replace(offset=offset)
        entry = Entry(offset, received, transaction)
        self._offsets.append(offset)
        self._entries.append(entry)
        self.archive.append(entry)
        self.end += 1
        if transaction is not None and received is not None:
            self._open.setdefault(transaction, offset)
        return offset

    def decided(self, transaction: Transaction) -> None:
        """The transaction has ended: write its marker."""
        self._open.pop(transaction, None)
        self.append(None, transaction)

    @property
    def stable_end(self) -> int:
        """The last stable offset: where readers of committed records stop."""
        return min(self._open.values(), default=self.end)

    def read(self, start: int, most: int, stop: int | None = None) -> tuple[list[Received], int]:
        """Return visible records from `start` to before `stop`, and the offset to go on at."""
        limit = self.stable_end if stop is None else min(stop, self.stable_end)
        found: list[Received] = []
        at = max(start, self.begin)
        for index in range(bisect_left(self._offsets, at), len(self._entries)):
            entry = self._entries[index]
            if entry.offset >= limit:
                break
            if entry.visible and entry.record is not None:
                found.append(entry.record)
                if len(found) == most:
                    return found, entry.offset + 1
        return found, max(at, limit)

    def purge(self, before: int) -> None:
        """Forget everything below `before`, or below the last stable offset if that is less."""
        before = min(before, self.stable_end)
        keep = bisect_left(self._offsets, before)
        del self._offsets[:keep], self._entries[:keep]
        self.begin = max(self.begin, before)

    def compact(self, below: int, now_ms: int) -> None:
        """Keep the newest committed record of each key below `below`; the start stays.

        Markers and aborted records go; a tombstone goes once it is old enough.
        """
        below = min(below, self.stable_end)
        newest: dict[bytes | None, int] = {}
        for entry in self._entries:
            if entry.visible and entry.record is not None:
                newest[entry.record.key] = entry.offset
        kept = [entry for entry in self._entries if self._stays(entry, below, newest, now_ms)]
        self._entries = kept
        self._offsets = [entry.offset for entry in kept]

    def history(self) -> Iterator[Received]:
        """Every record that was ever committed, in order, purged and compacted ones too."""
        return (e.record for e in self.archive if e.visible and e.record is not None)

    @staticmethod
    def _stays(entry: Entry, below: int, newest: dict[bytes | None, int], now_ms: int) -> bool:
        if entry.offset >= below or entry.open:
            return True
        record = entry.record
        if record is None or not entry.visible or newest[record.key] != entry.offset:
            return False
        return record.value is not None or now_ms - record.timestamp_ms < TOMBSTONE_KEPT_MS
