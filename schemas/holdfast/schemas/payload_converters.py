"""What turns validated values of a Python type into what fastavro writes, compiled once per type.

The converters follow the table of `holdfast.schemas.derive`. None stands for "as it is".
"""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Callable
from datetime import datetime, time
from typing import Any

from pydantic import BaseModel, NaiveDatetime, RootModel

from holdfast.schemas.derive import branch_tag, unwrap
from holdfast.schemas.document_types import Misfit, shorten

__all__ = ["Convert", "PayloadCompiler"]

Convert = Callable[[Any], Any]


class PayloadCompiler:
    """Compiles one type. `models` gathers the pydantic models on the way, by record name."""

    def __init__(self) -> None:
        self._records: dict[type, Convert | None] = {}

    @property
    def models(self) -> tuple[type[BaseModel], ...]:
        """All models that the type is made of."""
        return tuple(self._records)

    def compile(self, kind: Any, path: str, metadata: tuple[Any, ...] = ()) -> Convert | None:
        """Return the converter of `kind`, which stands at `path` (`Model.field`)."""
        kind, metadata = unwrap(kind, metadata)
        origin = typing.get_origin(kind)
        if origin in (typing.Union, types.UnionType):
            return self._union(typing.get_args(kind), path, metadata)
        if origin is typing.Literal:
            return _value_of if _holds_enums(typing.get_args(kind)) else None
        if origin is list:
            return _over_list(self.compile(typing.get_args(kind)[0], path))
        if origin is dict:
            return _over_dict(self.compile(typing.get_args(kind)[1], path))
        if kind is NaiveDatetime or (kind is datetime and NaiveDatetime in metadata):
            return None
        if isinstance(kind, type):
            return self._class(kind, path)
        return None

    def _class(self, kind: type, path: str) -> Convert | None:
        if issubclass(kind, RootModel):
            inner = self.compile(kind.model_fields["root"].annotation, path)
            return (lambda value: value.root) if inner is None else lambda v: inner(v.root)
        if issubclass(kind, BaseModel):
            return self._record(kind)
        if issubclass(kind, enum.Enum):
            return _value_of
        if kind is time:
            return _naive_time
        # AwareDatetime is a class of its own at type level, datetime at run time.
        return _aware if issubclass(kind, datetime) or kind.__name__ == "AwareDatetime" else None

    def _record(self, kind: type[BaseModel]) -> Convert:
        if kind in self._records:
            return lambda value: self._converted(kind, value)
        self._records[kind] = None
        fields = [
            (name, self.compile(field.annotation, f"{kind.__name__}.{name}", tuple(field.metadata)))
            for name, field in kind.model_fields.items()
        ]

        def convert(value: Any) -> dict[str, Any]:
            row = {}
            for name, to_avro in fields:
                found = getattr(value, name)
                if to_avro is not None:
                    try:
                        found = to_avro(found)
                    except Misfit as misfit:
                        raise misfit.within(name) from None
                row[name] = found
            return row

        self._records[kind] = convert
        return convert

    def _converted(self, kind: type, value: Any) -> Any:
        convert = self._records[kind]
        assert convert is not None
        return convert(value)

    def _union(self, members: tuple[Any, ...], path: str, metadata: tuple[Any, ...]) -> Convert:
        branches = [
            _Branch(member, self.compile(member, path, metadata), path, metadata)
            for member in _flatten(members)
            if member is not types.NoneType
        ]
        by_type: dict[type, list[_Branch]] = {}
        for branch in branches:
            by_type.setdefault(branch.python_type, []).append(branch)

        def convert(value: Any) -> Any:
            if value is None:
                return None
            for branch in by_type.get(type(value), ()):
                if branch.values is None or value in branch.values:
                    return branch.tagged(value)
            for branch in branches:
                if branch.takes(value):
                    return branch.tagged(value)
            raise Misfit(f"{shorten(value)} is of no type of this union")

        return convert


class _Branch:
    """One member of a union: which values are its, and under which name they are written."""

    def __init__(
        self, kind: Any, convert: Convert | None, path: str, metadata: tuple[Any, ...]
    ) -> None:
        plain, _ = unwrap(kind)
        origin = typing.get_origin(plain)
        self.tag = branch_tag(kind, path, metadata)
        self.values: tuple[Any, ...] | None = None
        self._convert = convert
        if origin is typing.Literal:
            self.values = typing.get_args(plain)
            self.python_type = type(self.values[0])
        else:
            found = origin or plain
            self.python_type = found if isinstance(found, type) else datetime

    def takes(self, value: Any) -> bool:
        """Whether a value that is of none of the types exactly may be written here."""
        if self.values is not None:
            return value in self.values
        if self.python_type is float:
            return type(value) is int
        return isinstance(value, self.python_type)

    def tagged(self, value: Any) -> tuple[str, Any]:
        """Return the value with its branch's name."""
        return self.tag, value if self._convert is None else self._convert(value)


def _flatten(members: tuple[Any, ...]) -> list[Any]:
    found: list[Any] = []
    for member in members:
        plain, _ = unwrap(member)
        if typing.get_origin(plain) in (typing.Union, types.UnionType):
            found += _flatten(typing.get_args(plain))
        elif typing.get_origin(plain) is typing.Literal and None in typing.get_args(plain):
            rest = tuple(value for value in typing.get_args(plain) if value is not None)
            found += [types.NoneType, *([typing.Literal[rest]] if rest else [])]
        else:
            found.append(member)
    return found


def _holds_enums(values: tuple[Any, ...]) -> bool:
    return any(isinstance(value, enum.Enum) for value in values)


def _value_of(value: Any) -> Any:
    return value.value if isinstance(value, enum.Enum) else value


def _aware(value: Any) -> Any:
    if isinstance(value, datetime) and value.tzinfo is None:
        raise Misfit(
            f"{value.isoformat()} has no time zone; give it one (datetime.now(UTC)),"
            " or declare the field as NaiveDatetime"
        )
    return value


def _naive_time(value: Any) -> Any:
    if isinstance(value, time) and value.tzinfo is not None:
        raise Misfit(f"{value.isoformat()} has a time zone, which Avro's time cannot hold")
    return value


def _over_list(convert: Convert | None) -> Convert | None:
    if convert is None:
        return None

    def convert_list(values: Any) -> list[Any]:
        found = []
        for index, value in enumerate(values):
            try:
                found.append(convert(value))
            except Misfit as misfit:
                raise misfit.within(f"[{index}]") from None
        return found

    return convert_list


def _over_dict(convert: Convert | None) -> Convert | None:
    if convert is None:
        return None

    def convert_dict(values: Any) -> dict[str, Any]:
        found = {}
        for name, value in values.items():
            try:
                found[name] = convert(value)
            except Misfit as misfit:
                raise misfit.within(name) from None
        return found

    return convert_dict
