"""What a slot of the coordinator holds, and the overlays on which events are tried.

State is a mapping from journal keys to values, nothing else: what was journaled *is* the state, and
to restore is to read it again. All that is counted (`Overlay.count`) is derived from the values.
What is read again stays folded, as the bytes that stand in the journal, until it is first asked
for: to decode 100,000 values takes seconds, and a slot is to work before that.

    State           what is committed
      ^ Overlay     what a batch of events adds; applied when its commit is acknowledged
          ^ Overlay what one event adds; thrown away if the event cannot be taken

An entity's records stand under `<kind>/<id>` (its own) and `<kind>/<id>/<name>` (its parts);
`name` is the part of the key that an `Overlay` knows it by, "" for the entity's own record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator

from holdfast.coordinator.engine.counting import (
    KINDS,
    LISTED,
    SCHEDULES,
    Tally,
    Value,
    counted,
    listed,
)
from holdfast.coordinator.engine.members import Members
from holdfast.schemas.codec import decode, encode
from holdfast.schemas.plan_settings import UNDOING
from holdfast.schemas.records import (
    AskEntry,
    AskKind,
    CoordinatorJournal,
    Marker,
    Parked,
    ScheduleEntry,
    ScheduleState,
    TaskEntry,
    TaskState,
)

__all__ = ["CLOSED_KIND", "Closed", "Entity", "Overlay", "State", "closed_key"]

CLOSED_KIND = "closed"
_STUCK = (UNDOING, TaskState.DEAD)
_RUN = "run/"
_MARKER_BYTES = 16


def closed_key(run_id: str) -> str:
    """Return the name of a closed run's marker: half of its id's SHA-256 (ids may be long)."""
    return hashlib.sha256(run_id.encode()).hexdigest()[: _MARKER_BYTES * 2]


class Entity:
    """The committed records of one entity, and how many of its tasks are in which state.

    `folded`: records as they stand in the journal; nothing may be asked for before `unfold`.
    """

    __slots__ = ("folded", "groups", "records", "tally")

    def __init__(self) -> None:
        self.folded: dict[str, bytes] = {}
        self.records: dict[str, Value] = {}
        self.tally: Tally = {}
        self.groups = Members()

    def unfold(self, unfolded: Callable[[Value], None]) -> None:
        """Decode what is folded. Raises `Undecodable`; then all of it stays as it was."""
        values = {name: _decoded(data) for name, data in self.folded.items()}
        self.folded = {}
        for name, value in values.items():
            self.records[name] = value
            self.groups.move(name, (), listed(name, value))
            unfolded(value)
            for key in counted(name, value):
                self.tally[key] = self.tally.get(key, 0) + 1

    def get(self, name: str) -> Value | None:
        """Return a record, or None."""
        return self.records.get(name)

    def count(self, group: str, what: str) -> int:
        """Return how many values of `group` are counted as `what`; see `counted`."""
        return self.tally.get((group, what), 0)

    def members(self, group: str, what: str) -> Iterable[tuple[str, int]]:
        """Return the names in a group, with what orders them; see `listed`."""
        return self.groups.of(group, what)

    def set(self, name: str, value: Value | None) -> None:
        """Set a record, or remove it (None); who does it keeps the tally."""
        before = self.records.get(name)
        if isinstance(value, LISTED) or isinstance(before, LISTED):
            self.groups.move(name, listed(name, before), listed(name, value))
        if value is None:
            self.records.pop(name, None)
        else:
            self.records[name] = value

    def names(self) -> Iterator[str]:
        """Yield the names of all records."""
        return iter(self.records)


class Overlay:
    """Changes to one entity on top of `below`, which stays as it is."""

    __slots__ = ("below", "changes", "groups", "tally")

    def __init__(self, below: Entity | Overlay) -> None:
        self.below = below
        self.changes: dict[str, Value | None] = {}
        self.tally: Tally = {}
        self.groups = Members()
        """Of what is in `changes`."""

    def get(self, name: str) -> Value | None:
        """Return a record as it is with the changes, or None."""
        if name in self.changes:
            return self.changes[name]
        return self.below.get(name)

    def put(self, name: str, value: Value | None) -> None:
        """Set a record, or remove it (None)."""
        for key in counted(name, self.get(name)):
            self.tally[key] = self.tally.get(key, 0) - 1
        for key in counted(name, value):
            self.tally[key] = self.tally.get(key, 0) + 1
        self._set(name, value)

    def _set(self, name: str, value: Value | None) -> None:
        before = self.changes.get(name)
        if isinstance(value, LISTED) or isinstance(
            before, LISTED
        ):  # seldom, and this is done often
            self.groups.move(name, listed(name, before), listed(name, value))
        self.changes[name] = value

    def clear(self) -> None:
        """Take back all changes."""
        self.changes.clear()
        self.tally.clear()
        self.groups.clear()

    def count(self, group: str, what: str) -> int:
        """Return how many values of `group` are counted as `what`; see `counted`."""
        return self.tally.get((group, what), 0) + self.below.count(group, what)

    def members(self, group: str, what: str) -> Iterator[tuple[str, int]]:
        """Yield the names in a group that is `listed`, with what orders them; like `names`, but
        without a look at all others."""
        for name, order in self.below.members(group, what):
            if name not in self.changes:
                yield name, order
        yield from self.groups.of(group, what)

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
        for name, value in above.changes.items():
            self._set(name, value)
        for key, by in above.tally.items():
            self.tally[key] = self.tally.get(key, 0) + by


class Closed:
    """Markers of closed runs by `closed_key`, those written last at the end."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: dict[str, Marker | bytes] = {}

    def __len__(self) -> int:
        return len(self._held)

    def get(self, name: str) -> Marker | None:
        """Return a marker, or None. Raises `Undecodable` for a damaged one."""
        held = self._held.get(name)
        if isinstance(held, bytes):
            held = self._held[name] = _decoded_marker(held)
        return held

    def oldest(self) -> Marker | None:
        """Return the oldest one, or None."""
        name = next(iter(self._held), None)
        return None if name is None else self.get(name)

    def items(self) -> Iterator[tuple[str, Marker]]:
        """Yield all of them, the oldest first; nothing may be put meanwhile."""
        for name, held in self._held.items():
            # Not kept: whoever goes over all of them needs each only once.
            yield name, _decoded_marker(held) if isinstance(held, bytes) else held

    def put(self, name: str, marker: Marker | bytes | None) -> None:
        """Take over a marker, also as it stands in the journal, or remove it (None).

        One that is written again becomes the newest.
        """
        self._held.pop(name, None)
        if marker is not None:
            self._held[name] = marker


