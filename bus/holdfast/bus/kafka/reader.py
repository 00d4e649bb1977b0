"""Reading outside any group: following partitions (`KafkaReader`), and restoring (`read_log`).

`read_log` fetches over the shared client, without a consumer: a slot that is taken over is restored
in milliseconds, and it knows its position exactly, past markers and aborted records.
"""
# ruff: noqa: SLF001 - the insides of aiokafka that are used are held by tests/unit/kafka

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from itertools import islice
from typing import Any

import aiokafka
from aiokafka import errors as kafka_errors
from aiokafka.consumer import fetcher
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition as KafkaPartition

from holdfast.bus.errors import BusUnavailable
from holdfast.bus.kafka.clients import (
    client_options,
    describe_error,
    drop,
    keep_asking,
    started,
)
from holdfast.bus.kafka.cluster import EARLIEST, LATEST, Cluster
from holdfast.bus.kafka.records import kafka_partitions, out_of_range, received
from holdfast.bus.port import Received, TopicPartition
from holdfast.bus.settings import KafkaSettings

__all__ = ["KafkaReader", "plain_consumer", "read_log"]

ERROR_PAUSE_S = 0.05
RESTORE_FETCH_BYTES = 4 * 1024 * 1024
RESTORE_BATCH_RECORDS = 1_000
"""A fetch can hold 100,000 small records, compressed: unpacked at once they would stop the event
loop for so long that the watchdog ends the process, and the next one, for ever."""
RESTORE_WAIT_MS = 20
"""How long a broker holds a fetch that found nothing. Short: it holds up the shared connection."""


def plain_consumer(settings: KafkaSettings) -> Any:
    """Return a consumer (not started) outside any group."""
    consumer = aiokafka.AIOKafkaConsumer(
        **client_options(settings),
        isolation_level="read_committed",
        auto_offset_reset="none",
        enable_auto_commit=False,
        fetch_max_wait_ms=int(settings.fetch_max_wait_s * 1000),
        fetch_max_bytes=settings.fetch_max_bytes,
        max_partition_fetch_bytes=settings.fetch_partition_bytes,
        client_rack=settings.client_rack,
    )
    return keep_asking(consumer)


class KafkaReader:
    """See `holdfast.bus.port.Reader`."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._consumer: Any = None
        self._closed = False
        self._heard_at = time.monotonic()

    async def open(self, starts: Mapping[TopicPartition, int]) -> None:
        """Begin at `starts`; raises `BusUnavailable`."""
        self._consumer = await started(
            self._settings,
            lambda: plain_consumer(self._settings),
            lambda consumer: consumer.start(),
            within_s=self._settings.operation_timeout_s,
        )
        self._listen(self._consumer._client)
        self._consumer.assign(kafka_partitions(starts))
        for tp, offset in starts.items():
            self._consumer.seek(KafkaPartition(*tp), offset)

    def _listen(self, client: Any) -> None:
        """Note when a broker last answered: `getmany` itself never tells that none does."""
        send = client.send

        async def noted(*arguments: Any, **options: Any) -> Any:
            response = await send(*arguments, **options)
            self._heard_at = time.monotonic()
            return response

        client.send = noted

    async def poll(self, timeout_s: float, max_records: int = 500) -> list[Received]:
        """Return committed records; [] when none came in time."""
        try:
            batches = await self._consumer.getmany(
                timeout_ms=max(0, int(timeout_s * 1000)), max_records=max_records
            )
        except kafka_errors.OffsetOutOfRangeError as error:
            raise out_of_range(error) from error
        except kafka_errors.ConsumerStoppedError:
            raise BusUnavailable("this reader was closed") from None
        except kafka_errors.KafkaError:
            await asyncio.sleep(ERROR_PAUSE_S)
            batches = {}
        silent_s = time.monotonic() - self._heard_at
        if not batches and silent_s > self._settings.operation_timeout_s:
            where = ", ".join(self._settings.bootstrap)
            raise BusUnavailable(f"Kafka at {where} has not answered for {silent_s:.0f} s")
        return received(batches)

    def position(self, partition: TopicPartition) -> int:
        """Return the offset of the next record to be read."""
        state = self._consumer._subscription._assigned_state(KafkaPartition(*partition))
        position: int = state.position
        return position

    @property
    def closed(self) -> bool:
        """Whether nothing of it is left."""
        return self._closed

    async def close(self) -> None:
        """Let go; never raises."""
        if not self._closed and self._consumer is not None:
            self._closed = True
            await drop(self._consumer)


async def read_log(
    cluster: Cluster, partition: TopicPartition, start: int, end: int | None
) -> AsyncIterator[list[Received]]:
    """Yield committed records from `start` to before `end` (None: the high watermark of now)."""
    wanted = [partition]
    if end is None:
        end = (await cluster.log_offsets(wanted, LATEST))[partition]
    position = max(start, (await cluster.log_offsets(wanted, EARLIEST))[partition])
    wait_ms = 0
    leader = _Leader(cluster, partition)
    while position < end:
        fetch = _Fetch(leader, position, wait_ms)
        fetched = await cluster.call(f"reading {partition.topic}-{partition.partition}", fetch)
        if fetched is None:  # purged meanwhile, below what we were about to read
            position = max(position, (await cluster.log_offsets(wanted, EARLIEST))[partition])
            continue
        while records := fetched.take(RESTORE_BATCH_RECORDS):
            if batch := [record for record in records if record.offset < end]:
                yield batch
            await asyncio.sleep(0)
        # The position, not the last record, tells the end: markers and compaction leave gaps.
        wait_ms = 0 if fetched.reached > position else RESTORE_WAIT_MS
        position = fetched.reached


class _Leader:
    """Who leads a partition; asked for once, and again after an error."""

    def __init__(self, cluster: Cluster, partition: TopicPartition) -> None:
        self.partition = partition
        self._cluster = cluster
        self._node: int | None = None

    async def send(self, request: Any) -> Any:
        """Return the leader's answer."""
        topic, number = self.partition
        node, self._node = self._node, None
        if node is None:
            node = (await self._cluster.leaders([topic]))[topic].get(number, -1)
        if node < 0:
            raise kafka_errors.LeaderNotAvailableError(f"{topic}-{number}")
        response = await self._cluster.send(node, request)
        self._node = node
        return response

    def forget(self) -> None:
        """It says that it is not the leader any more."""
        self._node = None


