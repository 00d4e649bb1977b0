"""What a slot keeps under its order keys: values by name, and deletions that wait their turn.

A value changes in the commit that closes an attempt with success, and in that of a deletion. Both
find the key closed: a task has it to itself until its last attempt has ended, and a deletion takes
its turn between two tasks. So what a handler reads is the same in each execution of its task.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial

from holdfast.agents.ledger.drafts import Draft, Outbox, Write
from holdfast.agents.ledger.entry import Entry
from holdfast.agents.ledger.order import OrderKeys
from holdfast.schemas import Undecodable, decode
from holdfast.schemas.records import AgentJournal, StateDeletion, StateEntry
from holdfast.schemas.state_keys import (
    deletion_key,
    deletion_number,
    parse_state_key,
    state_key,
)

__all__ = ["STATE_SLOT_BYTES_MAX", "KeyedState"]

STATE_SLOT_BYTES_MAX = 128 * 1024 * 1024
"""Of all values of a slot with their keys: they stand in its memory. What the tasks add that are at
work at the same time may come on top."""


class _Folded:
    """A value of which so far only the journal record was read; to decode it takes microseconds,
    and a slot with a million of them is to work before that."""

    __slots__ = ("record",)

    def __init__(self, record: bytes) -> None:
        self.record = record

    def __len__(self) -> int:
        return len(self.record)

    def unfold(self) -> bytes:
        """Return the value. Raises `Undecodable` for a journal that this build cannot read."""
        body = decode(AgentJournal, self.record).body
        if not isinstance(body, StateEntry):
            raise Undecodable(f"a {type(body).__name__} under the journal key of a state")
        return body.value


@dataclass(frozen=True, slots=True)
class _Waiting:
    number: int
    deletion: StateDeletion
    journaled: bool


class KeyedState:
    """The state of one slot. `consider` lines a task up whose key is open again."""

    def __init__(self, order: OrderKeys, outbox: Outbox, consider: Callable[[Entry], None]) -> None:
        self._order = order
        self._outbox = outbox
        self._consider = consider
        self._kept: dict[str, dict[str, bytes | _Folded]] = {}
        self._waiting: dict[str, deque[_Waiting]] = {}
        self._behind: dict[str, Entry] = {}
        """The task that a key's first deletion waits for."""
        self.values = 0
        """How many values are kept."""
        self.size_bytes = 0
        """How many bytes they have, with their keys."""

    # --- restoring -----------------------------------------------------------------------------

    def restore(self, key: str, record: bytes | None) -> None:
        """Take one record of the journal whose key begins with a slash.

        Raises `Undecodable` for one that this build cannot read.
        """
        place = parse_state_key(key)
        if place is not None:
            self._set(*place, None if record is None else _Folded(record))
            return
        number = deletion_number(key)
        if number is None:
            return
        if record is None:
            self._unrestore(number)
            return
        body = decode(AgentJournal, record).body
        if not isinstance(body, StateDeletion):
            raise Undecodable(f"a {type(body).__name__} under the journal key of a deletion")
        self._waiting.setdefault(body.order_key, deque()).append(_Waiting(number, body, True))

    def _unrestore(self, number: int) -> None:
        for order_key, waiting in list(self._waiting.items()):
            kept = deque(each for each in waiting if each.number != number)
            if kept:
                self._waiting[order_key] = kept
            else:
                del self._waiting[order_key]

    def opened(self) -> None:
        """The journal is read, and the tasks of all order keys are known."""
        for order_key, waiting in self._waiting.items():
            self._waiting[order_key] = deque(sorted(waiting, key=lambda each: each.number))
            first = self._order.first(order_key)
            if first is None:
                self._begin(order_key)
            else:
                self._behind[order_key] = first

    # --- values --------------------------------------------------------------------------------

    def read(self, order_key: str, name: str) -> bytes | None:
        """Return a committed value, framed; raises `Undecodable` for a damaged journal."""
        held = self._kept.get(order_key, {}).get(name)
        return held.unfold() if isinstance(held, _Folded) else held

    def names(self, order_key: str) -> Collection[str]:
        """Return the names under which something is kept."""
        return self._kept.get(order_key, {}).keys()

    def writes(self, entry: Entry, changes: Mapping[str, bytes | None], now_ms: int) -> list[Write]:
        """Return what the commit of a success writes; None in `changes` deletes."""
        order_key = entry.order_key
        if order_key is None:
            assert not changes, f"{entry.name} has no order key"
            return []
        kept = self.names(order_key)
        return [
            (
                state_key(order_key, name),
                None if data is None else StateEntry(data, entry.name, entry.attempt, now_ms),
            )
            for name, data in changes.items()
            if data is not None or name in kept
        ]

    def apply(self, order_key: str, changes: Mapping[str, bytes | None]) -> None:
        """The commit is acknowledged."""
        for name, data in changes.items():
            self._set(order_key, name, data)

    def _set(self, order_key: str, name: str, data: bytes | _Folded | None) -> None:
        kept = self._kept.setdefault(order_key, {})
        old = kept.pop(name, None)
        around = len(order_key) + len(name)
        if old is not None:
            self.values -= 1
            self.size_bytes -= around + len(old)
        if data is not None:
            kept[name] = data
            self.values += 1
            self.size_bytes += around + len(data)
        if not kept:
            del self._kept[order_key]

    # --- deletions -----------------------------------------------------------------------------

    def delete(self, deletion: StateDeletion, number: int) -> None:
        """Take a deletion whose control record the next commit passes: carried out by that commit,
        or kept by it until the task has ended that has the order key."""
        order_key = deletion.order_key
        first = self._order.first(order_key)
        at_once = first is None and order_key not in self._waiting
        waiting = self._waiting.setdefault(order_key, deque())
        waiting.append(_Waiting(number, deletion, not at_once))
        if at_once:
            self._begin(order_key)
            return
        self._outbox.put([(deletion_key(number), deletion)])
        if first is not None:
            self._behind.setdefault(order_key, first)

    def passed(self, order_key: str) -> None:
        """A task has left the key: perhaps a deletion comes before the next one."""
        if order_key in self._waiting and not self._order.held(order_key):
            first = self._order.first(order_key)
            if first is None or first is not self._behind.get(order_key):
                self._begin(order_key)

    def _begin(self, order_key: str) -> None:
        """Draft the first deletion of a key, which stays closed until that is acknowledged: a
        task that began before would read what is about to go, and write it again."""
        self._order.hold(order_key)
        self._behind.pop(order_key, None)
        waiting = self._waiting[order_key][0]
        kept, name = self.names(order_key), waiting.deletion.name
        names = sorted(kept) if name is None else [name] if name in kept else []
        writes: list[Write] = [(state_key(order_key, each), None) for each in names]
        if waiting.journaled:
            writes.append((deletion_key(waiting.number), None))
        done = replace(waiting.deletion, deleted=names)
        self._outbox.add(
            Draft(partial(self._deleted, order_key, names), _never, writes, deleted=done)
        )

    def _deleted(self, order_key: str, names: Collection[str]) -> None:
        for name in names:
            self._set(order_key, name, None)
        waiting = self._waiting[order_key]
        waiting.popleft()
        if waiting:
            self._begin(order_key)
            return
        del self._waiting[order_key]
        first = self._order.let_go(order_key)
        if first is not None:
            self._consider(first)


def _never(reason: str) -> Draft:
    raise RuntimeError(f"the bus refuses a deletion of a few hundred bytes: {reason}")
