"""What stands between hostile bytes and a decoder written in C.

fastavro trusts the bytes it reads in three ways (each was tried, version 1.13): a list whose items
take no bytes may claim 2^62 of them; data of a recursive schema nested 100,000 deep ends the
process by a stack overflow; a decimal of 100,000 bytes takes a second. For schemas in which one of
these can happen, `compile_guard` gives a function that walks the bytes first, in Python, building
nothing. For all others it gives None: there, what bytes can claim is bounded by how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from holdfast.schemas.errors import Undecodable

__all__ = ["DECIMAL_BYTES_MAX", "NESTING_MAX", "compile_guard"]

NESTING_MAX = 100
"""How deep a recursive type may be nested, in data."""
DECIMAL_BYTES_MAX = 512
"""More bytes than any decimal that can be told apart by hand: over a thousand digits."""
EMPTY_ITEMS_MAX = 10_000
"""How many items that take no bytes a list may have."""

_FIXED_SIZES = {"null": 0, "float": 4, "double": 8}
_MIN_SIZES = {"null": 0, "boolean": 1, "int": 1, "long": 1, "float": 4, "double": 8}
_VARINT_BYTES_MAX = 10

_Skip = Callable[[bytes, int, int], int]
"""(data, position, depth) to the position after the value; raises `Undecodable`."""


def compile_guard(schema: Any) -> Callable[[bytes], None] | None:
    """Return what checks the bytes of a parsed schema (see above), or None if it needs no check."""
    compiler = _Compiler()
    skip = compiler.skip(schema)
    if not compiler.risky:
        return None

    def check(data: bytes) -> None:
        if skip(data, 0, 0) != len(data):
            raise Undecodable("bytes left over at its end")

    return check


def _read_long(data: bytes, position: int) -> tuple[int, int]:
    number = shift = 0
    for byte in data[position : position + _VARINT_BYTES_MAX]:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), position + shift // 7
    raise Undecodable(f"no number at byte {position}")


def _advance(data: bytes, position: int, size: int) -> int:
    if not 0 <= size <= len(data) - position:
        raise Undecodable(
            f"{size} bytes claimed at byte {position}, {len(data) - position} are left"
        )
    return position + size


class _Compiler:
    """Turns a schema into nested closures and notes whether it is one of the risky ones."""

    def __init__(self) -> None:
        self.risky = False
        self._named: dict[str, _Skip | None] = {}
        self._schemas: dict[str, Any] = {}

    def skip(self, schema: Any) -> _Skip:
        if isinstance(schema, str):
            return self._primitive(schema)
        if isinstance(schema, list):
            return self._union([self.skip(branch) for branch in schema])
        kind = schema["type"]
        if kind in ("record", "error"):
            return self._record(schema)
        if kind == "array":
            return self._blocks(self.skip(schema["items"]), self._min_size(schema["items"], ()))
        if kind == "map":
            return self._blocks(_then(_skip_sized, self.skip(schema["values"])), 1)
        if kind in ("enum", "fixed"):
            return self._sized_name(schema)
        if schema.get("logicalType") == "decimal":
            self.risky = True
            return _skip_decimal
        return self.skip(kind)

    def _primitive(self, name: str) -> _Skip:
        if name in _FIXED_SIZES:
            size = _FIXED_SIZES[name]
            return lambda data, position, _: _advance(data, position, size)
        if name == "boolean":
            return lambda data, position, _: _advance(data, position, 1)
        if name in ("int", "long"):
            return lambda data, position, _: _read_long(data, position)[1]
        if name in ("bytes", "string"):
            return _skip_sized
        return self._reference(name)

    def _reference(self, name: str) -> _Skip:
        found = self._named[name]
        if found is not None:
            return found
        # Still being compiled: the type contains itself.
        self.risky = True

        def skip(data: bytes, position: int, depth: int) -> int:
            if depth >= NESTING_MAX:
                raise Undecodable(f"{name} is nested more than {NESTING_MAX} deep")
            target = self._named[name]
            assert target is not None
            return target(data, position, depth + 1)

        return skip

    def _record(self, schema: Mapping[str, Any]) -> _Skip:
        name = schema["name"]
        self._named[name] = None
        self._schemas[name] = schema
        fields = [self.skip(field["type"]) for field in schema["fields"]]

        def skip(data: bytes, position: int, depth: int) -> int:
            for field in fields:
                position = field(data, position, depth)
            return position

        self._named[name] = skip
        return skip

    def _sized_name(self, schema: Mapping[str, Any]) -> _Skip:
        self._schemas[schema["name"]] = schema
        skip: _Skip
        if schema["type"] == "enum":
            skip = self._primitive("int")
        else:
            size = schema["size"]
            self.risky |= schema.get("logicalType") == "decimal" and size > DECIMAL_BYTES_MAX
            skip = lambda data, position, _: _advance(data, position, size)  # noqa: E731
        self._named[schema["name"]] = skip
        return skip

    def _union(self, branches: list[_Skip]) -> _Skip:
        def skip(data: bytes, position: int, depth: int) -> int:
            index, position = _read_long(data, position)
            if not 0 <= index < len(branches):
                raise Undecodable(f"branch {index} of {len(branches)} at byte {position}")
            return branches[index](data, position, depth)

        return skip

    def _blocks(self, item: _Skip, min_size: int) -> _Skip:
        self.risky |= min_size == 0

        def skip(data: bytes, position: int, depth: int) -> int:
            empty = 0
            while True:
                count, position = _read_long(data, position)
                if count == 0:
                    return position
                if count < 0:
                    count = -count
                    _, position = _read_long(data, position)
                empty += 0 if min_size else count
                if empty > EMPTY_ITEMS_MAX or count * min_size > len(data) - position:
                    raise Undecodable(f"{count} items claimed at byte {position}")
                for _ in range(count):
                    position = item(data, position, depth)

        return skip

    def _min_size(self, schema: Any, seen: tuple[str, ...]) -> int:
        """How few bytes a value can take."""
        if isinstance(schema, str):
            if schema in _MIN_SIZES:
                return _MIN_SIZES[schema]
            if schema in seen or schema not in self._schemas:
                return 1 if schema in ("bytes", "string") else 0
            return self._min_size(self._schemas[schema], seen)
        if isinstance(schema, list) or schema["type"] in ("array", "map", "enum"):
            return 1
        if schema["type"] == "fixed":
            return int(schema["size"])
        if schema["type"] in ("record", "error"):
            inner = (*seen, schema["name"])
            return sum(self._min_size(field["type"], inner) for field in schema["fields"])
        return self._min_size(schema["type"], seen)


def _skip_sized(data: bytes, position: int, _depth: int) -> int:
    size, position = _read_long(data, position)
    return _advance(data, position, size)


def _skip_decimal(data: bytes, position: int, _depth: int) -> int:
    size, position = _read_long(data, position)
    if size > DECIMAL_BYTES_MAX:
        raise Undecodable(f"a decimal of {size} bytes at byte {position}")
    return _advance(data, position, size)


def _then(first: _Skip, second: _Skip) -> _Skip:
    return lambda data, position, depth: second(data, first(data, position, depth), depth)
