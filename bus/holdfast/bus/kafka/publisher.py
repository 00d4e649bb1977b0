"""Writing without a slot: one idempotent producer of the process, made when it is first needed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import aiokafka
from aiokafka import errors as kafka_errors

from holdfast.bus.errors import BusUnavailable, Rejected
from holdfast.bus.kafka.batches import check_record, partition_of
from holdfast.bus.kafka.clients import (
    MAX_BATCH_BYTES,
    client_options,
    describe_error,
    drop,
    keep_asking,
    started,
    track_topics,
)
from holdfast.bus.kafka.cluster import Cluster
from holdfast.bus.port import Position, Record
from holdfast.bus.settings import KafkaSettings

__all__ = ["Publisher", "idempotent_producer"]

MAX_REQUEST_BYTES = 64 * 1024 * 1024
"""The topic's own limit is checked before; this one of the client must not stand in its way."""


def idempotent_producer(settings: KafkaSettings) -> Any:
    """Return a producer (not started) that repeats nothing, without transactions."""
    producer = aiokafka.AIOKafkaProducer(
        **client_options(settings),
        enable_idempotence=True,
        max_batch_size=MAX_BATCH_BYTES,
        max_request_size=MAX_REQUEST_BYTES,
    )
    return keep_asking(producer)


class Publisher:
    """Publishes for all tasks of the process; records of calls at the same time share batches."""

    def __init__(self, cluster: Cluster, settings: KafkaSettings) -> None:
        self._cluster = cluster
        self._settings = settings
        self._producer: Any = None
        self._starting = asyncio.Lock()

    async def publish(self, records: Sequence[Record]) -> list[Position]:
        """Write `records`. See `Bus.publish` for what it raises."""
        await self._cluster.require({record.topic for record in records})
        for record in records:
            check_record(record, self._cluster.known[record.topic])
        if not records:
            return []
        producer = await self._started()
        futures: list[asyncio.Future[Any]] = []
        track_topics(producer.client, {record.topic for record in records})
        try:
            async with asyncio.timeout(self._settings.operation_timeout_s):
                for record in records:
                    futures.append(await self._send(producer, record))  # noqa: PERF401 - in order
                sent = await asyncio.gather(*futures)
        except (kafka_errors.KafkaError, TimeoutError, AssertionError) as error:
            await self._abandon(producer, futures)
            if isinstance(error, kafka_errors.MessageSizeTooLargeError):
                largest = max(records, key=lambda record: len(record.value or b""))
                raise Rejected(largest, f"the broker says {describe_error(error)}") from error
            raise BusUnavailable(
                f"publishing {len(records)} records: {describe_error(error)}"
            ) from error
        return [Position(m.topic, m.partition, m.offset) for m in sent]

    async def _send(self, producer: Any, record: Record) -> asyncio.Future[Any]:
        partitions = self._cluster.known[record.topic].partitions
        future: asyncio.Future[Any] = await producer.send(
            record.topic,
            value=record.value,
            key=record.key,
            partition=partition_of(record, partitions),
            headers=list(record.headers),
        )
        return future

    async def _started(self) -> Any:
        async with self._starting:
            if self._producer is None:
                self._producer = await started(
                    self._settings,
                    lambda: idempotent_producer(self._settings),
                    lambda producer: producer.start(),
                    within_s=self._settings.operation_timeout_s,
                )
            return self._producer

    async def _abandon(self, producer: Any, futures: Sequence[asyncio.Future[Any]]) -> None:
        """Let a producer go whose state is in doubt; others that use it get their own error."""
        for future in futures:
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
        if self._producer is producer:
            self._producer = None
        await drop(producer)

    async def close(self) -> None:
        """Let go; never raises."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await drop(producer)
