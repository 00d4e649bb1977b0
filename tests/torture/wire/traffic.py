"""What clients of a bus do beside commits: groups, publishing, administration, purging, asking.

So that every kind of request is under way, soon, whenever a fault waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from holdfast.bus.errors import BusUnavailable, TopicMissing
from holdfast.bus.port import Bus, Record, Subscription, TopicPartition, TopicSpec
from tests.kafka.proxy import ApiKey
from tests.torture.wire.check import Violation, surprise
from tests.torture.wire.lanes import Lanes
from tests.waiting import until

__all__ = ["Traffic"]

CHORE_PAUSE_S = 0.05
STAY_S = 0.3
"""How long a member stays that is to join and leave."""
HANG_S = 150.0
"""No single call takes longer, whatever happens: each is bounded by 60 s and a start by 60 s."""
PURGE_EVERY = 10
OPENING = {
    ApiKey.INIT_PRODUCER_ID,
    ApiKey.DESCRIBE_PRODUCERS,
    ApiKey.DESCRIBE_TRANSACTIONS,
    ApiKey.FIND_COORDINATOR,
    ApiKey.API_VERSIONS,
    ApiKey.METADATA,
}
JOINING = {ApiKey.JOIN_GROUP, ApiKey.SYNC_GROUP, ApiKey.LEAVE_GROUP, ApiKey.FIND_COORDINATOR}


class _Listener:
    """Starts every partition where the member had got to."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self.subscription: Subscription | None = None
        self._due: frozenset[TopicPartition] = frozenset()

    def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        self._due = partitions
        self.go()

    def revoked(self) -> None:
        pass

    def go(self) -> None:
        if self.subscription is not None:
            for partition in self._due:
                self.subscription.seek(partition, self._traffic.read_to.get(partition, 0))
            self.subscription.resume(self._due)
            self._due = frozenset()


@dataclass(eq=False)
class Traffic:
    """Chores and a group member, on buses of their own."""

    lanes: Lanes
    bus: Bus
    member_bus: Bus
    wanted: ApiKey | None = None
    """A kind of request that shall come soon."""
    rounds: int = 0
    published: int = 0
    acknowledged: dict[int, int] = field(default_factory=dict)
    """Number to offset."""
    heard: int = 0
    """The newest number that the member was given."""
    read_to: dict[TopicPartition, int] = field(default_factory=dict)
    surprises: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    """Calls that ended as the bus being away: allowed, and told."""
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _stopping: bool = False

    @property
    def side(self) -> str:
        return self.lanes.topics.name("side")

    async def start(self) -> None:
        """Begin; returns when each part has gone round once."""
        await self.bus.start()
        await self.member_bus.start()
        await self.bus.create_topics([TopicSpec(self.side, 1)])
        self._tasks = [
            asyncio.ensure_future(self._repeat("chores", self._chores)),
            asyncio.ensure_future(self._repeat("a member", self._membership)),
        ]
        await self.progress(time.monotonic())

    async def stop(self) -> None:
        """End after what is under way."""
        self._stopping = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=HANG_S)
        for task in self._tasks:
            if not task.done():
                task.cancel()
        await self.bus.close()
        await self.member_bus.close()

    async def progress(self, since: float) -> float:
        """Return how many seconds after `since` all chores were done once more, and a record
        published from now on had reached the member."""
        rounds, published = self.rounds, self.published
        await until(
            lambda: self.rounds > rounds + 1 and self.heard > published,
            f"chores after round {rounds} ({self.rounds}), a record after number {published} "
            f"({self.heard})",
            HANG_S,
        )
        return time.monotonic() - since

    async def _repeat(self, what: str, once: Callable[[], Awaitable[None]]) -> None:
        while not self._stopping:
            try:
                await once()
            except (BusUnavailable, TopicMissing) as error:
                self.refused.append(f"{what}: {error}")
                await asyncio.sleep(CHORE_PAUSE_S)
            except TimeoutError:
                self.surprises.append(f"I9: {what} hang for {HANG_S:g} s")

    async def _chores(self) -> None:
        async with asyncio.timeout(HANG_S):
            await self._chore()
        self.rounds += 1
        await asyncio.sleep(CHORE_PAUSE_S)

    async def _chore(self) -> None:
        bus, side = self.bus, TopicPartition(self.side, 0)
        self.published += 1
        number = self.published
        (position,) = await bus.publish([Record(self.side, b"k", b"%d" % number)])
        self.acknowledged[number] = position.offset
        await bus.describe_topics([self.side])
        await bus.end_offsets([side])
        await bus.committed(self.lanes.all[0].slot.group, [side])
        if number % PURGE_EVERY == 0 or self.wanted is ApiKey.DELETE_RECORDS:
            await bus.purge({side: 1})
        if self.wanted is ApiKey.CREATE_TOPICS:
            await bus.create_topics([TopicSpec(f"{self.side}-{number}", 1)])
        if self.wanted in OPENING:
            self.lanes.all[number % len(self.lanes.all)].reopen()

    async def _membership(self) -> None:
        listener = _Listener(self)
        group = self.lanes.topics.name("members")
        async with asyncio.timeout(HANG_S):
            subscription = await self.member_bus.subscribe(
                group, [self.side], member="m1", listener=listener
            )
        listener.subscription = subscription
        listener.go()
        until_s = time.monotonic() + STAY_S
        try:
            while not self._stopping:
                for record in await subscription.poll(0.05):
                    assert record.value is not None
                    self.heard = max(self.heard, int(record.value))
                    self.read_to[TopicPartition(*record.position[:2])] = record.offset + 1
                if subscription.failure is not None:
                    return
                if self.wanted in JOINING and time.monotonic() > until_s:
                    return
        finally:
            await subscription.close()

    async def check(self, bus: Bus) -> list[Violation]:
        """Return what is wrong with what was published: acknowledged ones stand once, in order."""
        found = [surprise(text, "traffic") for text in self.surprises]
        at: dict[int, list[int]] = {}
        async for batch in bus.read(self.side, 0):
            for record in batch:
                assert record.value is not None
                at.setdefault(int(record.value), []).append(record.offset)
        for number, offsets in at.items():
            if len(offsets) > 1:
                found.append(Violation("I2", f"number {number} published twice: {offsets}", "side"))
        for number, offset in self.acknowledged.items():
            if offset > 0 and at.get(number) != [offset]:  # what stood at 0 was purged
                what = f"number {number}, acknowledged at {offset}, is at {at.get(number)}"
                found.append(Violation("I4", what, "side"))
        return found
