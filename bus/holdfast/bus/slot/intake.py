"""Which records of a slot's topics have been dealt with, and so how far its offsets may move.

Records are read in order and finished in any order; the offset of a topic moves past the longest
run of finished ones. Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

__all__ = ["Intake"]


class Intake:
    """The records that were read and not yet committed as consumed, per topic."""

    def __init__(self, positions: Mapping[str, int]) -> None:
        self._next = dict(positions)
        self._open: dict[str, deque[int]] = {topic: deque() for topic in positions}
        self._finished: dict[str, set[int]] = {topic: set() for topic in positions}

    def read(self, topic: str, offset: int) -> bool:
        """Note that `offset` was handed to the machine; False if it had been before.

        A subscription that was assigned again seeks back to the first record that is still open,
        so records arrive a second time while the first copy is being worked.
        """
        queue = self._open[topic]
        if offset < self._next[topic] or (queue and offset <= queue[-1]):
            return False
        queue.append(offset)
        return True

    def finish(self, topic: str, offset: int) -> None:
        """Note that what became of this record stands in the commit being collected, or before."""
        self._finished[topic].add(offset)

    def advance(self) -> dict[str, int]:
        """Move over all that is finished; return topic to the next offset to be read."""
        for topic, queue in self._open.items():
            finished = self._finished[topic]
            while queue and queue[0] in finished:
                offset = queue.popleft()
                finished.discard(offset)
                self._next[topic] = offset + 1
        return dict(self._next)

    def open_before(self, topic: str, offset: int) -> list[int]:
        """Return the offsets of this topic that were read, are not finished, and lie before."""
        finished = self._finished[topic]
        found = []
        for candidate in self._open[topic]:
            if candidate >= offset:
                break
            if candidate not in finished:
                found.append(candidate)
        return found

    def waiting(self, topic: str) -> int:
        """Return how many records of this topic were read and are not yet passed."""
        return len(self._open[topic])
