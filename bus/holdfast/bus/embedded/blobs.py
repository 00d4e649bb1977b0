"""Large values beside the log, by name: where the claim check keeps what is too big for a record.

A blob is written in pieces, each in a small transaction of its own, so that 20 MB hold nobody up;
its name appears with the last one. Contents that no name points to (a writer that died, a blob
that was replaced) stand in `blob_contents` and are swept.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Collection
from typing import NamedTuple

from holdfast.bus.embedded.commit_thread import Transaction
from holdfast.bus.embedded.store import Counter, counter
from holdfast.bus.embedded.upkeep import Transact

__all__ = ["BlobInfo", "BlobTable"]

CHUNK_BYTES = 256 * 1024
CHUNK_BITS = 20
SWEEP_CHUNKS_MAX = 64
UNFINISHED_MS = 3_600_000
"""A content whose writer has not named it after an hour is given up."""


class BlobInfo(NamedTuple):
    """A blob that is whole."""

    name: str
    size: int
    at_ms: int


class BlobTable:
    """Put, get, delete and list blobs. A blob is there wholly or not at all."""

    def __init__(self, transact: Transact, reader: sqlite3.Connection) -> None:
        self._transact = transact
        self._reader = reader

    async def put(self, name: str, data: bytes, now_ms: int) -> None:
        """Keep `data` under `name`, in place of what was there."""
        content = await self._transact(lambda transaction: _begin(transaction, now_ms))
        view = memoryview(data)
        for number, start in enumerate(range(0, len(data), CHUNK_BYTES)):
            row = (content << CHUNK_BITS | number, bytes(view[start : start + CHUNK_BYTES]))
            await self._transact(
                lambda transaction, row=row: _write(transaction, row)  # type: ignore[misc]
            )
        await self._transact(
            lambda transaction: _name(transaction, name, content, len(data), now_ms)
        )

    async def get(self, name: str) -> bytes | None:
        """Return the data, or None if there is no such blob."""
        while (found := self._find(name)) is not None:
            content, size = found
            parts, left = [], size
            for number in range(-(-size // CHUNK_BYTES)):
                row = self._reader.execute(
                    "SELECT data FROM blob_chunks WHERE id = ?", (content << CHUNK_BITS | number,)
                ).fetchone()
                if row is None:
                    break
                parts.append(row[0])
                left -= len(row[0])
                await asyncio.sleep(0)
            if left == 0:
                return b"".join(parts)
            # It was replaced or removed while being read: look again.
            await asyncio.sleep(0)
        return None

    async def delete(self, names: Collection[str]) -> None:
        """Forget these; unknown ones are ignored."""
        for name in names:
            await self._transact(lambda transaction, name=name: _unname(transaction, name))  # type: ignore[misc]
        await self.sweep(0)

    def list(self, prefix: str, after: str, limit: int) -> list[BlobInfo]:
        """Return blobs whose names start with `prefix` and come after `after`, in order."""
        rows = self._reader.execute(
            "SELECT name, size, at_ms FROM blobs WHERE name >= ? AND name > ? "
            "AND substr(name, 1, ?) = ? ORDER BY name LIMIT ?",
            (prefix, after, len(prefix), prefix, limit),
        ).fetchall()
        return [BlobInfo(*row) for row in rows]

    async def sweep(self, now_ms: int) -> None:
        """Remove contents that nobody names; unfinished ones only when they are old."""
        rows = self._reader.execute(
            "SELECT id FROM blob_contents WHERE at_ms < ?", (max(now_ms - UNFINISHED_MS, 1),)
        ).fetchall()
        for (content,) in rows:
            while await self._transact(
                lambda transaction, content=content: _sweep(transaction, content)  # type: ignore[misc]
            ):
                pass

    def _find(self, name: str) -> tuple[int, int] | None:
        row = self._reader.execute(
            "SELECT content, size FROM blobs WHERE name = ?", (name,)
        ).fetchone()
        return None if row is None else (row[0], row[1])


def _begin(transaction: Transaction, now_ms: int) -> int:
    db = transaction.db
    # Numbers are never used twice: a reader must not find another blob's chunks half-way.
    row_id = counter(Counter.CONTENT)
    content = transaction.counted(row_id) + 1
    transaction.count(row_id, content)
    db.execute("INSERT INTO blob_contents VALUES (?, ?)", (content, now_ms))
    return content


def _write(transaction: Transaction, row: tuple[int, bytes]) -> None:
    transaction.db.execute("INSERT INTO blob_chunks VALUES (?, ?)", row)


def _name(transaction: Transaction, name: str, content: int, size: int, now_ms: int) -> None:
    _unname(transaction, name)
    db = transaction.db
    db.execute("INSERT INTO blobs VALUES (?, ?, ?, ?)", (name, content, size, now_ms))
    db.execute("DELETE FROM blob_contents WHERE id = ?", (content,))


def _unname(transaction: Transaction, name: str) -> None:
    db = transaction.db
    row = db.execute("SELECT content FROM blobs WHERE name = ?", (name,)).fetchone()
    if row is not None:
        db.execute("DELETE FROM blobs WHERE name = ?", (name,))
        db.execute("INSERT INTO blob_contents VALUES (?, 0)", row)


def _sweep(transaction: Transaction, content: int) -> bool:
    db = transaction.db
    first = content << CHUNK_BITS
    row = db.execute(
        "SELECT id FROM blob_chunks WHERE id >= ? AND id < ? ORDER BY id LIMIT 1 OFFSET ?",
        (first, (content + 1) << CHUNK_BITS, SWEEP_CHUNKS_MAX),
    ).fetchone()
    end = (content + 1) << CHUNK_BITS if row is None else row[0]
    db.execute("DELETE FROM blob_chunks WHERE id >= ? AND id < ?", (first, end))
    if row is None:
        db.execute("DELETE FROM blob_contents WHERE id = ?", (content,))
    return row is not None
