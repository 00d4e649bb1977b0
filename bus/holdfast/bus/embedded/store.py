"""The file: its schema, its keys, and how a connection to it is opened.

Nothing but SQLite may ever open the file, its `-wal` or its `-shm`: POSIX drops all of a process's
locks on a file when *any* of its descriptors is closed, and SQLite would not notice.
"""

from __future__ import annotations

import logging
import sqlite3
import sys
from enum import IntEnum
from pathlib import Path

from holdfast.bus.embedded.settings import Synchronous
from holdfast.bus.errors import BusUnavailable

__all__ = [
    "MAX_OFFSET",
    "MAX_STREAM",
    "Counter",
    "connect_reader",
    "connect_writer",
    "counter",
    "create_schema",
    "log_id",
    "log_version",
    "lower_switch_interval",
    "placeholders",
    "split_log_id",
]

log = logging.getLogger("holdfast.bus.embedded")

OFFSET_BITS = 40
MAX_OFFSET = 1 << OFFSET_BITS
MAX_STREAM = 1 << 22
"""Stream and offset share a signed 64-bit row id."""
_OFFSET_MASK = MAX_OFFSET - 1

APPLICATION_ID = 0x486C6466
FORMAT = 1
"""`PRAGMA user_version`: raised by every change of the schema."""
WAL_AUTOCHECKPOINT_PAGES = 1000
SAFE_SQLITE = (3, 51, 3)
"""From here on a commit that meets a checkpoint of another process is safe by SQLite itself."""
SWITCH_INTERVAL_S = 0.0005
WRITER_BUSY_S = 5.0
READER_BUSY_S = 0.05
"""Readers meet a busy file only for moments (recovery, the last closing); they run on the loop."""

_SCHEMA = """
CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, partitions INTEGER NOT NULL,
    first_stream INTEGER NOT NULL, cleanup TEXT NOT NULL, retention_ms INTEGER NOT NULL,
    retention_bytes INTEGER NOT NULL);
CREATE TABLE groups(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE counters(id INTEGER PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE log(id INTEGER PRIMARY KEY, key BLOB, value BLOB, headers BLOB,
    at_ms INTEGER NOT NULL, upto INTEGER NOT NULL);
CREATE TABLE newest(stream INTEGER NOT NULL, key BLOB NOT NULL, id INTEGER NOT NULL,
    PRIMARY KEY(stream, key)) WITHOUT ROWID;
CREATE TABLE tombstones(id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL);
CREATE TABLE listeners(socket TEXT NOT NULL, interest INTEGER NOT NULL,
    PRIMARY KEY(socket, interest)) WITHOUT ROWID;
CREATE TABLE members(grp INTEGER NOT NULL, name TEXT NOT NULL, incarnation TEXT NOT NULL,
    partitions INTEGER NOT NULL, session_s REAL NOT NULL, PRIMARY KEY(grp, name)) WITHOUT ROWID;
CREATE TABLE shares(grp INTEGER NOT NULL, partition INTEGER NOT NULL, owner TEXT, heir TEXT,
    home TEXT, since_ns INTEGER NOT NULL, PRIMARY KEY(grp, partition)) WITHOUT ROWID;
CREATE TABLE blobs(name TEXT PRIMARY KEY, content INTEGER NOT NULL, size INTEGER NOT NULL,
    at_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE blob_contents(id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL);
CREATE TABLE blob_chunks(id INTEGER PRIMARY KEY, data BLOB NOT NULL);
"""


class Counter(IntEnum):
    """What a row of `counters` counts. They stand in one small table so that a commit, which
    checks an epoch and moves heads and offsets, reads and writes one page."""

    HEAD = 1
    """Of a stream: the offset of the next record."""
    BEGIN = 2
    """Of a stream: its first offset; smaller ones were purged."""
    BYTES = 3
    """Of a stream: all bytes ever written to it."""
    CLEAN = 4
    """Of a compacted stream: below this offset each key stands once."""
    EPOCH = 5
    """Of a group and partition: the slot's newest writer."""
    CONSUMED = 6
    """Of a group and stream: the next offset to be read."""
    GENERATION = 7
    """Of a group: raised by each change of its members or their shares."""
    UPKEEP = 8
    """When the file was last tidied (ms)."""
    CONTENT = 9
    """The newest number of a blob's content."""


def counter(kind: Counter, first: int = 0, second: int = 0) -> int:
    """Return the row id of a counter: kind, then a stream or group, then a partition or stream."""
    # `int`: the operators of an IntEnum are ten times slower, and this is on every commit's way.
    return int(kind) << 56 | first << 24 | second


def log_id(stream: int, offset: int) -> int:
    """Return the row id of a record."""
    return stream << OFFSET_BITS | offset


def split_log_id(row_id: int) -> tuple[int, int]:
    """Return (stream, offset)."""
    return row_id >> OFFSET_BITS, row_id & _OFFSET_MASK


def placeholders(count: int) -> str:
    """Return `?,?,…`."""
    return ",".join("?" * count)


def connect_writer(path: Path, synchronous: Synchronous) -> sqlite3.Connection:
    """Open the one writing connection of this process. The caller holds the commit queue: opening
    may recover the WAL, and creates the schema."""
    connection = _connect(path, WRITER_BUSY_S)
    try:
        connection.execute("PRAGMA journal_mode=WAL").fetchall()
        connection.execute(f"PRAGMA synchronous={synchronous.value}")
        connection.execute(f"PRAGMA wal_autocheckpoint={WAL_AUTOCHECKPOINT_PAGES}").fetchall()
        create_schema(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """Open a connection that never writes, and so never checkpoints."""
    connection = _connect(path, READER_BUSY_S)
    connection.execute("PRAGMA query_only=ON")
    connection.execute("PRAGMA wal_autocheckpoint=0").fetchall()
    return connection


def _connect(path: Path, busy_s: float) -> sqlite3.Connection:
    # isolation_level None: the module's own idea of when a transaction begins would leave one open.
    return sqlite3.connect(path, timeout=busy_s, isolation_level=None, cached_statements=256)


def create_schema(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables of a new file; refuse one that is not ours or is of another format."""
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    (owner,) = connection.execute("PRAGMA application_id").fetchone()
    if owner == APPLICATION_ID and found == FORMAT:
        return
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables:
        raise BusUnavailable(
            f"{path} is not a Holdfast bus of format {FORMAT} (found application "
            f"{owner:#x}, format {found}); name another file, or remove it to start anew"
        )
    connection.executescript(
        f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA application_id={APPLICATION_ID}; "
        f"PRAGMA user_version={FORMAT}; COMMIT;"
    )


def log_version() -> None:
    """Say which SQLite it is: the first question about any damaged file."""
    log.info(
        "SQLite %s%s",
        sqlite3.sqlite_version,
        "" if sqlite3.sqlite_version_info >= SAFE_SQLITE else " (checkpoints kept under the lock)",
    )


def lower_switch_interval() -> None:
    """At Python's default (5 ms) a busy event loop starves the commit thread without end."""
    if sys.getswitchinterval() > SWITCH_INTERVAL_S:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
