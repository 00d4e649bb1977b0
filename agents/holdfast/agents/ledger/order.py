"""Order keys: tasks of one key are worked one after the other, in the order handed over."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from operator import attrgetter

from holdfast.agents.ledger.entry import Entry, Phase

__all__ = ["NOT_OPEN", "OrderKeys"]

NOT_OPEN = frozenset({Phase.FAILED, Phase.ASLEEP})
"""Tasks of these phases count as open no longer, or not for now."""

_place = attrgetter("order_offset")


class OrderKeys:
    """For each key its tasks, by the offset of their first attempt; only the first may run.

    A task stays first until its last attempt has ended: while it waits for a retry nobody passes.
    """

    def __init__(self) -> None:
        self._queues: dict[str, list[Entry]] = {}
        self._crowded: dict[str, list[Entry]] = {}
        """Those of more than one task: 100,000 may sleep, each with a key to itself."""
        self._held: set[str] = set()
        self._paused: set[str] = set()

    def __len__(self) -> int:
        return len(self._queues)

    def add(self, entry: Entry) -> None:
        """Put `entry` at its place; once only."""
        if entry.order_key is not None:
            queue = self._queues.setdefault(entry.order_key, [])
            insort(queue, entry, key=_place)
            if len(queue) > 1:
                self._crowded[entry.order_key] = queue

    def remove(self, entry: Entry) -> Entry | None:
        """Take `entry` out; return the task that is first now, if that has changed."""
        if entry.order_key is None:
            return None
        queue = self._queues.get(entry.order_key, [])
        index = bisect_left(queue, entry.order_offset, key=_place)
        if index == len(queue) or queue[index] is not entry:
            return None
        del queue[index]
        if len(queue) <= 1:
            self._crowded.pop(entry.order_key, None)
        if not queue:
            del self._queues[entry.order_key]
            return None
        return queue[0] if index == 0 else None

    def open_for(self, entry: Entry) -> bool:
        """Tell whether `entry` may run as far as its order key goes."""
        key = entry.order_key
        if key is None:
            return True
        if key in self._held or key in self._paused:
            return False
        return self._queues[key][0] is entry

    def first(self, key: str) -> Entry | None:
        """Return the task that has the key, or has it next."""
        queue = self._queues.get(key)
        return queue[0] if queue else None

    def hold(self, key: str) -> None:
        """Keep a key closed for all tasks."""
        self._held.add(key)

    def held(self, key: str) -> bool:
        """Tell whether a key is kept closed."""
        return key in self._held

    def let_go(self, key: str) -> Entry | None:
        """Open a key again; return the task whose turn it is now."""
        self._held.discard(key)
        return self.first(key)

    def pause(self, key: str) -> None:
        """Begin no task of a key, until `resume`; what has it keeps it."""
        self._paused.add(key)

    def resume(self, key: str) -> Entry | None:
        """End a pause; return the task whose turn it is."""
        self._paused.discard(key)
        return self.first(key)

    def behind_waiting(self) -> Iterator[Entry]:
        """Yield the tasks that wait for another one's next attempt, or for what wakes it."""
        for queue in self._crowded.values():
            if queue[0].phase in NOT_OPEN:
                yield from queue[1:]
