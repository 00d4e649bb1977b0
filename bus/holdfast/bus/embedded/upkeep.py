"""Keeping the file small: purging, retention, compaction; each in bounded transactions.

One of the processes does it, whoever finds it due; the pages that come free are used again.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from holdfast.bus.embedded.catalog import Topic
from holdfast.bus.embedded.commit_thread import Transaction
from holdfast.bus.embedded.store import Counter, counter, log_id, placeholders, split_log_id
from holdfast.bus.port import Cleanup

__all__ = ["Transact", "Upkeep", "compact_step", "due", "purge", "purge_step", "retention_offset"]

T = TypeVar("T")

PURGE_ROWS_MAX = 1_000
COMPACT_ROWS_MAX = 1_000
COMPACT_DIRTY_MIN = 500
"""Fewer new records are left for later: most keys of a journal come and go soon."""
_REST_PER_WORK = 4
"""Upkeep rests four times as long as it works, so that it takes at most a fifth of the writes,"""
_REST_WHEN_BEHIND = 1
"""and half of them while a full step leaves more to do: else a busy journal outgrows it."""

_OLDER = (
    "(SELECT n.id FROM log l CROSS JOIN newest n ON n.stream = ? AND n.key = l.key "
    "WHERE l.id BETWEEN ? AND ? AND n.id < ?)"
)
_DELETE_OLDER = (
    f"DELETE FROM tombstones WHERE id IN {_OLDER}",  # noqa: S608 - a constant
    f"DELETE FROM log WHERE id IN {_OLDER}",  # noqa: S608
)
"""What a window's keys have in the clean part before it."""


class Transact(Protocol):
    """Runs a change in a transaction of its own (`CommitThread.transact`)."""

    def __call__(self, run: Callable[[Transaction], T], /) -> Awaitable[T]:
        """Return what `run` returns."""
        ...


def purge_step(transaction: Transaction, stream: int, before: int) -> bool:
    """Forget at most `PURGE_ROWS_MAX` records below `before`; True if more are left.

    The log's start moves first: a reader behind it hears so, rather than to find some of them gone.
    """
    begin_counter = counter(Counter.BEGIN, stream)
    before = min(before, transaction.counted(counter(Counter.HEAD, stream)))
    if before > transaction.counted(begin_counter):
        transaction.count(begin_counter, before)
    db, first, last = transaction.db, log_id(stream, 0), log_id(stream, before)
    row = db.execute(
        "SELECT id FROM log WHERE id >= ? AND id < ? ORDER BY id LIMIT 1 OFFSET ?",
        (first, last, PURGE_ROWS_MAX),
    ).fetchone()
    end = last if row is None else row[0]
    db.execute("DELETE FROM log WHERE id >= ? AND id < ?", (first, end))
    return row is not None


async def purge(transact: Transact, stream: int, before: int) -> None:
    """Forget all records below `before`."""
    while await transact(lambda transaction: purge_step(transaction, stream, before)):
        pass


def retention_offset(db: sqlite3.Connection, topic: Topic, stream: int, now_ms: int) -> int:
    """Return below which offset the topic's age and size limits let go, looking a bit ahead."""
    total = counter(Counter.BYTES, stream)
    row = db.execute("SELECT value FROM counters WHERE id = ?", (total,)).fetchone()
    written = 0 if row is None else row[0]
    rows = db.execute(
        "SELECT id, at_ms, upto FROM log WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
        (log_id(stream, 0), log_id(stream + 1, 0), PURGE_ROWS_MAX),
    ).fetchall()
    before = 0
    for row_id, at_ms, upto in rows:
        old = topic.retention_ms >= 0 and at_ms < now_ms - topic.retention_ms
        much = topic.retention_bytes >= 0 and written - upto >= topic.retention_bytes
        if not old and not much:
            break
        before = split_log_id(row_id)[1] + 1
    return before


def compact_step(
    transaction: Transaction, stream: int, now_ms: int, grace_ms: int, dirty_min: int
) -> bool:
    """Compact at most `COMPACT_ROWS_MAX` records on; True if there may be more to do.

    Few statements, whatever the number of records: each gives the interpreter's lock away and waits
    for it again, in a busy process 5 ms, and all that time no other process writes.

    `newest` holds, for each key of the part already clean, where its record stands; `tombstones`,
    when that part took them in. From then on nobody reads what they removed, so the grace counts
    from there (as Kafka's delete horizon does, KIP-534): one that was written long ago would
    go along with its value, and whoever reads in between has seen the value alone.
    """
    clean_counter = counter(Counter.CLEAN, stream)
    clean = transaction.counted(clean_counter)
    head = transaction.counted(counter(Counter.HEAD, stream))
    if head - clean >= max(dirty_min, 1):
        rows = transaction.db.execute(
            "SELECT id FROM log WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
            (log_id(stream, clean), log_id(stream, head), COMPACT_ROWS_MAX),
        ).fetchall()
        if rows:
            _compact_window(transaction.db, stream, rows[0][0], rows[-1][0], now_ms)
        if len(rows) == COMPACT_ROWS_MAX:
            transaction.count(clean_counter, split_log_id(rows[-1][0])[1] + 1)
            return True
        # The end, though it moves on: whoever waits for a partition to be clean waits for ever.
        transaction.count(clean_counter, head)
    return _drop_tombstones(transaction.db, stream, now_ms - grace_ms)


