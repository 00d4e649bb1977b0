"""Following named partitions outside any group."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from holdfast.bus.embedded.tail import Tail
from holdfast.bus.embedded.waiting import NewsDesk, Waiter
from holdfast.bus.port import Received, TopicPartition

__all__ = ["EmbeddedReader"]


class EmbeddedReader:
    """See `holdfast.bus.port.Reader`."""

    def __init__(
        self, tail: Tail, partitions: Collection[TopicPartition], news: NewsDesk, waiter: Waiter
    ) -> None:
        self._tail = tail
        self._partitions = tuple(partitions)
        self._news = news
        self._waiter = waiter

    async def poll(self, timeout_s: float, max_records: int = 500) -> list[Received]:
        """Return committed records, each partition's in order; [] when none came in time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        # With a backlog nothing below ever waits: others must get their turn all the same. It comes
        # first: a caller that is cancelled here must not lose records already taken.
        await asyncio.sleep(0)
        while True:
            self._waiter.look()
            if records := self._tail.take(self._partitions, max_records):
                return records
            remaining_s = deadline - loop.time()
            if remaining_s <= 0:
                return []
            await self._waiter.wait(remaining_s)

    def position(self, partition: TopicPartition) -> int:
        """Return the offset of the next record to be read."""
        found = self._tail.position(partition)
        if found is None:
            raise KeyError(partition)
        return found

    async def close(self) -> None:
        """Let go."""
        self._news.leave(self._waiter)
