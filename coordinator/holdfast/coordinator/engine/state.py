"""What a slot of the coordinator holds, and the overlays on which events are tried.

State is a mapping from journal keys to values, nothing else: what was journaled *is* the state, and
to restore is to read it again. All that is counted (`Overlay.count`) is derived from the values.

    State           what is committed
      ^ Overlay     what a batch of events adds; applied when its commit is acknowledged
          ^ Overlay what one event adds; thrown away if the event cannot be taken

An entity's records stand under `<kind>/<id>` (its own) and `<kind>/<id>/<name>` (its parts);
`name` is the part of the key that an `Overlay` knows it by, "" for the entity's own record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from holdfast.schemas.codec import encode
from holdfast.schemas.records import (
    CoordinatorJournal,
    ListChunk,
    Marker,
    RunEntry,
    TaskEntry,
    TaskState,
)

__all__ = ["CLOSED_KIND", "Entity", "Overlay", "State", "Value", "closed_key", "group_of"]

Value: TypeAlias = RunEntry | TaskEntry | ListChunk | Marker
Tally: TypeAlias = dict[tuple[str, TaskState], int]

CLOSED_KIND = "closed"
_MARKER_BYTES = 16


def closed_key(run_id: str) -> str:
    """Return the name of a closed run's marker: half of its id's SHA-256 (ids may be long)."""
    return hashlib.sha256(run_id.encode()).hexdigest()[: _MARKER_BYTES * 2]


def group_of(name: str) -> str:
    """Return what a task is counted under: "" for a task of the plan, the map's id for an item."""
    head, dot, _ = name.partition(".")
    return head if dot else ""


class Entity:
    """The committed records of one entity, and how many of its tasks are in which state."""

    __slots__ = ("records", "tally")

    def __init__(self) -> None:
        self.records: dict[str, Value] = {}
        self.tally: Tally = {}

    def get(self, name: str) -> Value | None:
        """Return a record, or None."""
        return self.records.get(name)

    def count(self, group: str, state: TaskState) -> int:
        """Return how many tasks of `group` (see `group_of`) are in `state`."""
        return self.tally.get((group, state), 0)

    def names(self) -> Iterator[str]:
        """Yield the names of all records."""
        return iter(self.records)


class Overlay:
    """Changes to one entity on top of `below`, which stays as it is."""

    __slots__ = ("below", "changes", "tally")

    def __init__(self, below: Entity | Overlay) -> None:
        self.below = below
        self.changes: dict[str, Value | None] = {}
        self.tally: Tally = {}

    def get(self, name: str) -> Value | None:
        """Return a record as it is with the changes, or None."""
        if name in self.changes:
            return self.changes[name]
        return self.below.get(name)

    def put(self, name: str, value: Value | None) -> None:
        """Set a record, or remove it (None)."""
        before = self.get(name)
        if isinstance(before, TaskEntry):
            self._add(name, before.row.state, -1)
        if isinstance(value, TaskEntry):
            self._add(name, value.row.state, 1)
        self.changes[name] = value

    def _add(self, name: str, state: TaskState, by: int) -> None:
        key = (group_of(name), state)
        self.tally[key] = self.tally.get(key, 0) + by

    def count(self, group: str, state: TaskState) -> int:
        """Return how many tasks of `group` (see `group_of`) are in `state`."""
        return self.tally.get((group, state), 0) + self.below.count(group, state)

    def names(self) -> Iterator[str]:
        """Yield the names of all records that are there; nothing may be put meanwhile.

        In no order that means anything: a restored state has another. Who decides by it sorts.
        """
        for name in self.below.names():
            if name not in self.changes:
                yield name
        for name, value in self.changes.items():
            if value is not None:
                yield name

    def absorb(self, above: Overlay) -> None:
        """Take over the changes of an overlay that stood on this one."""
        self.changes.update(above.changes)
        for key, by in above.tally.items():
            self.tally[key] = self.tally.get(key, 0) + by


class State:
    """Everything one slot has committed."""

    def __init__(self) -> None:
        self.entities: dict[str, Entity] = {}
        self.closed: dict[str, Marker] = {}
        """Markers of closed runs by `closed_key`, the oldest first."""

    def entity(self, key: str) -> Entity:
        """Return an entity; an empty one that is not kept if there is none."""
        return self.entities.get(key) or Entity()

    def restore(self, key: str, value: Value | None) -> None:
        """Take one record of the journal, in its order."""
        kind, _, rest = key.partition("/")
        if kind == CLOSED_KIND:
            self.apply_markers({rest: value if isinstance(value, Marker) else None})
            return
        entity_id, _, name = rest.partition("/")
        overlay = Overlay(self.entity(f"{kind}/{entity_id}"))
        overlay.put(name, value)
        self.apply(f"{kind}/{entity_id}", overlay)

    def apply(self, key: str, overlay: Overlay) -> None:
        """Make an overlay's changes part of the state; an entity without records is forgotten."""
        entity = self.entities.get(key)
        if entity is None:
            entity = self.entities[key] = Entity()
        for name, value in overlay.changes.items():
            if value is None:
                entity.records.pop(name, None)
            else:
                entity.records[name] = value
        for counted, by in overlay.tally.items():
            now = entity.tally.get(counted, 0) + by
            if now:
                entity.tally[counted] = now
            else:
                entity.tally.pop(counted, None)
        if not entity.records:
            del self.entities[key]

    def apply_markers(self, markers: dict[str, Marker | None]) -> None:
        """Take over markers; a marker that is written again becomes the newest."""
        for name, marker in markers.items():
            self.closed.pop(name, None)
            if marker is not None:
                self.closed[name] = marker

    def journal(self) -> Iterable[tuple[str, Value]]:
        """Yield every key with its value."""
        for key, entity in self.entities.items():
            for name, value in entity.records.items():
                yield (f"{key}/{name}" if name else key), value
        for name, marker in self.closed.items():
            yield f"{CLOSED_KIND}/{name}", marker

    def digest(self) -> str:
        """Return a hash over all keys and values, whatever their order."""
        total = hashlib.sha256()
        for key, value in sorted(self.journal(), key=lambda item: item[0]):
            total.update(key.encode() + b"\0" + encode(CoordinatorJournal(value)))
        return total.hexdigest()
