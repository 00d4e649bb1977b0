"""`KafkaBus`: the port of the bus on a Kafka cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any

from aiokafka.client import AIOKafkaClient

from holdfast.bus.errors import BusUnavailable, TopicMismatch
from holdfast.bus.kafka.clients import check_installation, drop, shared_client, started
from holdfast.bus.kafka.cluster import EARLIEST, LATEST, Cluster, missing
from holdfast.bus.kafka.publisher import Publisher
from holdfast.bus.kafka.reader import KafkaReader, read_log
from holdfast.bus.kafka.subscription import KafkaSubscription
from holdfast.bus.kafka.writer import KafkaWriter
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
from holdfast.bus.settings import KafkaSettings

__all__ = ["KafkaBus"]


class KafkaBus:
    """See `holdfast.bus.port.Bus`. Raises `ConfigurationError` where aiokafka cannot be used."""

    def __init__(self, settings: KafkaSettings) -> None:
        check_installation()
        self._settings = settings
        self._client: AIOKafkaClient | None = None
        self._cluster_: Cluster | None = None
        self._publisher: Publisher | None = None
        self._open: list[Any] = []

    @property
    def settings(self) -> KafkaSettings:
        """How it is connected."""
        return self._settings

    @property
    def url(self) -> str:
        """Where it is, without secrets."""
        return self._settings.url

    @property
    def _cluster(self) -> Cluster:
        if self._cluster_ is None:
            raise BusUnavailable(f"the bus {self.url} was not started, or is closed")
        return self._cluster_

    async def start(self) -> None:
        """Connect, within the connection's time-out."""
        if self._client is not None:
            return
        self._client = await started(
            self._settings,
            lambda: shared_client(self._settings),
            AIOKafkaClient.bootstrap,
            within_s=self._settings.connect_timeout_s,
        )
        self._cluster_ = Cluster(self._client, self._settings)
        self._publisher = Publisher(self._cluster_, self._settings)

    async def close(self) -> None:
        """Close what is still open; never raises."""
        opened, self._open = self._open, []
        if self._publisher is not None:
            opened.append(self._publisher)
        await asyncio.gather(*(thing.close() for thing in opened), return_exceptions=True)
        client, self._client, self._cluster_, self._publisher = self._client, None, None, None
        if client is not None:
            await drop(client)

    async def open_writer(self, slot: Slot) -> KafkaWriter:
        """Become the slot's only writer."""
        writer = KafkaWriter(slot, self._cluster, self._settings)
        await writer.open()
        self._keep(writer)
        return writer

    async def publish(self, records: Sequence[Record]) -> list[Position]:
        """Write for those who own no slot."""
        if self._publisher is None:
            raise BusUnavailable(f"the bus {self.url} was not started, or is closed")
        return await self._publisher.publish(records)

    async def subscribe(
        self, group: str, topics: Sequence[str], *, member: str, listener: AssignmentListener
    ) -> KafkaSubscription:
        """Join `group` under the static name `member`."""
        infos = await self._cluster.describe(topics)
        for topic in topics:
            if topic not in infos:
                raise missing(topic)
        counts = {topic: infos[topic].partitions for topic in topics}
        if len(set(counts.values())) != 1:
            told = ", ".join(f"{topic} has {count}" for topic, count in sorted(counts.items()))
            raise TopicMismatch(
                f"the topics of group {group!r} need equal partition counts: {told}"
            )
        subscription = KafkaSubscription(self._settings, listener)
        await subscription.join(group, topics, member)
        self._keep(subscription)
        return subscription

    async def open_reader(self, starts: Mapping[TopicPartition, int]) -> KafkaReader:
        """Follow partitions from the offsets given."""
        await self._cluster.require({tp.topic for tp in starts})
        reader = KafkaReader(self._settings)
        await reader.open(starts)
        self._keep(reader)
        return reader

    def read(
        self, topic: str, partition: int, start: int = 0, end: int | None = None
    ) -> AsyncIterator[list[Received]]:
        """Yield batches from `start` to before `end`."""
        return read_log(self._cluster, TopicPartition(topic, partition), start, end)

    async def create_topics(self, specs: Collection[TopicSpec]) -> None:
        """Create those that are missing."""
        await self._cluster.create(specs)

    async def describe_topics(self, names: Collection[str] | None = None) -> dict[str, TopicInfo]:
        """Return those of `names` that exist, or all."""
        return await self._cluster.describe(names)

    async def begin_offsets(
        self, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Return the first offset that each log still holds."""
        return await self._cluster.log_offsets(partitions, EARLIEST)

    async def end_offsets(
        self, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Return the high watermarks."""
        return await self._cluster.log_offsets(partitions, LATEST)

    async def committed(
        self, group: str, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Return the group's consumed offsets."""
        return await self._cluster.committed(group, partitions)

    async def lag(self, group: str, topics: Collection[str]) -> dict[TopicPartition, int]:
        """Return, per partition, how many offsets lie between the group and the end."""
        leaders = await self._cluster.call(
            "describing topics", lambda: self._cluster.leaders(topics)
        )
        partitions = [TopicPartition(topic, p) for topic, own in leaders.items() for p in own]
        ends, begins, consumed = await asyncio.gather(
            self.end_offsets(partitions),
            self.begin_offsets(partitions),
            self.committed(group, partitions),
        )
        return {tp: max(0, ends[tp] - consumed.get(tp, begins[tp])) for tp in partitions}

    async def purge(self, before: Mapping[TopicPartition, int]) -> None:
        """Forget all records below these offsets."""
        await self._cluster.purge(before)

    def _keep(self, thing: Any) -> None:
        self._open = [other for other in self._open if not other.closed]
        self._open.append(thing)
