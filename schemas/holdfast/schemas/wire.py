"""Any Avro schema, compiled once: values to bytes and back, safely.

`compile_schema` keeps what it compiled by the schema's canonical text, so that looking it up again
is cheap. Values are Python's: datetime, date, time, Decimal and UUID for the logical types; that
of a union may be given as (branch name, value).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Any

from fastavro import parse_schema, schemaless_reader, schemaless_writer
from fastavro.read import LOGICAL_READERS, SchemaResolutionError

from holdfast.schemas.errors import SchemaError, Undecodable, Unencodable
from holdfast.schemas.guard import compile_guard
from holdfast.schemas.schema_tree import named_types

__all__ = ["CompiledSchema", "canonical", "compile_schema"]

SCHEMAS_MAX = 1_024
"""Schemas that are kept compiled."""


def canonical(schema: Any) -> str:
    """Return a schema's canonical text: the same schema, with its docs, gives the same text."""
    return json.dumps(schema, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True, slots=True, eq=False)
class CompiledSchema:
    """A schema that fastavro has parsed. Equal by `text`."""

    text: str
    parsed: Any
    guard: Callable[[bytes], None] | None

    @property
    def json(self) -> Any:
        """The schema as it was given."""
        return json.loads(self.text)

    def write(self, value: Any) -> bytes:
        """Return the Avro bytes (not framed) of `value`; raises `Unencodable`."""
        buffer = BytesIO()
        try:
            schemaless_writer(buffer, self.parsed, value)
        except Exception as error:
            # fastavro answers a value of a wrong type with whatever its code happens to trip over.
            raise Unencodable(f"{type(error).__name__}: {error}") from error
        body = buffer.getvalue()
        if self.guard is not None:
            self._check_readable(self.guard, body)
        return body

    def read(
        self, body: bytes, reader: CompiledSchema | None = None, *, name_records: bool = False
    ) -> Any:
        """Return the value in `body`, resolved to what `reader` expects; raises `Undecodable`.

        `name_records`: in a union of several records the value is (record name, value).
        """
        buffer = BytesIO(body)
        try:
            if self.guard is not None:
                self.guard(body)
            value = schemaless_reader(
                buffer,
                self.parsed,
                None if reader is None or reader.text == self.text else reader.parsed,
                return_record_name=name_records,
                return_record_name_override=name_records,
            )
        except Undecodable:
            raise
        except SchemaResolutionError as error:
            raise Undecodable(
                f"its schema cannot be resolved to the reader's: {str(error)[:200]}"
            ) from error
        except Exception as error:
            # Damaged bytes surface as EOFError, IndexError, UnicodeDecodeError and a dozen others.
            raise Undecodable(f"damaged bytes: {type(error).__name__}: {error}") from error
        if buffer.tell() != len(body):
            raise Undecodable(f"damaged bytes: {len(body) - buffer.tell()} left over at their end")
        return value

    @staticmethod
    def _check_readable(guard: Callable[[bytes], None], body: bytes) -> None:
        """What the guard would refuse to read must not be written."""
        try:
            guard(body)
        except Undecodable as error:
            raise Unencodable(str(error)) from None


def compile_schema(schema: Any) -> CompiledSchema:
    """Compile a schema (parsed JSON); raises `SchemaError` for one that is none."""
    try:
        text = canonical(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise SchemaError(f"this is no Avro schema: {error}") from None
    return _compile(text)


@lru_cache(maxsize=SCHEMAS_MAX)
def _compile(text: str) -> CompiledSchema:
    try:
        parsed = parse_schema(json.loads(text))
        _make_defaults_native(parsed, dict(named_types(parsed)), set())
        return CompiledSchema(text, parsed, compile_guard(parsed))
    except Exception as error:
        # What fastavro raises for a schema that is none is not one family of exceptions.
        raise SchemaError(f"this is no Avro schema: {type(error).__name__}: {error}") from error


def _make_defaults_native(schema: Any, named: dict[str, Any], seen: set[int]) -> None:
    """Turn each field's default into the value that fastavro would have read.

    fastavro puts a default of the reader in as it stands in the schema: a date as a number, bytes
    as text (tried with 1.13).
    """
    if isinstance(schema, list):
        for branch in schema:
            _make_defaults_native(branch, named, seen)
    if not isinstance(schema, dict) or id(schema) in seen:
        return
    seen.add(id(schema))
    for field in schema.get("fields", ()):
        if "default" in field:
            field["default"] = _native(field["type"], field["default"], named)
        _make_defaults_native(field["type"], named, seen)
    for inner in ("items", "values", "type"):
        _make_defaults_native(schema.get(inner), named, seen)


def _native(schema: Any, default: Any, named: dict[str, Any]) -> Any:
    schema = named.get(schema, schema) if isinstance(schema, str) else schema
    if isinstance(schema, list):
        return _native(schema[0], default, named)
    kind = schema if isinstance(schema, str) else schema["type"]
    if kind in ("bytes", "fixed") and isinstance(default, str):
        default = default.encode("latin-1")
    if isinstance(schema, str):
        return default
    if kind == "array":
        return [_native(schema["items"], each, named) for each in default]
    if kind == "map":
        return {name: _native(schema["values"], each, named) for name, each in default.items()}
    if kind == "record":
        return {
            field["name"]: _native(field["type"], default[field["name"]], named)
            if field["name"] in default
            else field["default"]
            for field in schema["fields"]
        }
    read = LOGICAL_READERS.get(f"{kind}-{schema.get('logicalType')}")
    return default if read is None else read(default, schema, schema)
