"""A bus in memory, with faults to order: for what needs a moment that no real bus gives reliably.

It is not under the contract suite of `tests/contract`: what is shown on it holds for the slot's
logic, and is shown again on the real buses by `tests/acceptance`.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from holdfast.bus.errors import (
    BusUnavailable,
    Fenced,
    OffsetOutOfRange,
    OutcomeUnknown,
    Rejected,
    TopicMismatch,
    TopicMissing,
)
from holdfast.bus.partition import partition_for
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

RECORD_BYTES_MAX = 1_000_000


class Fault(Enum):
    """What happens to one commit."""

    LOST_COMMITTED = "the answer is lost, the commit happened"
    LOST_NOT_COMMITTED = "the answer is lost, the commit never happens"


@dataclass
class Log:
    begin: int = 0
    records: list[Received] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.begin + len(self.records)


@dataclass
class Group:
    members: dict[str, MemorySubscription] = field(default_factory=dict)
    offsets: dict[TopicPartition, int] = field(default_factory=dict)


class MemoryBroker:
    """What several `MemoryBus` connections share: the logs, the epochs, the groups."""

    def __init__(self) -> None:
        self.topics: dict[str, TopicSpec] = {}
        self.logs: dict[TopicPartition, Log] = {}
        self.epochs: dict[Slot, int] = {}
        self.groups: dict[str, Group] = {}
        self.faults: list[Fault] = []
        self.commits: list[tuple[Slot, Sequence[Record]]] = []
        self.refuse_topics: set[str] = set()
        self.away = False
        """Whether every connection finds nobody: commits are lost, all else is `BusUnavailable`."""
        self.grew = asyncio.Condition()
        self.hold = asyncio.Event()
        self.hold.set()
        self.hold_reads = asyncio.Event()
        self.hold_reads.set()

    def require(self) -> None:
        if self.away:
            raise BusUnavailable("nobody answers")

    def append(self, record: Record) -> Position:
        spec = self.topics.get(record.topic)
        if spec is None:
            raise TopicMissing(f"topic {record.topic!r} does not exist")
        partition = record.partition
        if partition is None:
            assert record.key is not None
            partition = partition_for(record.key, spec.partitions)
        log = self.logs[TopicPartition(record.topic, partition)]
        offset = log.end
        log.records.append(
            Received(
                record.topic,
                partition,
                offset,
                record.key,
                record.value,
                tuple(record.headers),
                time.time_ns() // 1_000_000,
            )
        )
        return Position(record.topic, partition, offset)

    async def announce(self) -> None:
        async with self.grew:
            self.grew.notify_all()

    def rebalance(self, name: str) -> None:
        """Share the partitions among the members, range by range."""
        group = self.groups[name]
        members = [group.members[m] for m in sorted(group.members)]
        for member in members:
            member.listener.revoked()
        if not members:
            return
        count = self.topics[members[0].topics[0]].partitions
        for index, member in enumerate(members):
            numbers = [n for n in range(count) if n % len(members) == index]
            member.take(frozenset(TopicPartition(t, n) for t in member.topics for n in numbers))


class MemoryWriter:
    def __init__(self, broker: MemoryBroker, slot: Slot) -> None:
        self._broker = broker
        self._epoch = broker.epochs[slot]
        self._dead = False
        self.slot = slot

    def check(self, record: Record) -> None:
        size = len(record.key or b"") + len(record.value or b"")
        if size > RECORD_BYTES_MAX:
            raise Rejected(
                record, f"{size} bytes, and topic {record.topic!r} takes {RECORD_BYTES_MAX}"
            )

    async def prepare(self, topics: Collection[str]) -> None:
        for topic in topics:
            if topic not in self._broker.topics:
                raise TopicMissing(f"topic {topic!r} does not exist")

    async def commit(
        self, records: Sequence[Record], offsets: Mapping[TopicPartition, int]
    ) -> None:
        assert not self._dead, "a writer that failed was used again"
        assert records, "an empty commit proves nothing"
        broker = self._broker
        try:
            await asyncio.sleep(0)
            await broker.hold.wait()
        except asyncio.CancelledError:
            self._dead = True
            raise
        if broker.away:
            self._dead = True
            raise OutcomeUnknown("nobody answers")
        if broker.epochs[self.slot] != self._epoch:
            self._dead = True
            raise Fenced(f"slot {self.slot} has a newer writer")
        fault = broker.faults.pop(0) if broker.faults else None
        if fault is Fault.LOST_NOT_COMMITTED:
            self._dead = True
            raise OutcomeUnknown("the answer was lost")
        for record in records:
            try:
                self.check(record)
                if record.topic not in broker.topics or record.topic in broker.refuse_topics:
                    raise Rejected(record, f"topic {record.topic!r} does not exist")
            except Rejected:
                self._dead = True
                raise
        for record in records:
            broker.append(record)
        broker.groups.setdefault(self.slot.group, Group()).offsets.update(offsets)
        broker.commits.append((self.slot, list(records)))
        await broker.announce()
        if fault is Fault.LOST_COMMITTED:
            self._dead = True
            raise OutcomeUnknown("the answer was lost")

    async def close(self) -> None:
        self._dead = True


class MemoryReader:
    def __init__(self, broker: MemoryBroker, starts: Mapping[TopicPartition, int]) -> None:
        self._broker = broker
        self._positions = dict(starts)
        self._paused: set[TopicPartition] = set()
        self._closed = False

    async def poll(self, timeout_s: float, max_records: int = 500) -> list[Received]:
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    if found := self._take(max_records):
                        return found
                    async with self._broker.grew:
                        await self._broker.grew.wait()
        except TimeoutError:
            return []

    def _take(self, most: int) -> list[Received]:
        found: list[Received] = []
        for partition, offset in self._positions.items():
            if partition in self._paused:
                continue
            log = self._broker.logs[partition]
            if offset < log.begin:
                raise OffsetOutOfRange(f"{partition} begins at {log.begin}, asked for {offset}")
            batch = log.records[offset - log.begin :][: most - len(found)]
            if batch:
                self._positions[partition] = batch[-1].offset + 1
                found += batch
        return found

    def position(self, partition: TopicPartition) -> int:
        return self._positions[partition]

    async def close(self) -> None:
        self._closed = True


class MemorySubscription(MemoryReader):
    session_timeout_s = 6.0

    def __init__(
        self, broker: MemoryBroker, group: str, topics: Sequence[str], listener: AssignmentListener
    ) -> None:
        super().__init__(broker, {})
        self.group = group
        self.topics = tuple(topics)
        self.listener = listener
        self.member = ""
        self.assignment: frozenset[TopicPartition] = frozenset()
        self.heartbeats = True
        self.last_heartbeat_at = 0.0
        self.failure: BaseException | None = None

    @property
    def heartbeat_at(self) -> float:
        if self.heartbeats:
            self.last_heartbeat_at = time.monotonic()
        return self.last_heartbeat_at

    def take(self, partitions: frozenset[TopicPartition]) -> None:
        self.assignment = partitions
        self._paused = set(partitions)
        self._positions = {}
        self.listener.assigned(partitions)

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused |= set(partitions)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused -= set(partitions)
        self._wake()

    def seek(self, partition: TopicPartition, offset: int) -> None:
        if partition in self.assignment:
            self._positions[partition] = offset
            self._wake()

    def _wake(self) -> None:
        self._waker = asyncio.ensure_future(self._broker.announce())

    async def close(self) -> None:
        await super().close()
        self._broker.groups[self.group].members.pop(self.member, None)
        self._broker.rebalance(self.group)


class MemoryBus:
    """One connection."""

    url = "memory:"

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker = broker
        self._names = itertools.count()

    async def start(self) -> None:
        return None

    async def close(self) -> None:
        return None

    async def open_writer(self, slot: Slot) -> MemoryWriter:
        await asyncio.sleep(0)
        self.broker.require()
        self.broker.epochs[slot] = self.broker.epochs.get(slot, 0) + 1
        return MemoryWriter(self.broker, slot)

    async def publish(self, records: Sequence[Record]) -> list[Position]:
        for record in records:
            size = len(record.key or b"") + len(record.value or b"")
            if size > RECORD_BYTES_MAX:
                raise Rejected(record, f"{size} bytes, more than {RECORD_BYTES_MAX}")
        positions = [self.broker.append(record) for record in records]
        await self.broker.announce()
        return positions

    async def subscribe(
        self, group: str, topics: Sequence[str], *, member: str, listener: AssignmentListener
    ) -> MemorySubscription:
        await asyncio.sleep(0)
        for topic in topics:
            if topic not in self.broker.topics:
                raise TopicMissing(f"topic {topic!r} does not exist")
        if len({self.broker.topics[t].partitions for t in topics}) > 1:
            raise TopicMismatch("the topics of a subscription need equal partition counts")
        subscription = MemorySubscription(self.broker, group, topics, listener)
        subscription.member = member
        self.broker.groups.setdefault(group, Group()).members[member] = subscription
        self.broker.rebalance(group)
        return subscription

    async def open_reader(self, starts: Mapping[TopicPartition, int]) -> MemoryReader:
        return MemoryReader(self.broker, starts)

    async def read(
        self, topic: str, partition: int, start: int = 0, end: int | None = None
    ) -> AsyncIterator[list[Received]]:
        await self.broker.hold_reads.wait()
        self.broker.require()
        if topic not in self.broker.topics:
            raise TopicMissing(f"topic {topic!r} does not exist")
        log = self.broker.logs[TopicPartition(topic, partition)]
        stop = log.end if end is None else min(end, log.end)
        records = [r for r in log.records if start <= r.offset < stop]
        for at in range(0, len(records), 100):
            await asyncio.sleep(0)
            yield records[at : at + 100]

    async def create_topics(self, specs: Collection[TopicSpec]) -> None:
        for spec in specs:
            known = self.broker.topics.get(spec.name)
            if known is not None and known.partitions != spec.partitions:
                raise TopicMismatch(f"{spec.name} has {known.partitions}, not {spec.partitions}")
        for spec in specs:
            if spec.name not in self.broker.topics:
                self.broker.topics[spec.name] = spec
                for number in range(spec.partitions):
                    self.broker.logs[TopicPartition(spec.name, number)] = Log()

    async def describe_topics(self, names: Collection[str] | None = None) -> dict[str, TopicInfo]:
        return {
            name: TopicInfo(name, spec.partitions, spec.cleanup, RECORD_BYTES_MAX)
            for name, spec in self.broker.topics.items()
            if names is None or name in names
        }

    async def begin_offsets(
        self, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        self.broker.require()
        return {p: self._log(p).begin for p in partitions}

    async def end_offsets(
        self, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        self.broker.require()
        return {p: self._log(p).end for p in partitions}

    async def committed(
        self, group: str, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        self.broker.require()
        offsets = self.broker.groups.setdefault(group, Group()).offsets
        return {p: offsets[p] for p in partitions if p in offsets}

    async def lag(self, group: str, topics: Collection[str]) -> dict[TopicPartition, int]:
        offsets = self.broker.groups.setdefault(group, Group()).offsets
        return {
            p: log.end - offsets.get(p, log.begin)
            for p, log in self.broker.logs.items()
            if p.topic in topics
        }

    async def purge(self, before: Mapping[TopicPartition, int]) -> None:
        for partition, offset in before.items():
            log = self._log(partition)
            gone = min(max(0, offset - log.begin), len(log.records))
            del log.records[:gone]
            log.begin += gone

    def _log(self, partition: TopicPartition) -> Log:
        log = self.broker.logs.get(partition)
        if log is None:
            raise TopicMissing(f"topic {partition.topic!r} has no partition {partition.partition}")
        return log
