"""Crash points inside the adapters, between a commit's first byte and its answer.

The functions of the adapters are replaced in this process, before the bus is opened; each does what
the original does. What they mark on each bus:

    point              SQLite (in the commit thread)             Kafka (aiokafka's client)
    produce            before, after the rows' INSERT            before, after all batches
    offsets            before, after the counters' REPLACE       before, after TxnOffsetCommit
    commit sent        before COMMIT, after COMMIT               before, after EndTxn is written
    commit answered    before the loop hears of it               when EndTxn's answer has come
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from typing import Any

from holdfast.bus.settings import KafkaSettings, parse_bus_url
from tests.torture.points import Control, Point

__all__ = ["watch_adapter"]

HEAD_START_MS = 15_000
"""On SQLite nothing younger is compacted."""
YIELDS = 5
"""Rounds of the loop in which a request is written to its socket, once it was handed over."""


def watch_adapter(bus_url: str, control: Control) -> None:
    """Put the points into the adapter of this process's bus."""
    if isinstance(parse_bus_url(bus_url), KafkaSettings):
        _watch_kafka(control)
    else:
        _watch_sqlite(control)


class _Statements:
    """A connection that tells produced rows and consumed offsets apart."""

    def __init__(self, db: sqlite3.Connection, control: Control) -> None:
        self._db = db
        self._control = control

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if sql.startswith("INSERT INTO log"):
            before, after = Point.BEFORE_PRODUCE, Point.AFTER_PRODUCE
        elif sql.startswith("REPLACE INTO counters"):
            before, after = Point.BEFORE_OFFSETS, Point.AFTER_OFFSETS
        else:
            return self._db.execute(sql, *parameters)
        self._control.reached(before)
        cursor = self._db.execute(sql, *parameters)
        self._control.reached(after)
        return cursor


def _watch_sqlite(control: Control) -> None:
    from holdfast.bus.embedded import commit_thread
    from holdfast.bus.embedded.append import Append
    from holdfast.bus.embedded.append import append as append_rows

    end = commit_thread.commit
    deliver = commit_thread.CommitThread._deliver
    by_slot = False  # only the commit thread reads and writes it

    def append(db: Any, appends: Sequence[Append], now_ms: int) -> set[int]:
        nonlocal by_slot
        by_slot = any(op.claim is not None and op.consumed for op in appends)
        watched: Any = _Statements(db, control) if by_slot else db
        return append_rows(watched, appends, now_ms)

    def commit(db: sqlite3.Connection) -> None:
        nonlocal by_slot
        if by_slot:
            control.reached(Point.BEFORE_COMMIT_SENT)
        end(db)
        if by_slot:
            control.reached(Point.AFTER_COMMIT_SENT)
        by_slot = False

    def delivered(self: Any, ops: Sequence[Any], interests: set[int]) -> None:
        if any(isinstance(op, Append) and op.claim is not None for op in ops):
            control.reached(Point.BEFORE_COMMIT_ANSWERED)
        deliver(self, ops, interests)

    _compact_later()
    commit_thread.append = append  # type: ignore[attr-defined]
    commit_thread.commit = commit
    commit_thread.CommitThread._deliver = delivered  # type: ignore[method-assign]


def _compact_later() -> None:
    """Give the recorder a head start, as Kafka's newest segment does: what it has not read when it
    is compacted, the judge has to do without."""
    from holdfast.bus.embedded import upkeep
    from holdfast.bus.embedded.store import Counter, counter, log_id

    compact_step = upkeep.compact_step

    def later(transaction: Any, stream: int, now_ms: int, grace_ms: int, dirty_min: int) -> bool:
        clean = transaction.counted(counter(Counter.CLEAN, stream))
        window = (log_id(stream, clean), log_id(stream, clean + upkeep.COMPACT_ROWS_MAX))
        newest = transaction.db.execute(
            "SELECT max(at_ms) FROM log WHERE id BETWEEN ? AND ?", window
        ).fetchone()[0]
        if newest is not None and newest > now_ms - HEAD_START_MS:
            return False
        return compact_step(transaction, stream, now_ms, grace_ms, dirty_min)

    upkeep.compact_step = later


def _watch_kafka(control: Control) -> None:
    from aiokafka.client import ConnectionGroup
    from aiokafka.protocol.transaction import EndTxnRequest

    from holdfast.bus.kafka.verdict import EndTap
    from holdfast.bus.kafka.writer import KafkaWriter

    write, send_offsets = KafkaWriter._write, KafkaWriter._send_offsets
    put_on = EndTap.put_on

    async def watched_write(self: Any, records: Any, offsets: Any) -> None:
        control.reached(Point.BEFORE_PRODUCE)
        await write(self, records, offsets)
        control.reached(Point.AFTER_PRODUCE)

    async def watched_offsets(self: Any, offsets: Any) -> None:
        control.reached(Point.BEFORE_OFFSETS)
        await send_offsets(self, offsets)
        control.reached(Point.AFTER_OFFSETS)

    def watched_put_on(self: Any, client: Any) -> None:
        put_on(self, client)
        send = client.send

        async def watched_send(
            node_id: int, request: Any, *, group: ConnectionGroup = ConnectionGroup.DEFAULT
        ) -> Any:
            if not isinstance(request, EndTxnRequest):
                return await send(node_id, request, group=group)
            control.reached(Point.BEFORE_COMMIT_SENT)
            sending = asyncio.ensure_future(send(node_id, request, group=group))
            if control.armed is Point.AFTER_COMMIT_SENT:
                for _ in range(YIELDS):
                    await asyncio.sleep(0)
                control.reached(Point.AFTER_COMMIT_SENT)
            response = await sending
            control.reached(Point.BEFORE_COMMIT_ANSWERED)
            return response

        client.send = watched_send

    KafkaWriter._write = watched_write  # type: ignore[method-assign]
    KafkaWriter._send_offsets = watched_offsets  # type: ignore[method-assign]
    EndTap.put_on = watched_put_on  # type: ignore[method-assign]
