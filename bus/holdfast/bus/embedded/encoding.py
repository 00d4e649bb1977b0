"""Records to rows and back: headers as one blob, sizes as they count against the limit."""

from __future__ import annotations

import struct

from holdfast.bus.embedded.append import Row
from holdfast.bus.embedded.catalog import Topic
from holdfast.bus.errors import Rejected
from holdfast.bus.partition import partition_for
from holdfast.bus.port import Cleanup, Headers, Record

__all__ = ["pack_headers", "record_size", "to_row", "unpack_headers"]

_LENGTHS = struct.Struct("<HI")
_NAME_BYTES_MAX = 0xFFFF


def pack_headers(headers: Headers) -> bytes | None:
    """Return the headers as one blob: name length, value length, name, value, for each."""
    if not headers:
        return None
    parts: list[bytes] = []
    for name, value in headers:
        encoded = name.encode()
        parts += (_LENGTHS.pack(len(encoded), len(value)), encoded, value)
    return b"".join(parts)


def unpack_headers(blob: bytes | None) -> Headers:
    """Return what `pack_headers` was given."""
    if blob is None:
        return ()
    headers, at = [], 0
    while at < len(blob):
        name_bytes, value_bytes = _LENGTHS.unpack_from(blob, at)
        name_at = at + _LENGTHS.size
        value_at = name_at + name_bytes
        at = value_at + value_bytes
        headers.append((blob[name_at:value_at].decode(), blob[value_at:at]))
    return tuple(headers)


def to_row(record: Record, topic: Topic, max_record_bytes: int) -> Row:
    """Make a record ready; raises `Rejected`, naming what is wrong and the limit."""
    key, value = record.key, record.value
    headers = _headers(record) if record.headers else None
    size = _length(record, "key", key) + _length(record, "value", value)
    if headers is not None:
        size += len(headers)
    if size > max_record_bytes:
        raise Rejected(record, f"{size} bytes are more than the {max_record_bytes} a record may be")
    if key is None and topic.cleanup is Cleanup.COMPACT:
        raise Rejected(record, "a compacted topic needs a key")
    return Row(topic.first_stream + _partition(record, topic), key, value, headers, size)


def record_size(record: Record) -> int:
    """Return the bytes that count against the limit: key, value and packed headers."""
    return (
        len(record.key or b"") + len(record.value or b"") + len(pack_headers(record.headers) or b"")
    )


def _partition(record: Record, topic: Topic) -> int:
    partition = record.partition
    if partition is None:
        if record.key is None:
            raise Rejected(record, "it names no partition and has no key to choose one by")
        return partition_for(record.key, topic.partitions)
    if not 0 <= partition < topic.partitions:
        raise Rejected(
            record, f"there is no partition {partition}; the topic has {topic.partitions}"
        )
    return partition


def _length(record: Record, what: str, data: bytes | None) -> int:
    if data is None:
        return 0
    # SQLite would store a str as text, which comes back as a str; other types do not bind at all.
    if type(data) is not bytes:
        raise Rejected(record, f"its {what} is {type(data).__name__}, not bytes")
    return len(data)


def _headers(record: Record) -> bytes | None:
    try:
        return pack_headers(record.headers)
    except (struct.error, TypeError, ValueError, AttributeError) as error:
        raise Rejected(
            record,
            "its headers are not pairs of a name (str, at most "
            f"{_NAME_BYTES_MAX} bytes) and a value (bytes): {error}",
        ) from error
