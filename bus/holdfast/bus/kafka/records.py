"""Turns what aiokafka read into `Received`, and its errors of reading into ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka import errors as kafka_errors
from aiokafka.structs import TopicPartition as KafkaPartition

from holdfast.bus.errors import OffsetOutOfRange
from holdfast.bus.port import Received, TopicPartition

__all__ = ["kafka_partitions", "out_of_range", "received"]


def received(batches: Mapping[Any, list[Any]]) -> list[Received]:
    """Return all records, each partition's in order."""
    return [
        Received(r.topic, r.partition, r.offset, r.key, r.value, r.headers, r.timestamp)
        for records in batches.values()
        for r in records
    ]


def kafka_partitions(partitions: Iterable[TopicPartition]) -> list[KafkaPartition]:
    """Return them as aiokafka's own tuples (which equal ours, but it asks for the type)."""
    return [KafkaPartition(topic, partition) for topic, partition in partitions]


def out_of_range(error: kafka_errors.OffsetOutOfRangeError) -> OffsetOutOfRange:
    """Return our error for a position that its log does not hold."""
    positions = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
    where = ", ".join(f"offset {o} of {tp.topic}-{tp.partition}" for tp, o in positions.items())
    return OffsetOutOfRange(
        f"{where or 'a position'} is not in the log: its records were purged, or the topic "
        "was made anew; reading on would skip records"
    )
