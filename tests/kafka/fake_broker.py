"""A Kafka broker that is a function: aiokafka's own producer runs against it, without any socket.

It keeps transactions as a broker does, and answers each request as it is told: `answer[Request]`
holds what the next ones of a kind get: an error code, an exception, or an `asyncio.Event` to wait
for first.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

from aiokafka import errors as kafka_errors
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
    TxnOffsetCommitRequest,
)
from aiokafka.record.memory_records import MemoryRecords

from holdfast.bus.kafka.clients import transactional_producer
from holdfast.bus.kafka.cluster import Cluster
from holdfast.bus.kafka.writer import KafkaWriter
from holdfast.bus.port import Cleanup, Slot, TopicInfo
from holdfast.bus.settings import KafkaSettings

SLOT = Slot("ns.group", 3)
NAMES = ("in", "out", "journal")
TOPICS = {name: TopicInfo(name, 4, Cleanup.CONSUMED, 1_000_000) for name in NAMES}


class OlderThanKip664:
    """The shared client of a cluster whose brokers cannot be asked about transactions."""

    async def coordinator_lookup(self, kind: Any, key: str) -> int:
        return 0

    async def send(self, node: int, request: Any) -> Any:
        raise kafka_errors.IncompatibleBrokerVersion(type(request).__name__)


class FakeBroker:
    """One node, all partitions; what was committed is in `log`, in order."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.log: list[bytes] = []
        self.offsets: dict[tuple[str, int], int] = {}
        self.answer: defaultdict[type, deque[Any]] = defaultdict(deque)
        self.producers: list[Any] = []
        self._written: list[bytes] = []
        self._consumed: dict[tuple[str, int], int] = {}

    def count(self, kind: type) -> int:
        return self.requests.count(kind.__name__)

    def producer(self, settings: KafkaSettings, name: str) -> Any:
        """Return aiokafka's producer with this broker for a network."""
        producer = transactional_producer(settings, name)
        client = producer.client

        async def nothing(*_: Any, **__: Any) -> Any:
            return 0

        async def ready(*_: Any, **__: Any) -> bool:
            return True

        async def partitions(topic: str) -> set[int]:
            return set(range(TOPICS[topic].partitions))

        client.bootstrap = client.close = client.coordinator_lookup = nothing
        client.ready = ready
        client.force_metadata_update = lambda: asyncio.ensure_future(nothing())
        client._wait_on_metadata = partitions
        client.cluster.partitions_for_topic = lambda topic: set(range(4))
        client.cluster.available_partitions_for_topic = lambda topic: set(range(4))
        client.cluster.leader_for_partition = lambda tp: 0
        client.send = self.send
        self.producers.append(producer)
        return producer

    async def writer(self, **settings: Any) -> KafkaWriter:
        """Return an open writer of `SLOT` on this broker."""
        made = KafkaSettings(("nowhere:1",), **settings)
        cluster = Cluster(OlderThanKip664(), made)
        cluster.known.update(TOPICS)
        writer = KafkaWriter(SLOT, cluster, made, self.producer)
        await writer.open()
        return writer

    async def send(self, node: int, request: Any, *, group: Any = None) -> Any:
        self.requests.append(type(request).__name__)
        code, after = 0, None
        queue = self.answer[type(request)]
        if queue:
            told = queue.popleft()
            if isinstance(told, BaseException):
                raise told
            if isinstance(told, asyncio.Event):
                await told.wait()
            elif isinstance(told, tuple):  # done, but the answer is lost
                after = told[0]
            else:
                code = told
        response = self._do(request, code)
        if after is not None:
            raise after
        return response

    def _do(self, request: Any, code: int) -> Any:
        if isinstance(request, ProduceRequest):
            return self._produce(request, code)
        if isinstance(request, AddPartitionsToTxnRequest):
            topics = [(t, [(p, code) for p in numbers]) for t, numbers in request._topics]
            return SimpleNamespace(errors=topics)
        if isinstance(request, TxnOffsetCommitRequest):
            for topic, offsets in request._topics:
                self._consumed.update({(topic, p): offset for p, offset, _ in offsets})
            topics = [(t, [(p, code) for p, _, _ in offsets]) for t, offsets in request._topics]
            return SimpleNamespace(errors=topics)
        if isinstance(request, EndTxnRequest) and not code:
            if request._transaction_result:
                self.log += self._written
                self.offsets.update(self._consumed)
            self._written, self._consumed = [], {}
        assert isinstance(request, EndTxnRequest | AddOffsetsToTxnRequest | InitProducerIdRequest)
        return SimpleNamespace(error_code=code, producer_id=7, producer_epoch=1)

    def _produce(self, request: Any, code: int) -> Any:
        topics = []
        for topic, batches in request._topics:
            answers = []
            for partition, data in batches:
                if not code:
                    self._written += _values(data)
                answers.append((partition, code, 0, -1, 0, [], None))
            topics.append((topic, answers))
        return SimpleNamespace(topics=topics, API_VERSION=8)


def _values(data: Any) -> Collection[bytes]:
    records, values = MemoryRecords(bytes(data)), []
    while records.has_next():
        values += [record.value for record in records.next_batch()]
    return values
