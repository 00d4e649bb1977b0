"""Appending to the log: what stands in one transaction, as few statements of few fixed sizes.

`executemany` would give the interpreter's lock away for each row; one statement with many rows
gives it away once. Sizes are fixed so that SQLite compiles each statement once.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, TypeVar

from holdfast.bus.embedded.store import Counter, counter, log_id, placeholders
from holdfast.bus.errors import Fenced, Rejected
from holdfast.bus.port import Record

__all__ = ["BINDING_ERRORS", "Append", "Claim", "OpState", "Row", "append", "refuse"]

T = TypeVar("T")

_INSERT_ROWS = (256, 64, 16, 4, 1)
_COUNTERS = (4, 16, 64, 256)

BINDING_ERRORS = (
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    sqlite3.DataError,
    OverflowError,
    TypeError,
    ValueError,
)
"""What `sqlite3` raises for a value that does not bind."""

_INSERT = {
    rows: "INSERT INTO log(id, key, value, headers, at_ms, upto) VALUES "  # noqa: S608
    + ",".join(["(?,?,?,?,?,?)"] * rows)
    for rows in _INSERT_ROWS
}
_SELECT_COUNTERS = {
    size: f"SELECT id, value FROM counters WHERE id IN ({placeholders(size)})"  # noqa: S608
    for size in _COUNTERS
}
_REPLACE_COUNTERS = {
    size: "REPLACE INTO counters(id, value) VALUES " + ",".join(["(?,?)"] * size)  # noqa: S608
    for size in _COUNTERS
}


class Row(NamedTuple):
    """A record made ready for the log."""

    stream: int
    key: bytes | None
    value: bytes | None
    headers: bytes | None
    size: int


class Claim(NamedTuple):
    """What a commit must find in the file: it is void when the slot's epoch has moved on."""

    epoch_counter: int
    epoch: int
    slot: str


class OpState(Enum):
    """Where an operation is: WAITING -> BEGUN, or WAITING -> ABANDONED (then it never begins)."""

    WAITING = "waiting"
    BEGUN = "begun"
    ABANDONED = "abandoned"


@dataclass(slots=True, eq=False)
class Append:
    """One commit or publish. `outcome` is None when it succeeded."""

    rows: Sequence[Row]
    records: Sequence[Record]
    future: asyncio.Future[None]
    claim: Claim | None = None
    consumed: Sequence[tuple[int, int]] = ()
    """Counter and next offset."""
    state: OpState = OpState.WAITING
    outcome: BaseException | None = None
    offsets: list[int] = field(default_factory=list)
    """Of each row, once it has been given its place."""


def append(db: sqlite3.Connection, appends: Sequence[Append], now_ms: int) -> set[int]:
    """Write these inside the open transaction; return the streams that grew.

    One that is fenced gets its outcome and writes nothing; it does not hurt its neighbours.
    """
    streams = {row.stream for op in appends for row in op.rows}
    known = _read_counters(db, _needed(appends, streams))
    ends = {stream: _End(known, stream) for stream in streams}
    moved: dict[int, int] = {}
    params: list[object] = []
    grown: set[int] = set()
    for op in appends:
        claim = op.claim
        if claim is not None and known.get(claim.epoch_counter, 0) != claim.epoch:
            op.outcome = Fenced(f"slot {claim.slot} has a newer writer; nothing was written")
            continue
        grown.update(_place(op, ends, params, now_ms))
        moved.update(op.consumed)
    for stream in grown:
        moved[counter(Counter.HEAD, stream)] = ends[stream].offset
        moved[counter(Counter.BYTES, stream)] = ends[stream].upto
    if moved:
        _insert(db, params)
        _write_counters(db, list(moved.items()))
    return grown


def refuse(op: Append, error: BaseException) -> Rejected:
    """Return the refusal of the first record with a value that does not bind."""
    for record in op.records:
        for part in (record.key, record.value, *(value for _, value in record.headers)):
            if part is not None and type(part) is not bytes:
                reason = f"{type(part).__name__} is not bytes"
                return Rejected(record, reason)
    return Rejected(op.records[0], f"SQLite does not take its commit: {error}")


class _End:
    """Where a stream's next record goes."""

    __slots__ = ("first_id", "offset", "upto")

    def __init__(self, known: dict[int, int], stream: int) -> None:
        self.first_id = log_id(stream, 0)
        self.offset = known.get(counter(Counter.HEAD, stream), 0)
        self.upto = known.get(counter(Counter.BYTES, stream), 0)


def _needed(appends: Sequence[Append], streams: Iterable[int]) -> list[int]:
    needed = {op.claim.epoch_counter for op in appends if op.claim is not None}
    for stream in streams:
        needed.add(counter(Counter.HEAD, stream))
        needed.add(counter(Counter.BYTES, stream))
    return list(needed)


def _place(op: Append, ends: dict[int, _End], params: list[object], now_ms: int) -> set[int]:
    """Give each row its place, add it to `params`; return the streams it has touched."""
    offsets = op.offsets = []
    touched = set()
    for stream, key, value, headers, size in op.rows:
        end = ends[stream]
        offset = end.offset
        end.offset = offset + 1
        end.upto += size
        params += (end.first_id + offset, key, value, headers, now_ms, end.upto)
        offsets.append(offset)
        touched.add(stream)
    return touched


def _read_counters(db: sqlite3.Connection, ids: list[int]) -> dict[int, int]:
    found: dict[int, int] = {}
    for part, size in _padded(ids):
        found.update(db.execute(_SELECT_COUNTERS[size], part).fetchall())
    return found


def _write_counters(db: sqlite3.Connection, items: list[tuple[int, int]]) -> None:
    for part, size in _padded(items):
        db.execute(_REPLACE_COUNTERS[size], [number for item in part for number in item])


def _padded(items: list[T]) -> Iterable[tuple[list[T], int]]:
    """Cut into pieces of the fixed sizes; the last one is filled up with copies."""
    largest = _COUNTERS[-1]
    for start in range(0, len(items), largest):
        part = items[start : start + largest]
        size = next(size for size in _COUNTERS if size >= len(part))
        yield part + part[:1] * (size - len(part)), size


def _insert(db: sqlite3.Connection, params: list[object]) -> None:
    start, width = 0, 6
    for rows in _INSERT_ROWS:
        while len(params) - start >= rows * width:
            db.execute(_INSERT[rows], params[start : start + rows * width])
            start += rows * width
