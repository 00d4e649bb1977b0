"""The single values of a document, to Avro's and back: numbers, text, and the logical types."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

__all__ = [
    "LOGICAL_TYPES",
    "Misfit",
    "from_plain_type",
    "logical_type_of",
    "shorten",
    "to_plain_type",
]

_Convert = Callable[[Any], Any]

_INT_BOUNDS = {"int": 2**31, "long": 2**63}


class Misfit(Exception):
    """A value does not fit; `path` is put together from the inside outwards."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path: list[str] = []

    def within(self, name: str) -> Misfit:
        """Return itself, as seen from one level further out."""
        self.path.append(name)
        return self

    def message(self) -> str:
        """Return it for people: the field first."""
        path = ".".join(reversed(self.path)).replace(".[", "[")
        return f"field {path!r}: {self.reason}" if path else self.reason


def shorten(value: Any) -> str:
    """Return `value` for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _expected(what: str, value: Any) -> Misfit:
    return Misfit(f"expected {what}, got {shorten(value)}")


def to_plain_type(name: str) -> _Convert:
    """Return what checks a document's value for a primitive type."""
    return _TO_PLAIN[name]


def from_plain_type(name: str) -> _Convert | None:
    """Return what makes a document's value of a primitive one; None: it is one already."""
    return _encode_base64 if name in ("bytes", "fixed") else None


def logical_type_of(schema: Mapping[str, Any]) -> str | None:
    """Return a logical type that we know, on the type that it belongs to; else None."""
    name = schema.get("logicalType")
    known = LOGICAL_TYPES.get(name) if isinstance(name, str) else None
    return name if known is not None and schema["type"] in known[0] else None


def _null(value: Any) -> None:
    if value is not None:
        raise _expected("null", value)


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise _expected("boolean", value)
    return value


def _integer(name: str) -> _Convert:
    bound = _INT_BOUNDS[name]

    def convert(value: Any) -> int:
        if type(value) is float and value.is_integer():
            # JSON does not tell 3.0 from 3, and JMESPath's arithmetic gives floats.
            value = int(value)
        if type(value) is not int:
            raise _expected(name, value)
        if not -bound <= value < bound:
            raise Misfit(f"{shorten(value)} is too large for {name}")
        return value

    return convert


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise _expected("double", value)
    try:
        return float(value)
    except OverflowError:
        raise Misfit(f"{shorten(value)} is too large for double") from None


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise _expected("string", value)
    return value


def _decode_base64(value: Any) -> bytes:
    if not isinstance(value, str):
        raise _expected("bytes (text, base64)", value)
    try:
        return base64.b64decode(value.replace("-", "+").replace("_", "/"), validate=True)
    except ValueError:
        raise _expected("bytes (text, base64)", value) from None


def _encode_base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


_TO_PLAIN: dict[str, _Convert] = {
    "null": _null,
    "boolean": _boolean,
    "int": _integer("int"),
    "long": _integer("long"),
    "float": _number,
    "double": _number,
    "string": _string,
    "bytes": _decode_base64,
    "fixed": _decode_base64,
}


def _parsed(what: str, parse: Callable[[str], Any]) -> _Convert:
    def convert(value: Any) -> Any:
        if not isinstance(value, str):
            raise _expected(what, value)
        try:
            return parse(value)
        except (ValueError, InvalidOperation):
            raise _expected(what, value) from None

    return convert


def _instant(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no offset")
    return moment


def _local(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is not None:
        raise ValueError("an offset")
    return moment


def _decimal(value: Any) -> Decimal:
    if type(value) in (int, float):
        value = str(value)
    found: Decimal = _parsed("decimal", Decimal)(value)
    if not found.is_finite():
        raise _expected("decimal", value)
    return found


def _iso_instant(value: datetime) -> str:
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


_INSTANT = "date and time with an offset (ISO 8601)"
_LOCAL = "date and time without an offset (ISO 8601)"

LOGICAL_TYPES: dict[str, tuple[tuple[str, ...], _Convert, _Convert]] = {
    "date": (("int",), _parsed("date (ISO 8601)", date.fromisoformat), date.isoformat),
    "time-millis": (("int",), _parsed("time (ISO 8601)", time.fromisoformat), time.isoformat),
    "time-micros": (("long",), _parsed("time (ISO 8601)", time.fromisoformat), time.isoformat),
    "timestamp-millis": (("long",), _parsed(_INSTANT, _instant), _iso_instant),
    "timestamp-micros": (("long",), _parsed(_INSTANT, _instant), _iso_instant),
    "local-timestamp-millis": (("long",), _parsed(_LOCAL, _local), datetime.isoformat),
    "local-timestamp-micros": (("long",), _parsed(_LOCAL, _local), datetime.isoformat),
    "decimal": (("bytes", "fixed"), _decimal, str),
    "uuid": (("string",), _parsed("UUID", UUID), str),
}
"""Logical type to: the types it may stand on, to Avro, from Avro."""
