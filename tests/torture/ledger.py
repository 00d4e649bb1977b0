"""The world outside: a ledger that honours idempotency keys, and notes each request.

An SQLite file of its own, beside whatever bus is under torture.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from holdfast.testing import EffectSeen, EvidenceFile

__all__ = ["Ledger"]

BUSY_MS = 20_000
EVIDENCE = "ledger.jsonl"


class Ledger:
    """Payments by idempotency key; a repeated key pays nothing and gets the first receipt.

    `purpose` names what is paid for: two keys for one purpose are a key that did not hold.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "ledger.db"

    def create(self) -> None:
        """Make the file; once, before anyone pays."""
        with closing(self._connect()) as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute(
                "CREATE TABLE payments(key TEXT PRIMARY KEY, purpose TEXT NOT NULL, "
                "amount INTEGER NOT NULL)"
            )

    def pay(self, key: str, purpose: str, amount: int) -> str:
        """Take a payment; return its receipt. Raises `ValueError` for a key with another amount."""
        with closing(self._connect()) as db:
            done = db.execute(
                "INSERT INTO payments VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (key, purpose, amount),
            ).rowcount
            kept = db.execute("SELECT amount FROM payments WHERE key = ?", (key,)).fetchone()[0]
        file = EvidenceFile(self._folder / EVIDENCE)
        file.add(EffectSeen(key, "applied" if done else "repeated"))
        file.close()
        if kept != amount:
            raise ValueError(f"key {key} has paid {kept}, is now asked for {amount}")
        return key[:8]

    def paid_twice(self) -> list[str]:
        """Return the purposes that were paid for more than once, under different keys."""
        with closing(self._connect()) as db:
            found = db.execute(
                "SELECT purpose, count(*) FROM payments GROUP BY purpose HAVING count(*) > 1"
            ).fetchall()
        return [f"{purpose} was paid {count} times" for purpose, count in found]

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, timeout=BUSY_MS / 1000)
        db.execute("PRAGMA synchronous=OFF")
        return db
