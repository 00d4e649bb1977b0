"""A member of a group as contract tests use one: joined, polled in the background, recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from holdfast.bus.port import Bus, Received, Subscription, TopicPartition
from tests.contract.kit import PATIENCE_S, Listener


class Member:
    """Joins a group, polls for ever, reads what it is assigned from the start (if `reading`)."""

    def __init__(self, bus: Bus, group: str, topics: Sequence[str], name: str) -> None:
        self.listener = Listener()
        self.received: list[Received] = []
        self.reading = True
        self._bus = bus
        self._group = group
        self._topics = topics
        self._name = name
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.subscription: Subscription

    async def join(self) -> Member:
        self.subscription = await self._bus.subscribe(
            self._group, self._topics, member=self._name, listener=self.listener
        )
        self._task = asyncio.create_task(self._run())
        return self

    async def leave(self) -> None:
        await self._end()
        await self.subscription.close()

    async def got(self, enough: Callable[[list[Received]], bool]) -> list[Received]:
        """Return what came, once it is enough."""
        async with asyncio.timeout(PATIENCE_S):
            while not enough(self.received):
                self._arrived.clear()
                await self._arrived.wait()
        return self.received

    def go_on(self, partitions: Sequence[TopicPartition], offset: int = 0) -> None:
        for partition in partitions:
            self.subscription.seek(partition, offset)
        self.subscription.resume(partitions)

    async def _run(self) -> None:
        seen = 0
        while True:
            if self.reading and len(self.listener.history) > seen:
                seen = len(self.listener.history)
                self.go_on(sorted(self.listener.current))
            self.received += await self.subscription.poll(0.2)
            self._arrived.set()

    async def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
