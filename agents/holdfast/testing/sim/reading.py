"""Readers of the simulated bus: of named partitions, and as a member of a group."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from holdfast.bus.errors import BusError, BusUnavailable, OffsetOutOfRange
from holdfast.bus.port import AssignmentListener, Received, TopicPartition
from holdfast.testing.sim.broker import SimBroker
from holdfast.testing.sim.group import Generation, Membership
from holdfast.testing.sim.network import Link, RequestKind, settle

if TYPE_CHECKING:
    from holdfast.testing.sim.bus import SimBus

__all__ = ["SimReader", "SimSubscription"]


class SimReader:
    """See `Reader`."""

    def __init__(self, broker: SimBroker, link: Link, starts: Mapping[TopicPartition, int]) -> None:
        self._broker = broker
        self._link = link
        self._positions = dict(starts)
        self._ready: asyncio.Future[None] | None = None

    async def poll(self, timeout_s: float, max_records: int = 500) -> list[Received]:
        """See `Reader.poll`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        # Others get their turn even when there is a backlog; before anything is taken, since
        # nothing may come between taking records and handing them out.
        await asyncio.sleep(0)
        while True:
            if not self._away() and (found := self._take(max_records)):
                return found
            remaining_s = deadline - loop.time()
            if remaining_s <= 0:
                return []
            await self._news(remaining_s)

    def position(self, partition: TopicPartition) -> int:
        """See `Reader.position`."""
        return self._positions[partition]

    async def close(self) -> None:
        """See `Reader.close`."""
        self._positions.clear()

    def _away(self) -> bool:
        return self._broker.network.away or self._link.dead or self._link.frozen

    def _wanted(self) -> Iterable[TopicPartition]:
        return tuple(self._positions)

    def _take(self, most: int) -> list[Received]:
        found: list[Received] = []
        for partition in self._wanted():
            offset, log = self._positions[partition], self._broker.logs[partition]
            if offset < log.begin:
                raise OffsetOutOfRange(
                    f"{partition.topic}/{partition.partition} begins at {log.begin}; "
                    f"asked for {offset}"
                )
            batch, self._positions[partition] = log.read(offset, most - len(found))
            found += batch
            if len(found) == most:
                break
        return found

    async def _news(self, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._ready = ready = loop.create_future()
        timing, scheduler = self._broker.timing, self._broker.scheduler()

        def wake() -> None:
            delay_s = self._broker.random.random() * timing.delay_s
            scheduler.call_later(delay_s, self.wake)

        self._broker.on_news(tuple(self._wanted()), wake)
        # Not `asyncio.timeout`: most polls of a world find nothing, and a cancel for each is dear.
        timer = loop.call_later(timeout_s, settle, ready)
        try:
            await ready
        finally:
            timer.cancel()
            self._broker.forget_news(wake)

    def wake(self) -> None:
        """There may be something to take."""
        ready = self._ready
        if ready is not None and not ready.done() and not self._link.dead:
            ready.get_loop().call_soon(settle, ready)


class SimSubscription(SimReader):
    """See `Subscription`."""

    def __init__(
        self,
        bus: SimBus,
        group: str,
        topics: tuple[str, ...],
        member: str,
        incarnation: str,
        listener: AssignmentListener,
    ) -> None:
        super().__init__(bus.broker, bus.connected(), {})
        self.session_timeout_s = bus.timing.session_s
        self.failure: BaseException | None = None
        self.heartbeat_at = 0.0
        self._bus = bus
        self._group = bus.broker.group(group)
        self._topics = topics
        self._member = member
        self._incarnation = incarnation
        self._listener = listener
        self._assigned: frozenset[TopicPartition] = frozenset()
        self._resumed: set[TopicPartition] = set()
        self._heart: asyncio.Task[None] | None = None
        self._coming_back: asyncio.Task[None] | None = None
        self._closed = False

    async def start(self) -> None:
        """Join the group; raises `BusUnavailable`."""
        await self._join()
        self._heart = asyncio.create_task(self._beat(), name=f"member {self._member}")

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """See `Subscription.pause`."""
        self._resumed.difference_update(partitions)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """See `Subscription.resume`."""
        self._resumed.update(self._assigned.intersection(partitions))
        self.wake()

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """See `Subscription.seek`."""
        if partition in self._assigned:
            self._positions[partition] = offset
            self.wake()

    async def close(self) -> None:
        """See `Subscription.close`."""
        if self._closed:
            return
        self._closed = True
        tasks = [task for task in (self._heart, self._coming_back) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        group, member, incarnation = self._group, self._member, self._incarnation
        with suppress(BusError):  # the session times out instead
            await self._bus.request(
                RequestKind.LEAVE, lambda: group.leave(member, incarnation), group.name, 2.0
            )
        self._resumed.clear()

    def _wanted(self) -> Iterable[TopicPartition]:
        return [p for p in sorted(self._resumed) if p in self._positions]

    async def _join(self) -> None:
        broker, link = self._broker, self._link
        member = Membership(
            self._member,
            self._incarnation,
            self._topics,
            self.session_timeout_s,
            lambda news: broker.network.tell(link, lambda: self._hear(news)),
        )
        begun = asyncio.get_running_loop().time()

        def join() -> None:
            self._group.join(member, broker.now())
            broker.watch_sessions()

        await self._bus.patiently(RequestKind.JOIN, join, self._group.name)
        self.heartbeat_at = begun

    def _hear(self, news: Generation) -> None:
        if self._closed or self.failure is not None:
            return
        if news.owned is None:
            self._listener.revoked()
            if self._coming_back is not None:
                self._coming_back.cancel()
            self._coming_back = asyncio.create_task(
                self._rejoin(news.number), name=f"member {self._member} comes back"
            )
            return
        self._assigned = news.owned
        self._resumed.clear()
        self._positions.clear()
        self._listener.assigned(news.owned)

    async def _rejoin(self, number: int) -> None:
        group, member, incarnation = self._group, self._member, self._incarnation
        back = False
        while not back:
            with suppress(BusUnavailable):
                await self._bus.patiently(
                    RequestKind.JOIN, lambda: group.rejoin(member, incarnation, number), group.name
                )
                back = True

    async def _beat(self) -> None:
        group, member, incarnation = self._group, self._member, self._incarnation
        while self.failure is None:
            await asyncio.sleep(self._bus.timing.heartbeat_s)
            begun = asyncio.get_running_loop().time()
            try:
                answer = await self._bus.request(
                    RequestKind.HEARTBEAT,
                    lambda: group.heartbeat(member, incarnation, self._broker.now()),
                    group.name,
                    self.session_timeout_s,
                )
                if answer == "unknown":
                    self._hear(Generation(0, frozenset()))
                    await self._join()
            except BusUnavailable:
                continue
            if answer == "fenced":
                self._hear(Generation(0, frozenset()))
                self.failure = BusUnavailable(
                    f"another process has joined {group.name!r} as {member!r}: two instances of "
                    "one name cannot run at once"
                )
            elif answer == "ok":
                self.heartbeat_at = begun