class _Fetched:
    """What one fetch brought, unpacked a part at a time."""

    def __init__(self, partition: TopicPartition, position: int, raw: bytes, aborted: Any) -> None:
        self._partition = partition
        self._unpacked = fetcher.PartitionRecords(
            KafkaPartition(*partition),
            MemoryRecords(raw),
            aborted,
            position,
            None,
            None,
            True,
            fetcher.READ_COMMITTED,
        )
        # A generator of our own: asked again after its end, aiokafka's iterator raises TypeError.
        self._records: Iterator[Any] = (record for record in self._unpacked)

    def take(self, count: int) -> list[Received]:
        """Return at most so many records further; [] at the end.

        Raises `BusUnavailable` for a batch that came damaged: what was fetched is of no use then.
        """
        try:
            return received({self._partition: list(islice(self._records, count))})
        except kafka_errors.KafkaError as error:
            topic, number = self._partition
            raise BusUnavailable(
                f"reading {topic}-{number} at offset {self.reached}: {describe_error(error)}"
            ) from error

    @property
    def reached(self) -> int:
        """The position behind what was taken, past markers and aborted records."""
        position: int = self._unpacked.next_fetch_offset
        return position


class _Fetch:
    """One fetch of one partition."""

    def __init__(self, leader: _Leader, position: int, wait_ms: int) -> None:
        self._leader = leader
        self._partition = leader.partition
        self._position = position
        self._wait_ms = wait_ms

    async def __call__(self) -> _Fetched | None:
        """Return what was read; None: the position is not in the log any more."""
        topic, number = self._partition
        request = FetchRequest(
            self._wait_ms,
            1,
            RESTORE_FETCH_BYTES,
            fetcher.READ_COMMITTED,
            [(topic, [(number, self._position, RESTORE_FETCH_BYTES)])],
        )
        response = await self._leader.send(request)
        for _topic, answers in response.topics:
            for _number, code, _high, *rest in answers:
                if code == kafka_errors.OffsetOutOfRangeError.errno:
                    return None
                if code:
                    self._leader.forget()
                    raise kafka_errors.for_code(code)(f"{topic}-{number}")
                aborted = rest[2] if response.API_VERSION >= 11 else rest[-2]
                return _Fetched(self._partition, self._position, rest[-1], aborted)
        return _Fetched(self._partition, self._position, b"", [])
