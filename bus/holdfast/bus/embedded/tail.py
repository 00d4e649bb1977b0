"""Reading: small, whole, and never inside a transaction.

A reader that holds a transaction, or a cursor that is not read to its end, keeps the WAL from
being started anew: it grew to 1 GiB in 6 s. So each statement is one `fetchall` of at most 500
records and 1 MiB. It runs on the event loop: between two threads the interpreter's lock would
change hands at every row.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from holdfast.bus.embedded.catalog import Catalog
from holdfast.bus.embedded.encoding import unpack_headers
from holdfast.bus.embedded.store import Counter, counter, log_id, placeholders
from holdfast.bus.errors import BusUnavailable, OffsetOutOfRange
from holdfast.bus.port import Received, TopicPartition

__all__ = ["READ_BYTES_MAX", "READ_RECORDS_MAX", "LogReader", "Tail"]

READ_RECORDS_MAX = 500
READ_BYTES_MAX = 1024 * 1024

_COLUMNS = "id, key, value, headers, at_ms, upto"
_FETCH = f"SELECT {_COLUMNS} FROM log WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"  # noqa: S608
# Where the first MiB ends: `length` reads no value, and the inner LIMIT bounds the search.
_LAST_THAT_FITS = """
SELECT max(id) FROM (SELECT id, sum(size) OVER (ORDER BY id) AS total FROM (
    SELECT id,
        ifnull(length(key), 0) + ifnull(length(value), 0) + ifnull(length(headers), 0) AS size
    FROM log WHERE id >= ? AND id < ? ORDER BY id LIMIT ?))
WHERE total <= ?
"""


class _Ends(NamedTuple):
    begin: int
    head: int
    total_bytes: int


_NOTHING = _Ends(0, 0, 0)


class LogReader:
    """The reading connection of one process, used from the event loop alone."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def ends(self, streams: Collection[int]) -> dict[int, _Ends]:
        """Return first offset, next offset and bytes written of each stream."""
        kinds = (Counter.BEGIN, Counter.HEAD, Counter.BYTES)
        ids = [counter(kind, stream) for stream in streams for kind in kinds]
        found = self.counters(ids)
        return {
            stream: _Ends(*(found.get(counter(kind, stream), 0) for kind in kinds))
            for stream in streams
        }

    def counters(self, ids: Sequence[int]) -> dict[int, int]:
        """Return those counters that exist."""
        sql = f"SELECT id, value FROM counters WHERE id IN ({placeholders(len(ids))})"  # noqa: S608
        return dict(self._db.execute(sql, ids).fetchall())

    def rows(
        self, stream: int, start: int, end: int, limit: int, unread_bytes: int
    ) -> list[tuple[int, bytes | None, bytes | None, bytes | None, int, int]]:
        """Return records from `start` to before `end`, where at most `unread_bytes` lie."""
        first, last = log_id(stream, start), log_id(stream, end)
        if unread_bytes > READ_BYTES_MAX:
            bounds = (first, last, limit, READ_BYTES_MAX)
            (fits,) = self._db.execute(_LAST_THAT_FITS, bounds).fetchone()
            if fits is None:
                limit = 1
            else:
                last = fits + 1
        return self._db.execute(_FETCH, (first, last, limit)).fetchall()


class _Place:
    """Where a partition is read on."""

    __slots__ = ("next", "partition", "seen_bytes", "stream")

    def __init__(self, partition: TopicPartition, stream: int, start: int) -> None:
        self.partition = partition
        self.stream = stream
        self.next = start
        self.seen_bytes = 0

    def take(self, reader: LogReader, end: int, total_bytes: int, limit: int) -> list[Received]:
        """Read on, to before `end` (a head seen earlier); raises `OffsetOutOfRange`."""
        unread = total_bytes - self.seen_bytes
        rows = reader.rows(self.stream, self.next, end, limit, unread)
        start, self.next = self.next, end
        full = rows and (len(rows) == limit or unread > READ_BYTES_MAX)
        topic, number = self.partition
        first_id = log_id(self.stream, 0)
        records = [
            Received(
                topic,
                number,
                row_id - first_id,
                key,
                value,
                () if headers is None else unpack_headers(headers),
                at_ms,
            )
            for row_id, key, value, headers, at_ms, _ in rows
        ]
        if rows:
            self.seen_bytes = rows[-1][5]
            if full:
                self.next = records[-1].offset + 1
        if len(rows) != self.next - start:
            # A gap: compaction, or a purge since the ends were read. Only the second one loses.
            self._refuse_purged(start, reader.ends([self.stream])[self.stream].begin)
        return records

    def _refuse_purged(self, start: int, begin: int) -> None:
        if start < begin:
            self.next = start
            raise OffsetOutOfRange(
                f"{self.partition.topic}[{self.partition.partition}] begins at offset {begin}; "
                f"{start} was asked for: what lies between is gone"
            )

    def check(self, begin: int) -> None:
        """Raise `OffsetOutOfRange` if the log begins later."""
        self._refuse_purged(self.next, begin)


class Tail:
    """Reads any number of partitions on, taking turns."""

    def __init__(self, reader: LogReader, catalog: Catalog) -> None:
        self._reader = reader
        self._catalog = catalog
        self._places: dict[TopicPartition, _Place] = {}
        self._turn = 0

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Go on at `offset`."""
        stream = self._catalog.stream(partition)
        self._places[partition] = _Place(partition, stream, offset)

    def seek_all(self, starts: Mapping[TopicPartition, int]) -> None:
        """Go on at these offsets."""
        for partition, offset in starts.items():
            self.seek(partition, offset)

    def clear(self) -> None:
        """Forget all positions."""
        self._places.clear()

    def position(self, partition: TopicPartition) -> int | None:
        """Return the next offset, or None where there was no seek."""
        place = self._places.get(partition)
        return None if place is None else place.next

    def take(self, wanted: Collection[TopicPartition], max_records: int) -> list[Received]:
        """Return what is there, at most `READ_RECORDS_MAX` and about `READ_BYTES_MAX`; [] if
        nothing is. Raises `OffsetOutOfRange`, `BusUnavailable`."""
        places = [self._places[partition] for partition in wanted if partition in self._places]
        if not places:
            return []
        try:
            return self._take(places, min(max_records, READ_RECORDS_MAX))
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                return []
            raise BusUnavailable(f"the bus file cannot be read: {error}") from error

    def _take(self, places: list[_Place], limit: int) -> list[Received]:
        ends = self._reader.ends([place.stream for place in places])
        # Each call begins with another partition: a busy one must not starve the rest.
        self._turn += 1
        first = self._turn % len(places)
        records: list[Received] = []
        for place in places[first:] + places[:first]:
            found = ends.get(place.stream, _NOTHING)
            place.check(found.begin)
            if place.next >= found.head or limit <= len(records):
                continue
            seen_bytes = place.seen_bytes
            records += place.take(self._reader, found.head, found.total_bytes, limit - len(records))
            if place.seen_bytes - seen_bytes >= READ_BYTES_MAX // 2:
                break
        return records
