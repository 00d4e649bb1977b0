"""Inputs that wait to be taken, in lanes: one lane's inputs are taken in the order they came.

A lane is a record key of the coordinator's topic: a run's id, or an order key that many runs
share. While an input of a lane waits for a blob or a schema the whole lane waits behind it, and
no other does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from holdfast.coordinator.batch import Pending

__all__ = ["Lanes"]


class Lanes:
    """A queue whose blocked lanes step aside."""

    def __init__(self) -> None:
        self._queue: deque[Pending] = deque()
        self._blocked: dict[str, deque[Pending]] = {}

    def __len__(self) -> int:
        """How many can be taken now."""
        return len(self._queue)

    def parked(self) -> int:
        """Return how many stand in blocked lanes."""
        return sum(map(len, self._blocked.values()))

    def waiting(self) -> Iterator[Pending]:
        """Yield those that stand in blocked lanes; nothing may be added meanwhile."""
        for lane in self._blocked.values():
            yield from lane

    def append(self, pending: Pending) -> None:
        """Add an input behind all others of its lane."""
        self._blocked.get(pending.lane, self._queue).append(pending)

    def pop(self) -> Pending | None:
        """Take the next input whose lane is free."""
        while self._queue:
            pending = self._queue.popleft()
            blocked = self._blocked.get(pending.lane)
            if blocked is None:
                return pending
            blocked.append(pending)
        return None

    def block(self, pending: Pending) -> None:
        """Put an input that was just taken back, and its lane aside."""
        self._blocked[pending.lane] = deque([pending])

    def free(self, lane: str) -> None:
        """Let a blocked lane go on, before all that came since."""
        self._queue.extendleft(reversed(self._blocked.pop(lane, deque())))
