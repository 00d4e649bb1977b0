"""Python defaults as Avro writes them in a schema."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic import BaseModel

__all__ = ["NO_DEFAULT", "avro_default"]

NO_DEFAULT: Any = object()
"""Stands for the absence of a default, as None is one."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Types = Mapping[str, Mapping[str, Any]]
"""Named types that stand further out, by name."""


def avro_default(schema: Any, value: Any, types: Types) -> tuple[Any, Any]:
    """Return (schema, default in Avro's JSON form).

    In a union Avro takes a default for one of the first branch: that of the value is put there.
    A value that cannot be written as a default gives `NO_DEFAULT`.
    """
    if isinstance(schema, list):
        fitting = [branch for branch in schema if _fits(branch, value, types)]
        if not fitting:
            return schema, NO_DEFAULT
        schema = [fitting[0], *(branch for branch in schema if branch is not fitting[0])]
    try:
        return schema, _written(schema, value, types)
    except _NotWritable:
        return schema, NO_DEFAULT


class _NotWritable(Exception):
    pass


def _fits(branch: Any, value: Any, types: Types) -> bool:
    branch = types.get(branch, branch) if isinstance(branch, str) else branch
    kind = branch if isinstance(branch, str) else branch.get("logicalType", branch["type"])
    if isinstance(value, enum.Enum):
        value = value.value
    if kind == "record":
        return isinstance(value, BaseModel) and set(type(value).model_fields) == {
            field["name"] for field in branch["fields"]
        }
    if kind == "enum":
        return value in branch["symbols"]
    return type(value) in _KINDS[kind]


_KINDS: dict[str, tuple[type, ...]] = {
    "null": (type(None),),
    "boolean": (bool,),
    "long": (int,),
    "double": (float, int),
    "string": (str,),
    "bytes": (bytes,),
    "array": (list,),
    "map": (dict,),
    "date": (date,),
    "time-micros": (time,),
    "timestamp-micros": (datetime,),
    "local-timestamp-micros": (datetime,),
    "decimal": (Decimal,),
    "uuid": (UUID,),
}


def _written(schema: Any, value: Any, types: Types) -> Any:
    if isinstance(schema, list):
        # Inside of a default only the first branch can be written.
        schema = schema[0]
    schema = types.get(schema, schema) if isinstance(schema, str) else schema
    if not _fits(schema, value, types):
        raise _NotWritable
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, float) and not math.isfinite(value):
        raise _NotWritable
    if isinstance(schema, str):
        return value.decode("latin-1") if isinstance(value, bytes) else value
    if schema["type"] == "array":
        return [_written(schema["items"], each, types) for each in value]
    if schema["type"] == "map":
        return {name: _written(schema["values"], each, types) for name, each in value.items()}
    if schema["type"] == "record":
        return {
            field["name"]: _written(field["type"], getattr(value, field["name"]), types)
            for field in schema["fields"]
        }
    write = _LOGICAL.get(schema.get("logicalType", ""))
    return value if write is None else write(value, schema)


def _micros(value: datetime) -> int:
    moment = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _time_micros(value: time) -> int:
    seconds = (value.hour * 60 + value.minute) * 60 + value.second
    return seconds * 1_000_000 + value.microsecond


def _decimal_text(value: Decimal, schema: Mapping[str, Any]) -> str:
    scaled = value.scaleb(schema["scale"])
    if not value.is_finite() or scaled != scaled.to_integral_value():
        raise _NotWritable
    number = int(scaled)
    size = number.bit_length() // 8 + 1
    return number.to_bytes(size, "big", signed=True).decode("latin-1")


_LOGICAL: dict[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "date": lambda value, _: (value - _EPOCH.date()).days,
    "time-micros": lambda value, _: _time_micros(value),
    "timestamp-micros": lambda value, _: _micros(value),
    "local-timestamp-micros": lambda value, _: _micros(value),
    "decimal": _decimal_text,
    "uuid": lambda value, _: str(value),
}
