"""Payloads as documents, and documents as payloads, within one process.

Decodes lazily and once (a bounded memo by content), and never does I/O: what is not here is asked
for by `Blocked`, which voids the event until the service has fetched it. Blobs are named by their
content, so that the same event, tried again, asks for the same.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Protocol

from holdfast.coordinator.engine.effects import Fetch, FindSchema, Need, Store
from holdfast.schemas.errors import SchemaError, Undecodable, Unencodable, UnknownSchema
from holdfast.schemas.framing import unframe
from holdfast.schemas.records import BlobReference, Payload

__all__ = ["INLINE_BYTES_MAX", "Blocked", "Documents", "Values"]

INLINE_BYTES_MAX = 512 * 1024
"""Payloads above this go by reference."""
MEMO_BYTES_MAX = 16 * 1024 * 1024
"""Encoded size of what is kept decoded."""
MEMO_ENTRY_BYTES = 256
"""What an entry of the memo is counted with beside its encoded size."""


class Documents(Protocol):
    """Turns framed bytes into JSON-like documents and back, by the schemas known here.

    Both raise `UnknownSchema` for an id that is not known (yet).
    """

    def decode(self, data: bytes) -> Any:
        """Return the document of a framed payload; raises `Undecodable`."""
        ...

    def encode(self, schema_id: int, document: Any, *, strict: bool = False) -> bytes:
        """Return the framed payload of a document; raises `Unencodable` naming the field.

        `strict`: also for a field that the schema does not have.
        """
        ...


class Blocked(Exception):
    """The event cannot be taken before its needs are met."""

    def __init__(self, needs: Iterable[Need]) -> None:
        super().__init__("the event waits")
        self.needs = tuple(needs)


class Values:
    """Documents of payloads. `loaded`, `stored` and `unknown` are filled in by the service."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._memo: OrderedDict[bytes | str, tuple[Any, int]] = OrderedDict()
        self._memo_bytes = 0
        self.loaded: dict[str, bytes | None] = {}
        """Blobs by name; None: the store does not have it."""
        self.stored: set[str] = set()
        """Names of blobs that stand in the store."""
        self.unknown: set[int] = set()
        """Schema ids that were waited for in vain."""

    def document(self, payload: Payload) -> Any:
        """Return a payload's document; not to be changed. Raises `Undecodable`, `Blocked`."""
        if payload is None:
            return None
        key = payload.name if isinstance(payload, BlobReference) else payload
        found = self._memo.get(key)
        if found is not None:
            self._memo.move_to_end(key)
            return found[0]
        data = self.data(payload)
        document = self._decode(data)
        self._remember(key, document, len(data) + MEMO_ENTRY_BYTES)
        return document

    def require(self, payloads: Iterable[Payload], *, whole: bool = False) -> None:
        """Ask at once for all blobs that `document` would ask for one after the other; `whole`:
        that `data` would, of which being known decoded is not enough."""
        missing = {
            payload.name: Fetch(payload)
            for payload in payloads
            if isinstance(payload, BlobReference)
            and payload.name not in self.loaded
            and (whole or payload.name not in self._memo)
        }
        if missing:
            raise Blocked(missing.values())

    def payload(self, run_id: str, data: bytes) -> Payload:
        """Return framed bytes as a payload: themselves, or a reference to them in the store."""
        if len(data) <= INLINE_BYTES_MAX:
            return data
        return self.reference(run_id, data)

    def reference(self, run_id: str, data: bytes) -> BlobReference:
        """Return a reference to `data` in the store; raises `Blocked` until it stands there."""
        reference = BlobReference(f"{run_id}/{hashlib.sha256(data).hexdigest()}", len(data))
        if reference.name not in self.stored:
            raise Blocked([Store(reference, data)])
        return reference

    def encode(self, schema_id: int, document: Any, *, strict: bool = False) -> bytes:
        """Return a document framed by a schema; raises `Unencodable`, `Blocked`."""
        try:
            return self._documents.encode(schema_id, document, strict=strict)
        except UnknownSchema as error:
            if schema_id not in self.unknown:
                raise Blocked([FindSchema(schema_id)]) from error
            raise Unencodable(f"schema id {schema_id} is not in the registry") from error

    def data(self, payload: Payload) -> bytes:
        """Return a payload's framed bytes (b"" for None). Raises `Undecodable`, `Blocked`."""
        if payload is None:
            return b""
        if isinstance(payload, bytes):
            return payload
        self.require([payload], whole=True)
        data = self.loaded[payload.name]
        if data is None:
            raise Undecodable(f"blob {payload.name} is not in the store")
        return data

    def _decode(self, data: bytes) -> Any:
        try:
            return self._documents.decode(data)
        except UnknownSchema as error:
            schema_id, _ = unframe(data)
            if schema_id not in self.unknown:
                raise Blocked([FindSchema(schema_id)]) from error
            raise Undecodable(f"schema id {schema_id} is not in the registry") from error
        except SchemaError as error:
            raise Undecodable(str(error)) from error

    def _remember(self, key: bytes | str, document: Any, cost: int) -> None:
        self._memo[key] = (document, cost)
        self._memo_bytes += cost
        while self._memo_bytes > MEMO_BYTES_MAX and len(self._memo) > 1:
            _, (_, freed) = self._memo.popitem(last=False)
            self._memo_bytes -= freed
