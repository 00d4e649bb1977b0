"""Which schema can read what another has written: Avro's rules of resolution, and one more.

Written here instead of taken from the `avro` package: that one ignores logical types (a timestamp
passes for a number), compares unions by name only, and cannot say which field it is about. The rule
added: a logical type is read as the same logical type only, a decimal with the same scale and at
least the same precision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

from holdfast.schemas.errors import IncompatibleSchema
from holdfast.schemas.schema_tree import named_types
from holdfast.schemas.wire import compile_schema

__all__ = ["Compatibility", "check_compatible", "reading_problem"]


class Compatibility(StrEnum):
    """Who must be able to read what, when a schema is followed by a new version."""

    BACKWARD = "backward"  # the new version reads what the old one wrote
    FORWARD = "forward"  # the old version reads what the new one writes
    FULL = "full"  # both
    NONE = "none"


def check_compatible(
    old: Any, new: Any, mode: Compatibility, *, subject: str, old_version: int
) -> None:
    """Raise `IncompatibleSchema` if `new` may not follow `old`.

    The message names the subject, which version could not read which, the field and the reason.
    """
    versions = f"version {old_version}", "the new version"
    if mode in (Compatibility.BACKWARD, Compatibility.FULL):
        _check(new, old, subject, versions[1], versions[0])
    if mode in (Compatibility.FORWARD, Compatibility.FULL):
        _check(old, new, subject, versions[0], versions[1])


def _check(reader: Any, writer: Any, subject: str, reader_name: str, writer_name: str) -> None:
    problem = reading_problem(reader, writer)
    if problem is not None:
        raise IncompatibleSchema(
            f"schema of {subject!r}: as a reader, {reader_name} cannot take what {writer_name}"
            f" writes: {problem}"
        )


def reading_problem(reader: Any, writer: Any) -> str | None:
    """Return why `reader` cannot read what `writer` writes (the field and the reason), or None."""
    found = _Resolution(compile_schema(reader).parsed, compile_schema(writer).parsed).problem()
    if found is None:
        return None
    path, reason = found
    return f"field {path!r}: {reason}" if path else reason


_PROMOTIONS = {
    "int": ("long", "float", "double"),
    "long": ("float", "double"),
    "float": ("double",),
    "string": ("bytes",),
    "bytes": ("string",),
}

_Problem = tuple[str, str]
"""(path of the field, reason)."""


class _Resolution:
    """One reader against one writer; each pair of records is looked at once, as they may recur."""

    def __init__(self, reader: Any, writer: Any) -> None:
        self._reader, self._writer = reader, writer
        self._readers = dict(named_types(reader))
        self._writers = dict(named_types(writer))
        self._seen: set[tuple[str, str]] = set()
        self._compare: dict[str, Callable[[Any, Any, str], _Problem | None]] = {
            "record": self._records,
            "enum": _enums,
            "fixed": _fixed,
            "array": lambda r, w, path: self._pair(r["items"], w["items"], f"{path}[]"),
            "map": lambda r, w, path: self._pair(r["values"], w["values"], f"{path}{{}}"),
        }

    def problem(self) -> _Problem | None:
        return self._pair(self._reader, self._writer, "")

    def _pair(self, reader: Any, writer: Any, path: str) -> _Problem | None:
        reader = _named(reader, self._readers)
        writer = _named(writer, self._writers)
        if isinstance(writer, list):
            for branch in writer:
                found = self._pair(reader, branch, path)
                if found is not None:
                    return found
            return None
        if isinstance(reader, list):
            return self._into_union(reader, writer, path)
        if _logical(reader) != _logical(writer):
            return path, f"{_shown(writer)} cannot be read as {_shown(reader)}"
        kind, written = _kind(reader), _kind(writer)
        if kind != written:
            if kind in _PROMOTIONS.get(written, ()) and _logical(reader) is None:
                return None
            return path, f"{_shown(writer)} cannot be read as {_shown(reader)}"
        compare = self._compare.get(kind)
        found = None if compare is None else compare(reader, writer, path)
        return found or _decimals(reader, writer, path)

    def _into_union(self, reader: list[Any], writer: Any, path: str) -> _Problem | None:
        branches = [_named(branch, self._readers) for branch in reader]
        same = [branch for branch in branches if _same_type(branch, writer)]
        if len(same) == 1:
            return self._pair(same[0], writer, path)
        if any(self._pair(branch, writer, path) is None for branch in branches):
            return None
        expected = " or ".join(_shown(branch) for branch in branches)
        return path, f"{_shown(writer)} cannot be read as {expected}"

    def _records(
        self, reader: Mapping[str, Any], writer: Mapping[str, Any], path: str
    ) -> _Problem | None:
        if _short(reader) != _short(writer):
            return path, f"record {_short(writer)!r} is now named {_short(reader)!r}"
        pair = reader["name"], writer["name"]
        if pair in self._seen:
            return None
        self._seen.add(pair)
        written = {field["name"]: field for field in writer["fields"]}
        for field in reader["fields"]:
            inner = f"{path}.{field['name']}" if path else field["name"]
            other = written.get(field["name"])
            if other is None:
                if "default" in field:
                    continue
                return inner, "it is asked for without a default, and was not there before"
            found = self._pair(field["type"], other["type"], inner)
            if found is not None:
                return found
        return None


def _named(schema: Any, known: Mapping[str, Any]) -> Any:
    return known.get(schema, schema) if isinstance(schema, str) else schema


def _kind(schema: Any) -> str:
    kind = schema if isinstance(schema, str) else schema["type"]
    return "record" if kind == "error" else str(kind)


def _logical(schema: Any) -> str | None:
    return None if isinstance(schema, str) else schema.get("logicalType")


def _short(schema: Mapping[str, Any]) -> str:
    return str(schema["name"]).rpartition(".")[2]


def _shown(schema: Any) -> str:
    if isinstance(schema, list):
        return " or ".join(_shown(branch) for branch in schema)
    logical = _logical(schema)
    name = _short(schema) if isinstance(schema, Mapping) and "name" in schema else ""
    return logical or f"{_kind(schema)} {name}".strip()


def _same_type(reader: Any, writer: Any) -> bool:
    if _kind(reader) != _kind(writer) or _logical(reader) != _logical(writer):
        return False
    return "name" not in reader or _short(reader) == _short(writer)


def _enums(reader: Mapping[str, Any], writer: Mapping[str, Any], path: str) -> _Problem | None:
    if _short(reader) != _short(writer):
        return path, f"enum {_short(writer)!r} is now named {_short(reader)!r}"
    gone = [symbol for symbol in writer["symbols"] if symbol not in reader["symbols"]]
    if gone and "default" not in reader:
        return path, f"{gone[0]!r} is no longer one of its values"
    return None


def _fixed(reader: Mapping[str, Any], writer: Mapping[str, Any], path: str) -> _Problem | None:
    if _short(reader) == _short(writer) and reader["size"] == writer["size"]:
        return None
    return path, f"fixed {_short(writer)!r} has another name or size now"


def _decimals(reader: Any, writer: Any, path: str) -> _Problem | None:
    if _logical(reader) != "decimal":
        return None
    if reader.get("scale", 0) != writer.get("scale", 0):
        return path, "the decimal has another number of places now"
    if reader["precision"] < writer["precision"]:
        return path, "the decimal has fewer digits now"
    return None
