"""Python types to Avro schemas, by this table; what is not in it is refused by field name.

| Python | Avro |
|---|---|
| `None` | null |
| `bool`, `int`, `float`, `str`, `bytes` | boolean, long, double, string, bytes |
| `list[X]`, `dict[str, X]` | array, map |
| pydantic model (nested, recursive, generic) | record of the class's name; fields by Python name |
| pydantic `RootModel[X]` | as X |
| `X | Y`, `Optional[X]` | union |
| `Enum` of names that Avro allows | enum, named after the class |
| other `Enum` of text, of int | string, long |
| `Literal[...]` of text, of int, of bool | enum `<Model>_<field>` or string, long, boolean |
| `date` | int, date |
| `datetime` (aware), `NaiveDatetime` | long, timestamp-micros (UTC); long, local-timestamp-micros |
| `time` (naive) | long, time-micros |
| `Decimal` with `max_digits` and `decimal_places` | bytes, decimal |
| `UUID` | string, uuid |

Constraints of pydantic (`Field(gt=0)`, patterns) do not change the schema: they are checked where
a value is read. Defaults are carried into the schema, so that a field that has one may be added
later; `default_factory` only if it is `list`, `dict` or a model. Serializers, aliases and computed
fields are not looked at: a record has the fields of the class, under their Python names.

Refused, with the remedy in the message: `Any`, `object`, tuples, sets, bare `list` and `dict`,
unions whose members Avro cannot tell apart, two classes of one name, everything else.
"""

from __future__ import annotations

import enum
import re
import types
import typing
from collections.abc import Hashable, Iterable, Iterator
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, NaiveDatetime, RootModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typing_extensions import TypeAliasType

from holdfast.schemas.derive_defaults import NO_DEFAULT, avro_default
from holdfast.schemas.errors import UnsupportedType

__all__ = ["branch_tag", "derive", "record_name", "type_name", "unwrap"]

_AVRO_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_PLAIN: dict[Any, Any] = {
    types.NoneType: "null",
    bool: "boolean",
    int: "long",
    float: "double",
    str: "string",
    bytes: "bytes",
    date: {"type": "int", "logicalType": "date"},
    datetime: {"type": "long", "logicalType": "timestamp-micros"},
    time: {"type": "long", "logicalType": "time-micros"},
    UUID: {"type": "string", "logicalType": "uuid"},
}
_NAIVE = {"type": "long", "logicalType": "local-timestamp-micros"}

_REMEDIES: dict[Any, str] = {
    Any: "say what it holds",
    object: "say what it holds",
    tuple: "use a model with named fields, or list[X]",
    set: "use list[X]",
    frozenset: "use list[X]",
    list: "say of what: list[X]",
    dict: "say of what: dict[str, X]",
}


def derive(kind: Any) -> Any:
    """Return the Avro schema (JSON) of a Python type; raises `UnsupportedType` naming the field."""
    return _Deriver().schema(kind, _Place(type_name(kind), ()))


def branch_tag(kind: Any, path: str, metadata: tuple[Any, ...]) -> str:
    """Return the name under which a member of a union at `path` stands in the derived schema."""
    return _union_kind(_Deriver().schema(kind, _Place(path, metadata)))


class _Place(typing.NamedTuple):
    """Where a type stands: `Model.field` for messages, and the metadata of its annotation."""

    path: str
    metadata: tuple[Any, ...]

    def inside(self) -> _Place:
        """Constraints of a list are not those of its items."""
        return _Place(self.path, ())


