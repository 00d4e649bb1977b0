"""Converters between documents and what fastavro writes and reads, compiled once per schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from holdfast.schemas.document_types import (
    LOGICAL_TYPES,
    Misfit,
    from_plain_type,
    logical_type_of,
    shorten,
    to_plain_type,
)
from holdfast.schemas.errors import did_you_mean

__all__ = ["PRIMITIVES", "Convert", "compile_decoder", "compile_encoder"]

_BY_TYPE: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (bytes, from_plain_type("bytes") or str),
    (datetime, lambda value: LOGICAL_TYPES[_timestamp(value)][2](value)),
    (date, date.isoformat),
    (time, time.isoformat),
    (Decimal, str),
    (UUID, str),
)

PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "string", "bytes"})

Convert = Callable[[Any], Any]


def _timestamp(value: datetime) -> str:
    return "timestamp-micros" if value.tzinfo is not None else "local-timestamp-micros"


def compile_encoder(
    parsed: Any, *, strict: bool, named: Mapping[str, Any] | None = None
) -> Convert:
    """Return what turns a document into what fastavro writes; it raises `Misfit`.

    `parsed` is a schema after `fastavro.parse_schema`: all names in it are full. `strict`: names
    that the schema does not know are refused instead of left out. `named`: types by name that
    stand outside of `parsed`.
    """
    encoder = _Encoder(strict)
    for schema in (named or {}).values():
        encoder.compile(schema)
    return encoder.compile(parsed)


def compile_decoder(parsed: Any) -> Convert | None:
    """Return what turns a value that fastavro read into a document; None: it is one already."""
    return _Decoder().compile(parsed)


class _Encoder:
    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self._named: dict[str, Convert] = {}
        self._schemas: dict[str, Any] = {}

    def compile(self, schema: Any) -> Convert:
        if isinstance(schema, str):
            if schema in PRIMITIVES:
                return to_plain_type(schema)
            # By name and late: a type may contain itself.
            return lambda value: self._named[schema](value)  # noqa: PLW0108 - not known yet
        if isinstance(schema, list):
            return self._union(schema)
        kind = schema["type"]
        logical = logical_type_of(schema)
        if kind in ("record", "error"):
            return self._record(schema)
        if kind == "array":
            return _array(self.compile(schema["items"]))
        if kind == "map":
            return _map(self.compile(schema["values"]))
        if kind == "enum":
            convert = _enum(schema)
        elif logical is not None:
            convert = LOGICAL_TYPES[logical][1]
        elif kind == "fixed":
            convert = _fixed(schema)
        else:
            return self.compile(kind)
        if "name" in schema:
            self._named[schema["name"]] = convert
            self._schemas[schema["name"]] = schema
        return convert

    def _record(self, schema: Mapping[str, Any]) -> Convert:
        name = schema["name"]
        fields: list[tuple[str, Convert, bool]] = []
        known: dict[str, None] = {}

        def convert(value: Any) -> dict[str, Any]:
            if not isinstance(value, (dict, Mapping)):  # a dict is told five times as fast
                raise Misfit(f"expected object ({name}), got {shorten(value)}")
            row = {}
            for field, to_avro, has_default in fields:
                if field not in value:
                    if has_default:
                        continue
                    raise Misfit("is missing").within(field)
                try:
                    row[field] = to_avro(value[field])
                except Misfit as misfit:
                    raise misfit.within(field) from None
            if self._strict and len(row) < len(value):
                _refuse_unknown(value, known)
            return row

        self._named[name] = convert
        self._schemas[name] = schema
        for field in schema["fields"]:
            fields.append((field["name"], self.compile(field["type"]), "default" in field))
            known[field["name"]] = None
        return convert

    def _union(self, branches: list[Any]) -> Convert:
        others = [branch for branch in branches if branch != "null"]
        nullable = len(others) < len(branches)
        tagged = [(self._tag(branch), self.compile(branch)) for branch in others]
        fields = [self._fields(branch) for branch in others]
        several = sum(1 for names in fields if names is not None) > 1

        def convert(value: Any) -> Any:
            if value is None and nullable:
                return None
            candidates = tagged
            if several and isinstance(value, Mapping):
                candidates = _by_fields(value, tagged, fields)
            first: Misfit | None = None
            for tag, to_avro in candidates:
                try:
                    return tag, to_avro(value)
                except Misfit as misfit:
                    first = first or misfit
            if first is not None and (len(others) == 1 or first.path):
                raise first
            raise Misfit(f"expected {_either(tagged, nullable)}, got {shorten(value)}")

        return convert

    def _fields(self, branch: Any) -> frozenset[str] | None:
        schema = self._schemas.get(branch) if isinstance(branch, str) else branch
        if not isinstance(schema, Mapping) or schema["type"] not in ("record", "error"):
            return None
        return frozenset(field["name"] for field in schema["fields"])

    def _tag(self, branch: Any) -> str:
        """Return the name by which fastavro finds the branch."""
        if isinstance(branch, str):
            return branch
        return str(branch.get("name") or branch["type"])


def _by_fields(
    value: Mapping[str, Any],
    tagged: list[tuple[str, Convert]],
    fields: list[frozenset[str] | None],
) -> list[tuple[str, Convert]]:
    """Of several records the one that would leave out the fewest names comes first."""
    lost = [len(value) if names is None else len(value.keys() - names) for names in fields]
    return [tagged[index] for index in sorted(range(len(tagged)), key=lost.__getitem__)]


def _either(tagged: list[tuple[str, Convert]], nullable: bool) -> str:
    return " or ".join([tag for tag, _ in tagged] + ["null"] * nullable)


def _refuse_unknown(value: Mapping[str, Any], known: Mapping[str, None]) -> None:
    for name in value:
        if name not in known:
            raise Misfit(f"is unknown{did_you_mean(str(name), known)}").within(str(name))


def _array(item: Convert) -> Convert:
    def convert(value: Any) -> list[Any]:
        if not isinstance(value, list | tuple):
            raise Misfit(f"expected list, got {shorten(value)}")
        items = []
        for index, each in enumerate(value):
            try:
                items.append(item(each))
            except Misfit as misfit:
                raise misfit.within(f"[{index}]") from None
        return items

    return convert


def _map(item: Convert) -> Convert:
    def convert(value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise Misfit(f"expected object, got {shorten(value)}")
        items = {}
        for name, each in value.items():
            if not isinstance(name, str):
                raise Misfit(f"expected text as a name, got {shorten(name)}")
            try:
                items[name] = item(each)
            except Misfit as misfit:
                raise misfit.within(name) from None
        return items

    return convert


def _enum(schema: Mapping[str, Any]) -> Convert:
    symbols = schema["symbols"]
    shown = ", ".join(symbols[:8]) + (", ..." if len(symbols) > 8 else "")

    def convert(value: Any) -> str:
        if not isinstance(value, str) or value not in symbols:
            raise Misfit(f"expected one of {shown}, got {shorten(value)}")
        return value

    return convert


def _fixed(schema: Mapping[str, Any]) -> Convert:
    size, decode = schema["size"], to_plain_type("fixed")

    def convert(value: Any) -> bytes:
        data: bytes = decode(value)
        if len(data) != size:
            raise Misfit(f"expected {size} bytes, got {len(data)}")
        return data

    return convert


class _Decoder:
    """Compiles to None where nothing is to be done, so that plain data is handed on as it is."""

    def __init__(self) -> None:
        self._named: dict[str, Convert | None] = {}
        self._open: set[str] = set()

    def compile(self, schema: Any) -> Convert | None:
        if isinstance(schema, str):
            return from_plain_type(schema) if schema in PRIMITIVES else self._reference(schema)
        if isinstance(schema, list):
            return self._union(schema)
        kind = schema["type"]
        logical = logical_type_of(schema)
        if kind in ("record", "error"):
            return self._record(schema)
        if kind in ("array", "map"):
            inner = self.compile(schema["items" if kind == "array" else "values"])
            return None if inner is None else _each(inner, kind)
        if kind == "enum":
            convert = None
        elif logical is not None:
            convert = LOGICAL_TYPES[logical][2]
        else:
            convert = (
                from_plain_type(kind) if kind in (*PRIMITIVES, "fixed") else self.compile(kind)
            )
        if "name" in schema:
            self._named[schema["name"]] = convert
        return convert

    def _reference(self, name: str) -> Convert | None:
        if name not in self._open:
            return self._named[name]

        def convert(value: Any) -> Any:
            found = self._named[name]
            return value if found is None else found(value)

        return convert

    def _record(self, schema: Mapping[str, Any]) -> Convert | None:
        name = schema["name"]
        self._open.add(name)
        self._named[name] = None
        compiled = [(field["name"], self.compile(field["type"])) for field in schema["fields"]]
        fields = [(field, convert) for field, convert in compiled if convert is not None]
        self._open.discard(name)
        if not fields:
            return None

        def convert_record(row: dict[str, Any]) -> dict[str, Any]:
            for field, convert in fields:
                row[field] = convert(row[field])
            return row

        self._named[name] = convert_record
        return convert_record

    def _union(self, branches: list[Any]) -> Convert | None:
        converters = [self.compile(branch) for branch in branches if branch != "null"]
        if all(convert is None for convert in converters):
            return None
        if len(converters) == 1:
            only = converters[0]
            assert only is not None
            return lambda value: None if value is None else only(value)
        return plain


def plain(value: Any) -> Any:
    """Return a value that fastavro read as a document: by what it is, not by its schema."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    for kind, convert in _BY_TYPE:
        if isinstance(value, kind):
            return convert(value)
    return value


def _each(inner: Convert, kind: str) -> Convert:
    if kind == "array":
        return lambda values: [inner(value) for value in values]
    return lambda values: {name: inner(value) for name, value in values.items()}
