"""What stands in the columns of several tables: JSON, and payloads that stay undecoded."""

from __future__ import annotations

import json
from typing import Any, TypeAlias

from sqlalchemy.engine import RowMapping

from holdfast.schemas import BlobReference, Payload

__all__ = ["PAGE", "Json", "StoredPayload", "json_of", "payload_of"]

Json: TypeAlias = dict[str, Any]
StoredPayload: TypeAlias = Payload
PAGE = 50
"""So many rows are returned where nothing else is asked for."""


def payload_of(row: RowMapping, name: str) -> StoredPayload:
    """Return the payload in the columns that `name` begins."""
    if row[f"{name}_blob"] is not None:
        return BlobReference(row[f"{name}_blob"], row[f"{name}_blob_bytes"])
    found = row[name]
    return None if found is None else bytes(found)


def json_of(text: str | None) -> Any:
    """Return the value of a column of JSON; None if it is empty."""
    return None if text is None else json.loads(text)
