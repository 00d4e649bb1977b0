"""Which partition a key belongs to: murmur2 as in Java's and aiokafka's default partitioner.

Part of the wire contract (librdkafka's default, CRC-32, differs): a record written with another
hash is forwarded by the slot that reads it.

Uses: nothing. Must never: change its answers.
"""

from __future__ import annotations

from functools import lru_cache

__all__ = ["murmur2", "partition_for"]

_CACHED_KEYS = 16_384
_MASK = 0xFFFFFFFF
_M = 0x5BD1E995
_SEED = 0x9747B28C


def murmur2(data: bytes) -> int:
    """Return the 32-bit hash of `data`, unsigned (Kafka's `common.utils.Utils.murmur2`)."""
    length = len(data)
    h = _SEED ^ length
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * _M & _MASK
        k = (k ^ (k >> 24)) * _M & _MASK
        h = (h * _M & _MASK) ^ k
    if whole != length:
        h = (h ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    h = (h ^ (h >> 13)) * _M & _MASK
    return h ^ (h >> 15)


@lru_cache(maxsize=_CACHED_KEYS)
def partition_for(key: bytes, partitions: int) -> int:
    """Return the partition of `key` among `partitions`: `toPositive(murmur2(key)) % partitions`."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions
