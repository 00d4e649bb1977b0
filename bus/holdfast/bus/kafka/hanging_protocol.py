"""Requests about transactions that aiokafka 0.14 does not have (KIP-664, and KIP-98's markers)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

__all__ = ["DescribeProducersRequest", "DescribeTransactionsRequest", "Marker", "WriteTxnMarkers"]

_TEXT = CompactString("utf-8")
_PARTITIONS = CompactArray(
    ("topic", _TEXT), ("partitions", CompactArray(Int32)), ("tags", TaggedFields)
)


class DescribeTransactionsResponse_v0(Response):  # type: ignore[misc]  # noqa: N801
    """What the coordinator knows of transactional ids."""

    API_KEY = 65
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "states",
            CompactArray(
                ("error_code", Int16),
                ("transactional_id", _TEXT),
                ("state", _TEXT),
                ("timeout_ms", Int32),
                ("start_ms", Int64),
                ("producer_id", Int64),
                ("producer_epoch", Int16),
                ("topics", _PARTITIONS),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class DescribeTransactionsRequest_v0(RequestStruct):  # type: ignore[misc]  # noqa: N801
    """The request on the wire."""

    FLEXIBLE_VERSION = True
    API_KEY = 65
    API_VERSION = 0
    RESPONSE_TYPE = DescribeTransactionsResponse_v0
    SCHEMA = Schema(("transactional_ids", CompactArray(_TEXT)), ("tags", TaggedFields))


class DescribeTransactionsRequest(Request[DescribeTransactionsRequest_v0]):  # type: ignore[misc]
    """Asks the coordinator of a transactional id how its last transaction stands."""

    API_KEY = 65

    def __init__(self, transactional_id: str) -> None:
        self._transactional_id = transactional_id

    def build(self, request_struct_class: Any) -> Any:
        """Return the struct of the one version we speak."""
        return request_struct_class([self._transactional_id], {})


class DescribeProducersResponse_v0(Response):  # type: ignore[misc]  # noqa: N801
    """The producers that a partition's leader remembers."""

    API_KEY = 61
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic", _TEXT),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("error_message", _TEXT),
                        (
                            "producers",
                            CompactArray(
                                ("producer_id", Int64),
                                ("producer_epoch", Int32),
                                ("last_sequence", Int32),
                                ("last_ms", Int64),
                                ("coordinator_epoch", Int32),
                                ("start_offset", Int64),
                                ("tags", TaggedFields),
                            ),
                        ),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class DescribeProducersRequest_v0(RequestStruct):  # type: ignore[misc]  # noqa: N801
    """The request on the wire."""

    FLEXIBLE_VERSION = True
    API_KEY = 61
    API_VERSION = 0
    RESPONSE_TYPE = DescribeProducersResponse_v0
    SCHEMA = Schema(("topics", _PARTITIONS), ("tags", TaggedFields))


class DescribeProducersRequest(Request[DescribeProducersRequest_v0]):  # type: ignore[misc]
    """Asks a leader which transactions are open in its partitions."""

    API_KEY = 61

    def __init__(self, topics: Mapping[str, Sequence[int]]) -> None:
        self._topics = topics

    def build(self, request_struct_class: Any) -> Any:
        """Return the struct of the one version we speak."""
        topics: list[Any] = [
            (topic, list(partitions), {}) for topic, partitions in self._topics.items()
        ]
        return request_struct_class(topics, {})


class Marker(NamedTuple):
    """The end of a transaction in one partition."""

    producer_id: int
    producer_epoch: int
    coordinator_epoch: int
    committed: bool


class WriteTxnMarkersResponse_v1(Response):  # type: ignore[misc]  # noqa: N801
    """An error code for each partition."""

    API_KEY = 27
    API_VERSION = 1
    SCHEMA = Schema(
        (
            "markers",
            CompactArray(
                ("producer_id", Int64),
                (
                    "topics",
                    CompactArray(
                        ("topic", _TEXT),
                        (
                            "partitions",
                            CompactArray(
                                ("partition", Int32),
                                ("error_code", Int16),
                                ("tags", TaggedFields),
                            ),
                        ),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class WriteTxnMarkersRequest_v1(RequestStruct):  # type: ignore[misc]  # noqa: N801
    """The request on the wire."""

    FLEXIBLE_VERSION = True
    API_KEY = 27
    API_VERSION = 1
    RESPONSE_TYPE = WriteTxnMarkersResponse_v1
    SCHEMA = Schema(
        (
            "markers",
            CompactArray(
                ("producer_id", Int64),
                ("producer_epoch", Int16),
                ("committed", Boolean),
                ("topics", _PARTITIONS),
                ("coordinator_epoch", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class WriteTxnMarkers(Request[WriteTxnMarkersRequest_v1]):  # type: ignore[misc]
    """Ends a transaction in one partition, as its coordinator would (needs ClusterAction)."""

    API_KEY = 27

    def __init__(self, marker: Marker, topic: str, partition: int) -> None:
        self._marker = marker
        self._topic = topic
        self._partition = partition

    def build(self, request_struct_class: Any) -> Any:
        """Return the struct of the one version we speak."""
        producer_id, producer_epoch, coordinator_epoch, committed = self._marker
        topics: list[Any] = [(self._topic, [self._partition], {})]
        marker: Any = (producer_id, producer_epoch, committed, topics, coordinator_epoch, {})
        return request_struct_class([marker], {})
