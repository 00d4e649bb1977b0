"""Which timers of a slot are armed, and which is due first. The state has them all."""

from __future__ import annotations

import heapq

from holdfast.coordinator.engine import TimerDue

__all__ = ["Timers"]

_SLACK = 1_024
"""Entries of the heap that may be stale before it is built anew."""


class Timers:
    """At most one timer for each record of an entity."""

    def __init__(self) -> None:
        self._armed: dict[tuple[str, str], int] = {}
        self._heap: list[tuple[int, str, str]] = []

    def __len__(self) -> int:
        return len(self._armed)

    def set(self, entity: str, name: str, at_ms: int | None) -> None:
        """Arm the timer of a record, move it, or disarm it (None)."""
        key = (entity, name)
        if at_ms is None:
            self._armed.pop(key, None)
        elif self._armed.get(key) != at_ms:
            self._armed[key] = at_ms
            heapq.heappush(self._heap, (at_ms, entity, name))
        if len(self._heap) > 2 * len(self._armed) + _SLACK:
            self._heap = [(at, entity, name) for (entity, name), at in self._armed.items()]
            heapq.heapify(self._heap)

    def pop_due(self, now_ms: int) -> list[TimerDue]:
        """Disarm and return those whose time has come, in order of time."""
        due = []
        while (at_ms := self.next_ms()) is not None and at_ms <= now_ms:
            _, entity, name = heapq.heappop(self._heap)
            del self._armed[entity, name]
            due.append(TimerDue(entity, name))
        return due

    def next_ms(self) -> int | None:
        """Return when the first one is due, or None."""
        while self._heap:
            at_ms, entity, name = self._heap[0]
            if self._armed.get((entity, name)) == at_ms:
                return at_ms
            heapq.heappop(self._heap)
        return None
