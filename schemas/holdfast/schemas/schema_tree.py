"""Walking through an Avro schema as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["full_name", "named_types"]


def full_name(schema: Mapping[str, Any], namespace: str = "") -> str:
    """Return the full name of a named type."""
    name = str(schema["name"])
    inside = schema.get("namespace", namespace)
    return name if "." in name or not inside else f"{inside}.{name}"


def named_types(schema: Any, namespace: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each record, enum and fixed in a schema, with its full name."""
    if isinstance(schema, list):
        for branch in schema:
            yield from named_types(branch, namespace)
    if not isinstance(schema, Mapping):
        return
    if schema["type"] in ("record", "error", "enum", "fixed"):
        name = full_name(schema, namespace)
        yield name, schema
        namespace = name.rpartition(".")[0]
    for field in schema.get("fields", ()):
        yield from named_types(field["type"], namespace)
    for inner in ("items", "values", "type"):
        if isinstance(schema.get(inner), list | Mapping):
            yield from named_types(schema[inner], namespace)
