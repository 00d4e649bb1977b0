"""Payloads as plain Python values or users' types, and values as payloads.

Small ones stand in the record, large ones in the blob store (claim check); no caller notices.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any, Protocol

from holdfast.schemas import (
    BlobReference,
    DocumentCodec,
    OwnSchema,
    Payload,
    PayloadCodec,
    Undecodable,
    UnknownSchema,
    unframe,
)

__all__ = ["INLINE_BYTES_MAX", "Blobs", "Payloads", "Schemas"]

INLINE_BYTES_MAX = 512 * 1024
"""Larger payloads go by reference."""
SCHEMA_WAIT_S = 10.0
"""How long a schema that is not in the registry yet is waited for."""


class Schemas(Protocol):
    """The schemas on the bus."""

    def known(self, schema_id: int) -> Any | None:
        """Return a schema (parsed JSON) if it is known here. No I/O."""
        ...

    async def find(self, schema_id: int, timeout_s: float) -> bool:
        """Wait until a schema is known here, at most `timeout_s`; tell whether it is."""
        ...


class Blobs(Protocol):
    """The store of large payloads. Both raise `ConfigurationError` where there is no store."""

    async def get(self, reference: BlobReference) -> bytes | None:
        """Return a blob's bytes, None if the store does not have it."""
        ...

    async def put(self, reference: BlobReference, data: bytes) -> None:
        """Store a blob; storing it twice changes nothing."""
        ...


class Payloads:
    """Used on one event loop."""

    def __init__(self, schemas: Schemas, blobs: Blobs) -> None:
        self._schemas = schemas
        self._blobs = blobs
        self._documents = DocumentCodec(schemas.known)

    async def document(self, payload: Payload) -> Any:
        """Return a payload as what JSON has; raises `Undecodable`, `UnknownSchema`."""
        data = await self._data(payload)
        return None if data is None else self._documents.decode(data)

    async def value(self, payload: Payload, kind: Any) -> Any:
        """Return a payload as a value of `kind`; raises `Undecodable`, `UnknownSchema`."""
        data = await self._data(payload)
        return None if data is None else _codec(kind).decode(data, self._schemas.known)

    async def pack(self, run_id: str, data: bytes) -> Payload:
        """Return framed bytes as a payload, after large ones were stored."""
        if len(data) <= INLINE_BYTES_MAX:
            return data
        reference = BlobReference(f"{run_id}/{hashlib.sha256(data).hexdigest()}", len(data))
        await self._blobs.put(reference, data)
        return reference

    async def require(self, schema_id: int) -> None:
        """Return once a schema is known here; raises `UnknownSchema`."""
        if schema_id < OwnSchema.Json + 1 or self._schemas.known(schema_id) is not None:
            return
        if not await self._schemas.find(schema_id, SCHEMA_WAIT_S):
            raise UnknownSchema(f"schema id {schema_id} is not in the registry")

    def schema(self, schema_id: int) -> Any:
        """Return a schema that was required before."""
        found = self._schemas.known(schema_id)
        if found is None:
            raise UnknownSchema(f"schema id {schema_id} is not in the registry")
        return found

    async def _data(self, payload: Payload) -> bytes | None:
        if isinstance(payload, BlobReference):
            data = await self._blobs.get(payload)
            if data is None:
                raise Undecodable(f"blob {payload.name} is not in the store")
        else:
            data = payload
        if data is not None:
            await self.require(unframe(data)[0])
        return data


@lru_cache(maxsize=256)
def _codec(kind: Any) -> PayloadCodec[Any]:
    return PayloadCodec(kind)
