"""Follows `events` for one client: one reader for many runs that wait at once.

The first partition that somebody asks for is followed alone; from the second on all the others
together: two readers at most, however many runs there are. When no run has been waited for in
`IDLE_S` they are let go.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from holdfast.bus.errors import BusUnavailable, OffsetOutOfRange
from holdfast.bus.port import Bus, Reader, Received, TopicPartition
from holdfast.client.errors import ClientClosed, ClientError, EventsLost
from holdfast.client.peek import peek_event
from holdfast.client.watch import Watch
from holdfast.schemas.errors import HoldfastError

__all__ = ["EventFeed", "Follower"]

logger = logging.getLogger(__name__)

POLL_S = 1.0
IDLE_S = 60.0
BATCH_RECORDS = 2_000
RETRY_FIRST_S = 0.2
RETRY_MAX_S = 5.0


@dataclass(frozen=True, slots=True)
class Listener:
    """Whom a follower works for."""

    deliver: Callable[[Sequence[Received]], None]
    fail: Callable[[ClientError], None]
    """Nothing more will come, for this reason."""
    wanted: Callable[[], bool]
    """Whether anybody waits for anything."""


class Follower:
    """One reader, and where it is."""

    def __init__(
        self, bus: Bus, positions: Mapping[TopicPartition, int], listener: Listener
    ) -> None:
        self.positions = dict(positions)
        """What is delivered next, by partition."""
        self.wanted_at = asyncio.get_running_loop().time()
        self._bus = bus
        self._listener = listener
        self._closing = False
        self._task = asyncio.create_task(self._run(), name="holdfast-follower")

    @property
    def alive(self) -> bool:
        """Whether it still follows."""
        return not self._closing and not self._task.done()

    async def close(self) -> None:
        """End it. The poll under way is cancelled: its reader is not used any more."""
        self._closing = True
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        pause_s = RETRY_FIRST_S
        while not self._closing:
            try:
                await self._follow()
            except BusUnavailable as error:
                logger.warning("cannot follow the events, trying again: %s", error)
                await asyncio.sleep(pause_s)
                pause_s = min(RETRY_MAX_S, pause_s * 2)
            except OffsetOutOfRange as error:
                self._closing = True
                self._listener.fail(EventsLost(f"{error}: ask again by run id"))
            except Exception as error:
                logger.exception("cannot follow the events any more")
                self._closing = True
                self._listener.fail(ClientError(f"cannot follow the events any more: {error}"))

    async def _follow(self) -> None:
        reader: Reader = await self._bus.open_reader(self.positions)
        try:
            while not self._closing:
                records = await reader.poll(POLL_S, BATCH_RECORDS)
                self._listener.deliver(records)
                for partition in self.positions:
                    self.positions[partition] = reader.position(partition)
                self._let_go_when_idle()
        finally:
            await reader.close()

    def _let_go_when_idle(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._listener.wanted():
            self.wanted_at = now
        elif now - self.wanted_at > IDLE_S:
            self._closing = True


class EventFeed:
    """Hands each event to the watches of its run. Used on one event loop."""

    def __init__(self, bus: Bus, events: str, partitions: int) -> None:
        self._bus = bus
        self._events = events
        self._partitions = partitions
        self._followers: list[Follower] = []
        self._watches: dict[bytes, list[weakref.ref[Watch]]] = {}
        self._opening = asyncio.Lock()
        self._closed = False

    @property
    def partitions(self) -> int:
        """How many partitions `events` has."""
        return self._partitions

    async def add(self, watch: Watch) -> None:
        """Feed a watch from now on: whatever is published after this returns reaches it."""
        if self._closed:
            raise ClientClosed("this client was closed: open another")
        follower = self._find(watch.partition) or await self._open(watch.partition)
        watch.start = follower.positions[TopicPartition(self._events, watch.partition)]
        follower.wanted_at = asyncio.get_running_loop().time()
        key = watch.run_id.encode()
        forget = weakref.ref(watch, lambda gone: self._forget(key, gone))
        self._watches.setdefault(key, []).append(forget)

    def position(self, watch: Watch) -> int:
        """Return the offset that `watch` gets next."""
        follower = self._find(watch.partition)
        if follower is None:
            raise watch.error or ClientClosed("this client was closed: open another")
        return follower.positions[TopicPartition(self._events, watch.partition)]

    async def close(self) -> None:
        """Let go; everything that waits hears of it."""
        self._closed = True
        places = [TopicPartition(self._events, number) for number in range(self._partitions)]
        self._fail(places, ClientClosed("this client was closed"))
        await asyncio.gather(*(follower.close() for follower in self._followers))
        self._followers.clear()

    def _find(self, partition: int) -> Follower | None:
        place = TopicPartition(self._events, partition)
        for follower in self._followers:
            if place in follower.positions and follower.alive:
                return follower
        return None

    async def _open(self, partition: int) -> Follower:
        async with self._opening:
            found = self._find(partition)
            if found is not None:
                return found
            self._followers = [follower for follower in self._followers if follower.alive]
            followed = {place for follower in self._followers for place in follower.positions}
            numbers: Collection[int] = range(self._partitions) if followed else (partition,)
            places = [TopicPartition(self._events, number) for number in numbers]
            # The ends as they are *before* anything is published: nothing of it is missed.
            ends = await self._bus.end_offsets([p for p in places if p not in followed])
            fail = partial(self._fail, list(ends))
            listener = Listener(self._take, fail, lambda: bool(self._watches))
            follower = Follower(self._bus, ends, listener)
            self._followers.append(follower)
            return follower

    def _take(self, records: Sequence[Received]) -> None:
        for received in records:
            value = received.value
            peeked = peek_event(value)
            if peeked is None or value is None:
                continue
            references = self._watches.get(peeked[0])
            if references is None:
                continue
            for reference in references:
                watch = reference()
                if watch is not None:
                    self._deliver(watch, received, peeked[1], value)

    @staticmethod
    def _deliver(watch: Watch, received: Received, kind: bytes, value: bytes) -> None:
        try:
            watch.deliver(received.offset, kind, value)
        except HoldfastError as error:
            # Written by another version, or by a stranger: that run's affair, and no other's.
            watch.fail(ClientError(f"event {received.position} cannot be read: {error}"))

    def _fail(self, partitions: Collection[TopicPartition], error: ClientError) -> None:
        numbers = {place.partition for place in partitions}
        for references in list(self._watches.values()):
            for reference in references:
                watch = reference()
                if watch is not None and watch.partition in numbers:
                    watch.fail(error)

    def _forget(self, key: bytes, reference: weakref.ref[Watch]) -> None:
        references = self._watches.get(key)
        if references is not None:
            references.remove(reference)
            if not references:
                del self._watches[key]