class _Deriver:
    def __init__(self) -> None:
        self._named: dict[str, Any] = {}
        self._types: dict[str, dict[str, Any]] = {}

    def schema(self, kind: Any, place: _Place) -> Any:
        kind, metadata = unwrap(kind, place.metadata)
        place = place._replace(metadata=metadata)
        origin = typing.get_origin(kind)
        if origin in (typing.Union, types.UnionType):
            return self._union(typing.get_args(kind), place)
        if origin is typing.Literal:
            return self._literal(typing.get_args(kind), place)
        if origin is list:
            return {"type": "array", "items": self.schema(typing.get_args(kind)[0], place.inside())}
        if origin is dict:
            return self._map(typing.get_args(kind), place)
        if _is_naive(kind, place.metadata):
            return dict(_NAIVE)
        if kind is Decimal:
            return _decimal(place)
        if isinstance(kind, type) and origin is None:
            return self._class(kind, place)
        if kind is None:
            return "null"
        raise _refusal(kind, place)

    def _class(self, kind: type, place: _Place) -> Any:
        if issubclass(kind, RootModel):
            return self.schema(kind.model_fields["root"].annotation, place)
        if issubclass(kind, BaseModel):
            return self._record(kind, place)
        if issubclass(kind, enum.Enum):
            return self._enum(kind, place)
        found = _PLAIN.get(datetime if kind is AwareDatetime else kind)
        if found is None:
            raise _refusal(kind, place)
        return dict(found) if isinstance(found, dict) else found

    def _map(self, args: tuple[Any, ...], place: _Place) -> Any:
        key, value = args
        if unwrap(key)[0] is not str:
            raise UnsupportedType(
                f"{place.path}: a dict's keys are text in Avro, here {type_name(key)};"
                " use dict[str, X] or a list of models"
            )
        return {"type": "map", "values": self.schema(value, place.inside())}

    def _union(self, members: tuple[Any, ...], place: _Place) -> Any:
        branches: list[Any] = []
        for member in members:
            found = self.schema(member, place)
            branches += found if isinstance(found, list) else [found]
        # null first, as a default of None needs it there; `_field` moves another default's branch.
        branches.sort(key=lambda branch: branch != "null")
        kinds = [_union_kind(branch) for branch in branches]
        for kind in kinds:
            if kinds.count(kind) > 1:
                raise UnsupportedType(
                    f"{place.path}: Avro cannot tell the members of this union apart: two are"
                    f" written as {kind}; use models with a field that differs"
                )
        return branches

    def _literal(self, values: tuple[Any, ...], place: _Place) -> Any:
        kinds = {type(value) for value in values}
        if None in values:
            rest = tuple(value for value in values if value is not None)
            return ["null", self._literal(rest, place)] if rest else "null"
        if kinds == {str}:
            name = re.sub(r"[^A-Za-z0-9_]", "_", place.path)
            return self._symbols(name, list(values), place)
        if kinds == {int}:
            return "long"
        if kinds == {bool}:
            return "boolean"
        if len(kinds) == 1 and issubclass(next(iter(kinds)), enum.Enum):
            return self._enum(next(iter(kinds)), place)
        raise UnsupportedType(f"{place.path}: a Literal of values of one type: text, int or bool")

    def _enum(self, kind: type[enum.Enum], place: _Place) -> Any:
        values = [member.value for member in kind]
        if all(isinstance(value, str) for value in values):
            return self._symbols(kind.__name__, values, place, owner=kind)
        if all(type(value) is int for value in values):
            return "long"
        raise UnsupportedType(
            f"{place.path}: {kind.__name__} has values that are not all text or int"
        )

    def _symbols(self, name: str, values: list[str], place: _Place, owner: Any = None) -> Any:
        if not all(_AVRO_NAME.fullmatch(value) for value in values):
            return "string"
        owner = tuple(values) if owner is None else owner
        if self._claim(name, owner, place):
            return name
        found = {"type": "enum", "name": name, "symbols": list(values)}
        self._types[name] = found
        return found

    def _claim(self, name: str, owner: Any, place: _Place) -> bool:
        """Note a name; True if it stands for this very type already."""
        if name not in self._named:
            self._named[name] = owner
            return False
        if self._named[name] != owner:
            raise UnsupportedType(
                f"{place.path}: two different types are named {name!r}; rename one of them"
            )
        return True

    def _record(self, kind: type[BaseModel], place: _Place) -> Any:
        name = record_name(kind)
        if self._claim(name, kind, place):
            return name
        record: dict[str, Any] = {"type": "record", "name": name}
        self._types[name] = record
        doc = _doc(kind)
        if doc:
            record["doc"] = doc
        record["fields"] = [
            self._field(kind, field_name, field) for field_name, field in kind.model_fields.items()
        ]
        return record

    def _field(self, kind: type[BaseModel], name: str, field: FieldInfo) -> dict[str, Any]:
        place = _Place(f"{kind.__name__}.{name}", tuple(field.metadata))
        if _AVRO_NAME.fullmatch(name) is None:
            raise UnsupportedType(f"{place.path}: Avro's names are letters, digits and '_' (ASCII)")
        schema = self.schema(field.annotation, place)
        entry: dict[str, Any] = {"name": name, "type": schema}
        default = _default(field)
        if default is not NO_DEFAULT:
            entry["type"], written = avro_default(schema, default, self._types)
            if written is not NO_DEFAULT:
                entry["default"] = written
        if field.description:
            entry["doc"] = field.description
        return entry


