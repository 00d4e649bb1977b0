"""Items that a handler hands out, put together to batches: JSON data of a bounded size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

from holdfast.agents.errors import DefinitionError
from holdfast.schemas.records import EMIT_ITEMS_MAX

__all__ = ["Batch", "batches"]

BATCH_BYTES_MAX = 256 * 1024
"""So many bytes (of JSON) are handed out at once; a larger item goes alone."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Items that are handed out at once, as JSON data. `digest`: SHA-256 over the JSON of all."""

    items: list[Any]
    digest: str


def batches(items: Iterable[Any]) -> Iterator[Batch]:
    """Put items together to batches, as they come; raises `DefinitionError` for what is no JSON."""
    batch, size, digest = list[Any](), 0, hashlib.sha256()
    for item in items:
        document, text = _json(item)
        if batch and (len(batch) >= EMIT_ITEMS_MAX or size + len(text) > BATCH_BYTES_MAX):
            yield Batch(batch, digest.hexdigest())
            batch, size, digest = [], 0, hashlib.sha256()
        batch.append(document)
        size += len(text)
        digest.update(len(text).to_bytes(8) + text)
    if batch:
        yield Batch(batch, digest.hexdigest())


def _json(item: Any) -> tuple[Any, bytes]:
    try:
        document = to_jsonable_python(item, by_alias=isinstance(item, BaseModel))
        return document, to_json(document)
    except PydanticSerializationError as error:
        raise DefinitionError(
            f"an item that is handed out cannot be written as JSON: {error}"
        ) from None
