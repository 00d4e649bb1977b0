"""The third implementation of the bus: a client of the simulated broker.

It passes the contract suite of `tests/contract`, as the real ones do. It waits through asyncio
alone, so it works on any loop: a test's own, or the one that the world steps.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from holdfast.bus.errors import (
    BusUnavailable,
    Fenced,
    OutcomeUnknown,
    Rejected,
    TopicMismatch,
    TopicMissing,
)
from holdfast.bus.port import (
    AssignmentListener,
    Position,
    Received,
    Record,
    Slot,
    TopicInfo,
    TopicPartition,
    TopicSpec,
)
from holdfast.testing.sim.broker import RECORD_BYTES_MAX, SimBroker, SimTiming
from holdfast.testing.sim.log import Transaction
from holdfast.testing.sim.network import Link, Request, RequestKind, settle
from holdfast.testing.sim.reading import SimReader, SimSubscription

__all__ = ["SimBus", "SimWriter"]

T = TypeVar("T")

READ_RECORDS_MAX = 200
"""Records in one batch of `read`."""


class SimBus:
    """One connection of one process. `now_ms`: the process's own wall clock stamps its records.

    `timing`: the client's own time-outs, where they are not those of all.
    """

    def __init__(
        self,
        broker: SimBroker,
        name: str,
        now_ms: Callable[[], int],
        timing: SimTiming | None = None,
    ) -> None:
        self.broker = broker
        self._timing = timing
        self.name = name
        self.now_ms = now_ms
        self.link: Link | None = None
        self._incarnations = itertools.count(1)

    @property
    def timing(self) -> SimTiming:
        """The time-outs of this client."""
        return self._timing or self.broker.timing

    # --- requests ------------------------------------------------------------------------------

    async def request(
        self,
        kind: RequestKind,
        apply: Callable[[], T],
        subject: Any = None,
        timeout_s: float | None = None,
    ) -> T:
        """Ask the broker; raises `BusUnavailable` when the answer does not come in time."""
        link, loop = self.connected(), asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self.broker.network.send(Request(kind, link, apply, answer, subject))
        bound_s = self.timing.operation_timeout_s if timeout_s is None else timeout_s

        def give_up() -> None:
            message = f"{self.url} has not answered {kind.value} for {bound_s:g} s"
            settle(answer, error=BusUnavailable(message))

        # Not `asyncio.timeout`: there is one for each request, and it costs more than the request.
        timer = loop.call_later(bound_s, give_up)
        try:
            return await answer
        finally:
            timer.cancel()

    async def patiently(self, kind: RequestKind, apply: Callable[[], T], subject: Any = None) -> T:
        """The same for what may be asked twice: a broken connection is made anew."""
        until = asyncio.get_running_loop().time() + self.timing.operation_timeout_s
        while True:
            try:
                return await self.request(kind, apply, subject)
            except BusUnavailable:
                if asyncio.get_running_loop().time() >= until:
                    raise

    def connected(self) -> Link:
        """Return this process's end of the network."""
        if self.link is None:
            raise BusUnavailable(f"{self.url} is not connected: start() comes first")
        return self.link

    # --- Bus -----------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """See `Bus.url`."""
        return f"sim://{self.name}"

    async def start(self) -> None:
        """See `Bus.start`."""
        self.link = Link(self.name, asyncio.get_running_loop())
        try:
            await self.request(
                RequestKind.ADMIN,
                lambda: None,
                timeout_s=self.timing.connect_timeout_s,
            )
        except BusUnavailable:
            self.link = None
            raise

    async def close(self) -> None:
        """See `Bus.close`."""
        if self.link is not None:
            self.link.dead = True
            self.link = None

    async def open_writer(self, slot: Slot) -> SimWriter:
        """See `Bus.open_writer`."""
        broker = self.broker
        epoch = await self.request(RequestKind.OPEN_WRITER, lambda: broker.open_writer(slot), slot)
        return SimWriter(self, slot, epoch)

    async def publish(self, records: Sequence[Record]) -> list[Position]:
        """See `Bus.publish`. One whose answer was lost may have happened."""
        for record in records:
            check(self.broker, record)
            self.broker.place(record)
        if not records:
            return []
        now_ms = self.now_ms()
        stamped = [(record, now_ms) for record in records]
        return await self.request(RequestKind.PUBLISH, lambda: self.broker.publish(stamped))

    async def subscribe(
        self, group: str, topics: Sequence[str], *, member: str, listener: AssignmentListener
    ) -> SimSubscription:
        """See `Bus.subscribe`."""
        found = await self.describe_topics(topics)
        for topic in topics:
            if topic not in found:
                raise TopicMissing(f"topic {topic!r} does not exist on {self.url}")
        counts = {t: info.partitions for t, info in found.items()}
        if len(set(counts.values())) > 1:
            raise TopicMismatch(f"the topics of group {group!r} need equal partitions: {counts}")
        incarnation = f"{self.name}-{next(self._incarnations)}"
        subscription = SimSubscription(self, group, tuple(topics), member, incarnation, listener)
        await subscription.start()
        return subscription

    async def open_reader(self, starts: Mapping[TopicPartition, int]) -> SimReader:
        """See `Bus.open_reader`."""
        for partition in starts:
            self.broker.log(partition)
        return SimReader(self.broker, self.connected(), starts)

    async def read(
        self, topic: str, partition: int, start: int = 0, end: int | None = None
    ) -> AsyncIterator[list[Received]]:
        """See `Bus.read`."""
        log = self.broker.log(TopicPartition(topic, partition))
        stop = await self.patiently(
            RequestKind.READ, lambda: log.end if end is None else min(end, log.end)
        )
        at = max(start, log.begin)
        while at < stop:
            batch, after = await self.patiently(
                RequestKind.READ,
                lambda at=at: log.read(at, READ_RECORDS_MAX, stop),  # type: ignore[misc]
            )
            if after == at and log.stable_end <= at:
                await self._news(log.where)  # a transaction below `stop` is still open
            at = after
            if batch:
                yield batch

    async def create_topics(self, specs: Collection[TopicSpec]) -> None:
        """See `Bus.create_topics`."""
        await self.patiently(RequestKind.ADMIN, lambda: self.broker.create_topics(specs))

    async def describe_topics(self, names: Collection[str] | None = None) -> dict[str, TopicInfo]:
        """See `Bus.describe_topics`."""
        return await self.patiently(RequestKind.ADMIN, lambda: self.broker.describe_topics(names))

    async def begin_offsets(
        self, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """See `Bus.begin_offsets`."""
        return await self.patiently(
            RequestKind.READ, lambda: {p: self.broker.log(p).begin for p in partitions}
        )

    async def end_offsets(
        self, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """See `Bus.end_offsets`."""
        return await self.patiently(
            RequestKind.READ, lambda: {p: self.broker.log(p).end for p in partitions}
        )

    async def committed(
        self, group: str, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """See `Bus.committed`."""
        return await self.patiently(
            RequestKind.READ, lambda: self.broker.committed(group, partitions)
        )

    async def lag(self, group: str, topics: Collection[str]) -> dict[TopicPartition, int]:
        """See `Bus.lag`."""
        return await self.patiently(RequestKind.READ, lambda: self.broker.lag(group, topics))

    async def purge(self, before: Mapping[TopicPartition, int]) -> None:
        """See `Bus.purge`."""

        def apply() -> None:
            for partition, offset in before.items():
                self.broker.log(partition).purge(offset)

        await self.patiently(RequestKind.ADMIN, apply)

    # --- blobs, as the embedded bus keeps them beside the log ----------------------------------

    async def put_blob(self, name: str, data: bytes) -> None:
        """Keep `data`; storing it twice changes nothing."""
        kept = (data, self.now_ms())
        await self.patiently(RequestKind.ADMIN, lambda: self.broker.blobs.setdefault(name, kept))

    async def get_blob(self, name: str) -> bytes | None:
        """Return what was kept, if it is."""
        found = await self.patiently(RequestKind.ADMIN, lambda: self.broker.blobs.get(name))
        return None if found is None else found[0]

    async def delete_blobs(self, names: Collection[str]) -> None:
        """Forget them."""

        def apply() -> None:
            for name in names:
                self.broker.blobs.pop(name, None)

        await self.patiently(RequestKind.ADMIN, apply)

    async def list_blobs(
        self, prefix: str = "", *, after: str = "", limit: int = 1_000
    ) -> list[tuple[str, int, int]]:
        """Return (name, bytes, stored at in ms) in the order of the names."""
        blobs = self.broker.blobs
        return await self.patiently(
            RequestKind.ADMIN,
            lambda: [
                (name, len(blobs[name][0]), blobs[name][1])
                for name in sorted(blobs)
                if name.startswith(prefix) and name > after
            ][:limit],
        )

    async def _news(self, partition: TopicPartition) -> None:
        news = asyncio.get_running_loop().create_future()

        def wake() -> None:
            news.get_loop().call_soon(settle, news)

        self.broker.on_news((partition,), wake)
        try:
            await news
        finally:
            self.broker.forget_news(wake)


class SimWriter:
    """See `Writer`."""

    def __init__(self, bus: SimBus, slot: Slot, epoch: int) -> None:
        self.slot = slot
        self._bus = bus
        self._epoch = epoch
        self._fenced = False
        self._dead = False

    def check(self, record: Record) -> None:
        """See `Writer.check`."""
        check(self._bus.broker, record)

    async def prepare(self, topics: Collection[str]) -> None:
        """See `Writer.prepare`."""
        found = await self._bus.describe_topics(topics)
        for topic in topics:
            if topic not in found:
                raise TopicMissing(f"topic {topic!r} does not exist on {self._bus.url}")

    async def commit(
        self, records: Sequence[Record], offsets: Mapping[TopicPartition, int]
    ) -> None:
        """See `Writer.commit`: one request to write, one to decide."""
        if not records:
            raise ValueError("a commit needs at least one record: an empty one proves nothing")
        if self._fenced:
            raise Fenced(f"slot {self.slot.group}/{self.slot.partition} has a newer writer")
        if self._dead:
            raise OutcomeUnknown("this writer is dead since its last commit failed")
        self._dead = True
        for record in records:
            check(self._bus.broker, record)
        try:
            await self._commit(records, offsets)
        except Fenced:
            self._fenced = True
            raise
        except BusUnavailable as error:
            raise OutcomeUnknown(str(error)) from error
        self._dead = False

    async def close(self) -> None:
        """See `Writer.close`."""
        self._dead = True

    async def _commit(
        self, records: Sequence[Record], offsets: Mapping[TopicPartition, int]
    ) -> None:
        broker, slot, epoch = self._bus.broker, self.slot, self._epoch
        now_ms = self._bus.now_ms()
        stamped = [(record, now_ms) for record in records]
        until = asyncio.get_running_loop().time() + self._bus.timing.operation_timeout_s
        transaction: Transaction = await self._bus.request(
            RequestKind.PRODUCE, lambda: broker.produce(slot, epoch, stamped, offsets), slot
        )
        await self._bus.request(
            RequestKind.END,
            lambda: broker.commit(slot, epoch, transaction),
            slot,
            until - asyncio.get_running_loop().time(),
        )


def check(broker: SimBroker, record: Record) -> None:
    """Raise `Rejected` if the bus would not take `record`."""
    for what, value in (("key", record.key), ("value", record.value)):
        if value is not None and not isinstance(value, bytes):
            raise Rejected(record, f"its {what} is a {type(value).__name__}, not bytes")
    if any(not isinstance(name, str) or not isinstance(v, bytes) for name, v in record.headers):
        raise Rejected(record, "a header is not a pair of a string and bytes")
    if record.key is None and record.partition is None:
        raise Rejected(record, "it has neither a key nor a partition")
    size = len(record.key or b"") + len(record.value or b"")
    size += sum(len(name) + len(value) for name, value in record.headers)
    if size > RECORD_BYTES_MAX:
        raise Rejected(record, f"{size} bytes; {record.topic!r} takes {RECORD_BYTES_MAX} bytes")
    spec = broker.topics.get(record.topic)
    if spec is None or record.partition is None or 0 <= record.partition < spec.partitions:
        return
    raise Rejected(record, f"partition {record.partition}; {record.topic!r} has {spec.partitions}")