def record_name(kind: type) -> str:
    """Return the name of a model's record: the class's, with the arguments of a generic one."""
    return re.sub(r"[^A-Za-z0-9_]+", "_", kind.__name__).strip("_")


def unwrap(kind: Any, metadata: tuple[Any, ...] = ()) -> tuple[Any, tuple[Any, ...]]:
    """Return a type without `Annotated` and aliases, and all metadata on the way."""
    while True:
        origin = typing.get_origin(kind)
        if origin is typing.Annotated:
            kind, *found = typing.get_args(kind)
            metadata = (*_flat(found), *metadata)
        elif isinstance(kind, TypeAliasType):
            kind = kind.__value__
        else:
            return kind, metadata


def _flat(metadata: Iterable[Any]) -> Iterator[Any]:
    for each in metadata:
        if isinstance(each, FieldInfo):
            yield from each.metadata
        else:
            yield each


def _decimal(place: _Place) -> Any:
    digits = places = None
    for each in place.metadata:
        digits = getattr(each, "max_digits", None) or digits
        found = getattr(each, "decimal_places", None)
        places = places if found is None else found
    if digits is None or places is None:
        raise UnsupportedType(
            f"{place.path}: a Decimal needs its size in Avro; use"
            " Annotated[Decimal, Field(max_digits=18, decimal_places=2)]"
        )
    return {"type": "bytes", "logicalType": "decimal", "precision": digits, "scale": places}


def _is_naive(kind: Any, metadata: tuple[Any, ...]) -> bool:
    # NaiveDatetime is a class to type checkers only; at run time it marks the field's schema.
    return kind is NaiveDatetime or (
        kind is datetime and any(each is NaiveDatetime for each in metadata)
    )


def _refusal(kind: Any, place: _Place) -> UnsupportedType:
    origin = typing.get_origin(kind) or kind
    remedy = _REMEDIES.get(origin) if isinstance(origin, Hashable) else None
    end = f"; {remedy}" if remedy else "; the table in holdfast.schemas.derive lists what has"
    return UnsupportedType(f"{place.path}: {type_name(kind)} has no counterpart in Avro{end}")


def _default(field: FieldInfo) -> Any:
    if field.default is not PydanticUndefined:
        return field.default
    factory = field.default_factory
    if isinstance(factory, type) and issubclass(factory, list | dict | BaseModel):
        return factory()
    return NO_DEFAULT


def _union_kind(branch: Any) -> str:
    """Return what Avro allows once in a union: each unnamed type, each name."""
    if isinstance(branch, str):
        return branch
    return str(branch.get("name") or branch["type"])


def _doc(kind: type[BaseModel]) -> str:
    own = kind.__dict__.get("__doc__") or ""
    return str(own).strip().partition("\n")[0]


def type_name(kind: Any) -> str:
    """Return a type for messages."""
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