def _compact_window(
    db: sqlite3.Connection, stream: int, first: int, last: int, now_ms: int
) -> None:
    window = (first, last)
    db.execute(
        "DELETE FROM log WHERE id BETWEEN ? AND ? AND id NOT IN "
        "(SELECT max(id) FROM log WHERE id BETWEEN ? AND ? GROUP BY key)",
        window + window,
    )
    for delete in _DELETE_OLDER:
        db.execute(delete, (stream, first, last, first))
    db.execute(
        "REPLACE INTO newest SELECT ?, key, id FROM log WHERE id BETWEEN ? AND ?",
        (stream, *window),
    )
    db.execute(
        "REPLACE INTO tombstones SELECT id, ? FROM log WHERE id BETWEEN ? AND ? AND value IS NULL",
        (now_ms, *window),
    )


def _drop_tombstones(db: sqlite3.Connection, stream: int, before_ms: int) -> bool:
    first, end = log_id(stream, 0), log_id(stream + 1, 0)
    ids = [
        row_id
        for row_id, at_ms in db.execute(
            "SELECT id, at_ms FROM tombstones WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
            (first, end, COMPACT_ROWS_MAX),
        ).fetchall()
        if at_ms < before_ms
    ]
    if not ids:
        return False
    some = f"({placeholders(len(ids))})"
    db.execute(
        f"DELETE FROM newest WHERE stream = ? AND id IN {some} "  # noqa: S608 - question marks
        f"AND key IN (SELECT key FROM log WHERE id IN {some})",
        (stream, *ids, *ids),
    )
    db.execute(f"DELETE FROM log WHERE id IN {some}", ids)  # noqa: S608
    db.execute(f"DELETE FROM tombstones WHERE id IN {some}", ids)  # noqa: S608
    return len(ids) == COMPACT_ROWS_MAX


def due(transaction: Transaction, now_ms: int, every_ms: int) -> bool:
    """Tell whether it is time, and note that it is being done."""
    row_id = counter(Counter.UPKEEP)
    if 0 <= now_ms - transaction.counted(row_id) < every_ms:
        return False
    transaction.count(row_id, now_ms)
    return True


class Upkeep:
    """Goes over all topics, a bounded transaction at a time."""

    def __init__(
        self,
        transact: Transact,
        reader: sqlite3.Connection,
        tombstone_grace_s: float,
        now_ms: Callable[[], int],
    ) -> None:
        self._transact = transact
        self._reader = reader
        self._grace_ms = int(tombstone_grace_s * 1000)
        self._now_ms = now_ms

    async def tidy(self, topic: Topic, dirty_min: int = COMPACT_DIRTY_MIN) -> None:
        """Bring one topic's partitions in order."""
        for stream in topic.streams():
            if topic.cleanup is Cleanup.RETAIN:
                await self._retain(topic, stream, self._now_ms())
            elif topic.cleanup is Cleanup.COMPACT:
                await self._compact(stream, dirty_min)

    async def _retain(self, topic: Topic, stream: int, now_ms: int) -> None:
        passed = 0
        while (before := retention_offset(self._reader, topic, stream, now_ms)) > passed:
            await self._paced(lambda t, before=before: purge_step(t, stream, before))  # type: ignore[misc]
            passed = before

    async def _compact(self, stream: int, dirty_min: int) -> None:
        if not self._compaction_due(stream, dirty_min):
            return

        def step(transaction: Transaction) -> bool:
            # Once begun it goes to the end (1): the first window says nothing of those behind it.
            # The time is each step's own: paced, they may take longer together than the grace.
            return compact_step(transaction, stream, self._now_ms(), self._grace_ms, 1)

        while await self._paced(step):
            pass

    def _compaction_due(self, stream: int, dirty_min: int) -> bool:
        """Look before asking for a turn in the queue, which costs all writers a sync."""
        ids = [counter(Counter.HEAD, stream), counter(Counter.CLEAN, stream)]
        found = dict(
            self._reader.execute(
                "SELECT id, value FROM counters WHERE id IN (?, ?)", ids
            ).fetchall()
        )
        if found.get(ids[0], 0) - found.get(ids[1], 0) >= max(dirty_min, 1):
            return True
        oldest = self._reader.execute(
            "SELECT at_ms FROM tombstones WHERE id >= ? AND id < ? ORDER BY id LIMIT 1",
            (log_id(stream, 0), log_id(stream + 1, 0)),
        ).fetchone()
        return oldest is not None and oldest[0] < self._now_ms() - self._grace_ms

    async def _paced(self, step: Callable[[Transaction], bool]) -> bool:
        worked_s = 0.0

        def timed(transaction: Transaction) -> bool:
            nonlocal worked_s
            begun = time.perf_counter()
            more = step(transaction)
            worked_s = time.perf_counter() - begun
            return more

        more = await self._transact(timed)
        # Not of the wait for its turn: the busier the file, the more there is to be kept small.
        await asyncio.sleep((_REST_WHEN_BEHIND if more else _REST_PER_WORK) * worked_s)
        return more