class State:
    """Everything one slot has committed. `share` is told each value that was folded."""

    def __init__(self, share: Callable[[Value], None] = lambda _: None) -> None:
        self._share = share
        self.entities: dict[str, Entity] = {}
        """To be asked for by `entity`, but for which there are."""
        self.closed = Closed()
        self.unfolded = 0
        """How many records of entities were decoded so far: what it cost to ask."""
        self.open_asks: dict[str, int] = dict.fromkeys(AskKind, 0)
        """By kind, how many there are; those that are still folded are not known yet."""
        self.schedules: dict[str, int] = dict.fromkeys(ScheduleState, 0)
        """The same, by state."""
        self.stuck = 0
        """How many tasks that undo others wait for a person; the same."""
        self.runs = 0
        """How many of the entities are runs."""

    def entity(self, key: str) -> Entity:
        """Return an entity; an empty one that is not kept if there is none.

        Raises `Undecodable` where the journal is damaged.
        """
        held = self.entities.get(key)
        if held is None:
            return Entity()
        if held.folded:
            self.unfolded += len(held.folded)
            held.unfold(self._unfold)
        return held

    def _add(self, key: str) -> Entity:
        self.runs += key.startswith(_RUN)
        entity = self.entities[key] = Entity()
        return entity

    def _remove(self, key: str) -> None:
        self.runs -= key.startswith(_RUN)
        del self.entities[key]

    def _unfold(self, value: Value) -> None:
        if isinstance(value, AskEntry):
            self.open_asks[value.kind] += 1
        elif isinstance(value, ScheduleEntry):
            self.schedules[value.row.state] += 1
        elif isinstance(value, TaskEntry) and value.row.state is TaskState.DEAD:
            self.stuck += value.row.task_id.startswith(UNDOING)
        self._share(value)

    def restore(self, key: str, data: bytes | None) -> None:
        """Take one record of the journal, in its order, before anything is asked for."""
        kind, _, rest = key.partition("/")
        if kind == CLOSED_KIND:
            self.closed.put(rest, data)
            return
        entity_id, _, name = rest.partition("/")
        key = f"{kind}/{entity_id}"
        entity = self.entities.get(key)
        if data is not None:
            if entity is None:
                entity = self._add(key)
            entity.folded[name] = data
        elif entity is not None:
            entity.folded.pop(name, None)
            if not entity.folded:
                self._remove(key)

    def apply(self, key: str, overlay: Overlay) -> None:
        """Make an overlay's changes part of the state; an entity without records is forgotten."""
        entity = self.entities.get(key)
        if entity is None:
            entity = self._add(key)
        for name, value in overlay.changes.items():
            entity.set(name, value)
        for key_counted, by in overlay.tally.items():
            if key_counted[0] == KINDS:
                self.open_asks[key_counted[1]] += by
            elif key_counted[0] == SCHEDULES:
                self.schedules[key_counted[1]] += by
            elif key_counted == _STUCK:
                self.stuck += by
            now = entity.tally.get(key_counted, 0) + by
            if now:
                entity.tally[key_counted] = now
            else:
                entity.tally.pop(key_counted, None)
        if not entity.records:
            self._remove(key)

    def apply_markers(self, markers: dict[str, Marker | None]) -> None:
        """Take over markers."""
        for name, marker in markers.items():
            self.closed.put(name, marker)

    def journal(self) -> Iterable[tuple[str, Value]]:
        """Yield every key with its value."""
        for key in self.entities:
            for name, value in self.entity(key).records.items():
                yield (f"{key}/{name}" if name else key), value
        for name, marker in self.closed.items():
            yield f"{CLOSED_KIND}/{name}", marker

    def digest(self) -> str:
        """Return a hash over all keys and values, whatever their order."""
        total = hashlib.sha256()
        for key, value in sorted(self.journal(), key=lambda item: item[0]):
            total.update(key.encode() + b"\0" + encode(CoordinatorJournal(value)))
        return total.hexdigest()


def _decoded(data: bytes) -> Value:
    body = decode(CoordinatorJournal, data).body
    assert not isinstance(body, Parked), "a parked record under another's key"
    return body


def _decoded_marker(data: bytes) -> Marker:
    body = _decoded(data)
    assert isinstance(body, Marker), f"a {type(body).__name__} under a marker's key"
    return body
