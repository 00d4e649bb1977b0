"""The one request that aiokafka 0.14 does not have: OffsetFetch v7 (KIP-447).

With `require_stable` the broker does not answer with an offset that an open transaction is about to
replace: asked without it just after a takeover it would name the one before.
"""

from __future__ import annotations

from typing import Any

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

__all__ = ["UNSTABLE_OFFSET_COMMIT", "StableOffsetFetchRequest"]

UNSTABLE_OFFSET_COMMIT = 88
"""The answer while a transaction that commits this offset is open; aiokafka does not know it."""


class StableOffsetFetchResponse_v7(Response):  # type: ignore[misc]  # noqa: N801
    """Offsets by topic and partition; -1 where there is none."""

    API_KEY = 9
    API_VERSION = 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic", CompactString("utf-8")),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", CompactString("utf-8")),
                        ("error_code", Int16),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("error_code", Int16),
        ("tags", TaggedFields),
    )


class StableOffsetFetchRequest_v7(RequestStruct):  # type: ignore[misc]  # noqa: N801
    """The request on the wire."""

    FLEXIBLE_VERSION = True
    API_KEY = 9
    API_VERSION = 7
    RESPONSE_TYPE = StableOffsetFetchResponse_v7
    SCHEMA = Schema(
        ("group", CompactString("utf-8")),
        (
            "topics",
            CompactArray(
                ("topic", CompactString("utf-8")),
                ("partitions", CompactArray(Int32)),
                ("tags", TaggedFields),
            ),
        ),
        ("require_stable", Boolean),
        ("tags", TaggedFields),
    )


class StableOffsetFetchRequest(Request[StableOffsetFetchRequest_v7]):  # type: ignore[misc]
    """Asks for the offsets of a group; `stable`: as no open transaction can change them."""

    API_KEY = 9

    def __init__(self, group: str, topics: dict[str, list[int]], *, stable: bool = True) -> None:
        self._group = group
        self._topics = topics
        self._stable = stable

    def build(
        self, request_struct_class: type[StableOffsetFetchRequest_v7]
    ) -> StableOffsetFetchRequest_v7:
        """Return the struct of the one version we speak."""
        topics: list[Any] = [(topic, partitions, {}) for topic, partitions in self._topics.items()]
        return request_struct_class(self._group, topics, self._stable, {})
