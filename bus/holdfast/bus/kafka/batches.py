"""Turns the records of a commit into batches, one or more per partition.

One `send` per record would cost a metadata check, a future and a log call each; a batch of our own
costs one of these per partition.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import DefaultRecordBatch

from holdfast.bus.errors import Rejected
from holdfast.bus.kafka.clients import MAX_BATCH_BYTES
from holdfast.bus.kafka.cluster import BATCH_OVERHEAD_BYTES
from holdfast.bus.partition import partition_for
from holdfast.bus.port import Record, TopicInfo, TopicPartition
from holdfast.bus.settings import Compression

__all__ = ["Batch", "check_record", "gather_batches", "partition_of", "record_bytes"]

HEADER_LENGTHS_BYTES = 10
"""Two lengths of a header, as varints, at most."""
_CODECS = {
    "none": DefaultRecordBatch.CODEC_NONE,
    "lz4": DefaultRecordBatch.CODEC_LZ4,
    "zstd": DefaultRecordBatch.CODEC_ZSTD,
}


class Batch(NamedTuple):
    """Records of one partition that travel together."""

    partition: TopicPartition
    builder: BatchBuilder
    records: Sequence[Record]


def record_bytes(record: Record) -> int:
    """Return what key, value and headers of a record take in a batch, at most."""
    size = len(record.key or b"") + len(record.value or b"")
    for name, value in record.headers:
        size += len(name.encode()) + len(value) + HEADER_LENGTHS_BYTES
    return size


def check_record(record: Record, info: TopicInfo | None) -> None:
    """Raise `Rejected` for what no broker takes, and, its topic known, what this topic does not."""
    if record.key is not None and type(record.key) is not bytes:
        raise Rejected(record, f"its key is {type(record.key).__name__}, not bytes")
    if record.value is not None and type(record.value) is not bytes:
        raise Rejected(record, f"its value is {type(record.value).__name__}, not bytes")
    if record.key is None and record.value is None:
        raise Rejected(record, "it has neither a key nor a value")
    if record.key is None and record.partition is None:
        raise Rejected(record, "it has neither a key nor a partition")
    for header in record.headers:
        if len(header) != 2 or type(header[0]) is not str or type(header[1]) is not bytes:
            raise Rejected(record, f"its header {header[0]!r} is not a pair of str and bytes")
    if info is None:
        return
    if record.partition is not None and not 0 <= record.partition < info.partitions:
        raise Rejected(record, f"it is for partition {record.partition} of {info.partitions}")
    if record.key is None and info.cleanup is info.cleanup.COMPACT:
        raise Rejected(record, "it has no key, and the topic is compacted")
    size = record_bytes(record)
    if size > info.max_record_bytes:
        raise Rejected(
            record,
            f"it has {size} bytes, and the topic takes at most {info.max_record_bytes} "
            "(raise max.message.bytes of the topic, or keep large payloads in a blob store)",
        )


def partition_of(record: Record, partitions: int) -> int:
    """Return the partition a record goes to: the one it names, else by its key."""
    if record.partition is not None:
        return record.partition
    return partition_for(record.key or b"", partitions)


def gather_batches(
    records: Sequence[Record],
    topics: Mapping[str, TopicInfo],
    *,
    compression: Compression,
    compress_from_bytes: int,
) -> list[list[Batch]]:
    """Return rounds of batches: within a round one of each partition, which may travel at once.

    A partition's batches follow each other over the rounds, so their order is the records'.
    """
    by_partition: dict[TopicPartition, list[Record]] = {}
    for record in records:
        info = topics[record.topic]
        key = TopicPartition(record.topic, partition_of(record, info.partitions))
        by_partition.setdefault(key, []).append(record)
    now_ms = time.time_ns() // 1_000_000
    queues = []
    for partition, own in by_partition.items():
        limit = min(
            MAX_BATCH_BYTES, topics[partition.topic].max_record_bytes + BATCH_OVERHEAD_BYTES
        )
        size = sum(len(record.key or b"") + len(record.value or b"") for record in own)
        codec = _CODECS[compression] if size >= compress_from_bytes else 0
        queues.append(_split(partition, own, limit, codec, now_ms))
    return [
        [batch for batch in round_ if batch is not None]
        for round_ in itertools.zip_longest(*queues)
    ]


def _split(
    partition: TopicPartition, records: Sequence[Record], limit: int, codec: int, now_ms: int
) -> Iterator[Batch]:
    builder, first = _builder(limit, codec), 0
    for index, record in enumerate(records):
        if _append(builder, record, now_ms):
            continue
        yield Batch(partition, builder, records[first:index])
        builder, first = _builder(limit, codec), index
        _append(builder, record, now_ms)  # the first record of a batch always fits
    yield Batch(partition, builder, records[first:])


def _builder(limit: int, codec: int) -> BatchBuilder:
    return BatchBuilder(limit, codec, is_transactional=True)


def _append(builder: BatchBuilder, record: Record, now_ms: int) -> Any:
    return builder.append(
        timestamp=now_ms, key=record.key, value=record.value, headers=list(record.headers)
    )
