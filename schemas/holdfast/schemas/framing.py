"""The frame around every value: magic byte 0, 4-byte big-endian schema id, Avro.

It is the frame of the Kafka ecosystem (Confluent's wire format), so that any of its clients reads
what Holdfast writes, given the schemas.
"""

from __future__ import annotations

import struct

from holdfast.schemas.errors import Undecodable

__all__ = ["FRAME_BYTES", "frame", "frame_prefix", "unframe"]

_PREFIX = struct.Struct(">bi")

FRAME_BYTES = _PREFIX.size
"""How many bytes the frame adds."""

_MAX_ID = 2**31 - 1


def frame_prefix(schema_id: int) -> bytes:
    """Return the five bytes that stand before the Avro of `schema_id`."""
    if not 0 <= schema_id <= _MAX_ID:
        raise ValueError(f"schema id {schema_id} is outside 0 to {_MAX_ID}")
    return _PREFIX.pack(0, schema_id)


def frame(schema_id: int, body: bytes) -> bytes:
    """Put the frame around `body`."""
    return frame_prefix(schema_id) + body


def unframe(data: bytes) -> tuple[int, bytes]:
    """Return (schema id, Avro bytes) of a framed value; raises `Undecodable`."""
    if len(data) < FRAME_BYTES:
        raise Undecodable(f"{len(data)} bytes are too few for a framed value")
    magic, schema_id = _PREFIX.unpack_from(data)
    if magic != 0:
        raise Undecodable(f"first byte is {magic & 0xFF:#04x}, expected 0x00 (magic byte)")
    if schema_id < 0:
        raise Undecodable(f"schema id {schema_id} is negative")
    return schema_id, data[FRAME_BYTES:]
