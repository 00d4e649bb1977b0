"""Wrappers round the bus of a process: they pass everything on, and tell `Moments` of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from typing import Any

from holdfast.bus.port import (
    AssignmentListener,
    Bus,
    Received,
    Record,
    Slot,
    Subscription,
    TopicPartition,
    Writer,
)
from tests.torture.moments import Moments
from tests.torture.points import Control, Point

__all__ = ["WatchedBus"]


class WatchedBus:
    """A bus whose calls are told of. What is not watched goes straight to the bus itself."""

    def __init__(self, bus: Bus, moments: Moments, control: Control) -> None:
        self._bus = bus
        self._moments = moments
        self._control = control

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    async def open_writer(self, slot: Slot) -> Writer:
        """See `Bus`."""
        return WatchedWriter(await self._bus.open_writer(slot), self._moments, self._control)

    async def subscribe(
        self, group: str, topics: Sequence[str], *, member: str, listener: AssignmentListener
    ) -> Subscription:
        """See `Bus`."""
        made = await self._bus.subscribe(group, topics, member=member, listener=listener)
        return WatchedSubscription(made, self._moments)

    async def read(
        self, topic: str, partition: int, start: int = 0, end: int | None = None
    ) -> AsyncIterator[list[Received]]:
        """See `Bus`."""
        self._moments.reading(topic)
        async for batch in self._bus.read(topic, partition, start, end):
            yield batch
        self._moments.read(topic)


class WatchedWriter:
    """See `holdfast.bus.port.Writer`."""

    def __init__(self, writer: Writer, moments: Moments, control: Control) -> None:
        self._writer = writer
        self._moments = moments
        self._control = control

    @property
    def slot(self) -> Slot:
        """See `Writer`."""
        return self._writer.slot

    def check(self, record: Record) -> None:
        """See `Writer`."""
        self._writer.check(record)

    async def prepare(self, topics: Collection[str]) -> None:
        """See `Writer`."""
        await self._writer.prepare(topics)

    async def commit(
        self, records: Sequence[Record], offsets: Mapping[TopicPartition, int]
    ) -> None:
        """See `Writer`."""
        self._moments.committing(records, offsets)
        await self._writer.commit(records, offsets)
        self._moments.committed(records, offsets)
        if self._control.armed is Point.AFTER_COMMIT_ANSWERED:
            # Whoever waits for this goes on, and applies it, before the loop comes round.
            loop = asyncio.get_running_loop()
            loop.call_soon(self._control.reached, Point.AFTER_COMMIT_ANSWERED)

    async def close(self) -> None:
        """See `Writer`."""
        await self._writer.close()


class WatchedSubscription:
    """See `holdfast.bus.port.Subscription`."""

    def __init__(self, subscription: Subscription, moments: Moments) -> None:
        self._subscription = subscription
        self._moments = moments
        self.session_timeout_s = subscription.session_timeout_s

    @property
    def heartbeat_at(self) -> float:
        """See `Subscription`."""
        return self._subscription.heartbeat_at

    @property
    def failure(self) -> BaseException | None:
        """See `Subscription`."""
        return self._subscription.failure

    async def poll(self, timeout_s: float, max_records: int = 500) -> list[Received]:
        """See `Subscription`."""
        self._moments.polling()
        records = await self._subscription.poll(timeout_s, max_records)
        self._moments.polled(records)
        return records

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """See `Subscription`."""
        self._subscription.pause(partitions)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """See `Subscription`."""
        self._subscription.resume(partitions)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """See `Subscription`."""
        self._subscription.seek(partition, offset)

    async def close(self) -> None:
        """See `Subscription`."""
        await self._subscription.close()
