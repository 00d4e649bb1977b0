"""Topics and groups: names to numbers. Neither is ever deleted, so what is known stays true.

A topic's partitions are *streams*: consecutive numbers, from which the log's row ids are made.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass

from holdfast.bus.embedded.commit_thread import Transaction
from holdfast.bus.embedded.store import MAX_STREAM
from holdfast.bus.errors import BusUnavailable, TopicMismatch, TopicMissing
from holdfast.bus.port import Cleanup, TopicPartition, TopicSpec

__all__ = ["Catalog", "Topic", "create_topics", "group_id", "load_topics"]


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it stands in the file."""

    name: str
    partitions: int
    first_stream: int
    cleanup: Cleanup
    retention_ms: int
    retention_bytes: int

    def streams(self) -> range:
        """Return the streams of all its partitions, in order."""
        return range(self.first_stream, self.first_stream + self.partitions)


_COLUMNS = "name, partitions, first_stream, cleanup, retention_ms, retention_bytes"


def load_topics(db: sqlite3.Connection) -> dict[str, Topic]:
    """Return all topics by name."""
    rows = db.execute(f"SELECT {_COLUMNS} FROM topics").fetchall()  # noqa: S608 - a constant
    return {row[0]: Topic(row[0], row[1], row[2], Cleanup(row[3]), row[4], row[5]) for row in rows}


def create_topics(transaction: Transaction, specs: Collection[TopicSpec]) -> None:
    """Create the missing ones; raises `TopicMismatch` before any is created."""
    known = load_topics(transaction.db)
    for spec in specs:
        _check(spec, known.get(spec.name))
    last = max((topic.first_stream + topic.partitions for topic in known.values()), default=1)
    for spec in {spec.name: spec for spec in specs if spec.name not in known}.values():
        if last + spec.partitions > MAX_STREAM:
            raise BusUnavailable(f"no room for topic {spec.name!r}: {MAX_STREAM} partitions in all")
        transaction.db.execute(
            f"INSERT INTO topics({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608
            (
                spec.name,
                spec.partitions,
                last,
                spec.cleanup.value,
                spec.retention_ms,
                spec.retention_bytes,
            ),
        )
        last += spec.partitions


def _check(spec: TopicSpec, found: Topic | None) -> None:
    if spec.partitions < 1:
        raise TopicMismatch(f"topic {spec.name!r} cannot have {spec.partitions} partitions")
    if found is None:
        return
    if found.partitions != spec.partitions:
        raise TopicMismatch(
            f"topic {spec.name!r} has {found.partitions} partitions, not {spec.partitions}; "
            "set the configuration to what it has, or use another namespace"
        )
    if found.cleanup is not spec.cleanup:
        raise TopicMismatch(
            f"topic {spec.name!r} is kept as {found.cleanup.value!r}, not {spec.cleanup.value!r}; "
            "use another name or another namespace"
        )


def group_id(transaction: Transaction, name: str) -> int:
    """Return the number of a group, given at its first mention."""
    db = transaction.db
    db.execute("INSERT OR IGNORE INTO groups(name) VALUES (?)", (name,))
    (found,) = db.execute("SELECT id FROM groups WHERE name = ?", (name,)).fetchone()
    return int(found)


class Catalog:
    """What this process has learned; asks the file only for what it does not know."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._topics: dict[str, Topic] = {}
        self._groups: dict[str, int] = {}

    def known(self, name: str) -> Topic | None:
        """Return a topic without asking the file."""
        return self._topics.get(name)

    def find(self, name: str) -> Topic | None:
        """Return a topic, or None if it does not exist (yet)."""
        if name not in self._topics:
            self._topics = load_topics(self._db)
        return self._topics.get(name)

    def topic(self, name: str) -> Topic:
        """Return a topic; raises `TopicMissing`."""
        found = self.find(name)
        if found is None:
            raise TopicMissing(
                f"topic {name!r} does not exist on this bus; create it: holdfast topics create"
            )
        return found

    def all(self) -> dict[str, Topic]:
        """Return all there are now."""
        self._topics = load_topics(self._db)
        return self._topics

    def stream(self, partition: TopicPartition) -> int:
        """Return the stream of a partition; raises `TopicMissing`."""
        topic = self.topic(partition.topic)
        if not 0 <= partition.partition < topic.partitions:
            raise TopicMissing(
                f"topic {topic.name!r} has partitions 0 to {topic.partitions - 1}, "
                f"there is no {partition.partition}"
            )
        return topic.first_stream + partition.partition

    def group(self, name: str) -> int | None:
        """Return a group's number, or None if nobody has used it yet."""
        if name not in self._groups:
            self._groups = dict(self._db.execute("SELECT name, id FROM groups").fetchall())
        return self._groups.get(name)
