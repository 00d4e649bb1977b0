"""Payloads on their way in and out: small ones in the record, large ones by reference.

Whatever is out of reach (registry, blob store) is waited for: that is not poison.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel

from holdfast.agents.errors import PayloadTooLarge
from holdfast.bus.blobs import INLINE_BYTES_MAX
from holdfast.bus.errors import BusUnavailable
from holdfast.bus.registry import Registry
from holdfast.schemas import ConfigurationError, PayloadCodec, UnknownSchema, unframe
from holdfast.schemas.records import BlobReference, Payload

__all__ = ["AvroCodec", "BlobStore", "NoInput", "NoOutput", "Payloads", "TypeCodec", "patiently"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

RETRY_FIRST_S = 0.2
RETRY_MAX_S = 10.0


class BlobStore(Protocol):
    """Where large payloads stand; `holdfast.bus.blobs.ClaimCheck` is one."""

    async def put(self, run_id: str, data: bytes) -> BlobReference:
        """Keep `data`, durably, before returning.

        Raises `BusUnavailable`, `ConfigurationError` where there is no store.
        """
        ...

    async def get(self, reference: BlobReference) -> bytes:
        """Return what was put; raises `BusUnavailable`, `Undecodable` when it is not the same."""
        ...


class TypeCodec(Protocol):
    """A handler's type on the wire."""

    def encode(self, value: Any) -> bytes:
        """Return framed Avro; raises `Unencodable`."""
        ...

    def decode(self, data: bytes) -> Any | None:
        """Return the value, or None where the writer's schema has to be asked for first.

        Raises `Undecodable`.
        """
        ...

    async def learn(self, data: bytes) -> None:
        """Ask the registry for the writer's schema of `data`; raises `UnknownSchema`."""
        ...


class NoInput(BaseModel):
    """The input of a task that takes none."""


class NoOutput(BaseModel):
    """The output of a task that returns None."""


class AvroCodec:
    """A model as framed Avro, under the id that the registry gave its schema."""

    def __init__(self, codec: PayloadCodec[Any], schema_id: int, registry: Registry) -> None:
        self._codec = codec
        self._schema_id = schema_id
        self._registry = registry

    def encode(self, value: Any) -> bytes:
        """See `TypeCodec`."""
        if value is None and self._codec.kind is NoOutput:
            value = NoOutput()
        return self._codec.encode(value, self._schema_id)

    def decode(self, data: bytes) -> Any | None:
        """See `TypeCodec`."""
        try:
            return self._codec.decode(data, self._registry.known)
        except UnknownSchema:
            return None

    async def learn(self, data: bytes) -> None:
        """See `TypeCodec`."""
        await self._registry.schema(unframe(data)[0])


class Payloads:
    """Moves payloads between records and the blob store."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    async def pack(self, run_id: str, data: bytes) -> Payload:
        """Return what stands in the record for `data`, after a large one was put away."""
        if len(data) <= INLINE_BYTES_MAX:
            return data
        try:
            return await patiently("blob store", lambda: self._blobs.put(run_id, data))
        except ConfigurationError as error:
            raise PayloadTooLarge(str(error)) from None

    async def unpack(self, payload: Payload) -> bytes:
        """Return the bytes that a payload stands for; b"" for none."""
        if isinstance(payload, BlobReference):
            reference = payload
            return await patiently("blob store", lambda: self._blobs.get(reference))
        return payload or b""

    async def decode(self, codec: TypeCodec, payload: Payload) -> Any:
        """Return the value of an input; raises `Undecodable`, `UnknownSchema`."""
        data = payload if isinstance(payload, bytes) else await self.unpack(payload)
        value = codec.decode(data)
        if value is None:
            await patiently("schema registry", lambda: codec.learn(data))
            value = codec.decode(data)
        return value


async def patiently(what: str, call: Callable[[], Awaitable[T]]) -> T:
    """Return what `call` returns, however long `what` is out of reach (`BusUnavailable`)."""
    pause_s = RETRY_FIRST_S
    while True:
        try:
            return await call()
        except BusUnavailable as error:
            logger.warning("%s out of reach, trying again in %g s: %s", what, pause_s, error)
            await asyncio.sleep(pause_s)
            pause_s = min(RETRY_MAX_S, pause_s * 2)
