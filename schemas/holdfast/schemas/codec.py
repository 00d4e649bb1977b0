"""Records to bytes and back: framed Avro, by converters that are compiled once per class.

`encode(TaskEnvelope(...))` and `decode(TaskEnvelope, data)` are the whole surface. fastavro does
the bytes. What reaches it is prepared here: unions are tagged with their branch's name, since
fastavro otherwise tries branch after branch, and enums come back by one dictionary look-up.

Our own schemas are not recursive and none of their lists can hold items of no bytes (a test holds
both): so the time and memory that hostile bytes can cost are bounded by their own length. Users'
schemas have no such promise; see `holdfast.schemas.payloads`.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cache
from io import BytesIO
from operator import attrgetter
from typing import Any, TypeVar, cast

from fastavro import parse_schema, schemaless_reader, schemaless_writer

from holdfast.schemas.errors import Undecodable, Unencodable
from holdfast.schemas.framing import FRAME_BYTES, frame_prefix, unframe
from holdfast.schemas.ids import OLDER, OwnSchema, own_schema

__all__ = [
    "decode",
    "decode_json",
    "encode",
    "encode_json",
    "frame_json_text",
    "json_text",
    "record_schema_id",
]

R = TypeVar("R")

_Convert = Callable[[Any], Any]

_PRIMITIVES: dict[Any, str] = {
    str: "string",
    int: "long",
    bool: "boolean",
    float: "double",
    bytes: "bytes",
}


@dataclass(frozen=True, slots=True)
class _Codec:
    """What is compiled for one envelope class."""

    schema_id: int
    prefix: bytes
    schema: Any
    to_avro: _Convert
    from_avro: _Convert
    older: dict[bytes, Any]
    """The schemas that older versions wrote the same record by, by their frames."""


def encode(record: Any) -> bytes:
    """Return the framed bytes of an envelope of `holdfast.schemas.records`.

    Raises `Unencodable` when a field holds what its type does not allow.
    """
    kind = type(record)
    codec = _CODECS.get(kind) or _compile(kind)
    buffer = BytesIO()
    buffer.write(codec.prefix)
    try:
        schemaless_writer(buffer, codec.schema, codec.to_avro(record))
    except Exception as error:
        # fastavro answers a value of a wrong type with whatever its code happens to trip over.
        raise Unencodable(f"{type(record).__name__} cannot be written: {error}") from error
    return buffer.getvalue()


def decode(cls: type[R], data: bytes) -> R:
    """Return the envelope of class `cls` that `data` (framed bytes) holds.

    What an older version wrote is read by its schema; fields that it did not have get their
    defaults. Raises `Undecodable` for anything else: another schema id, truncated or damaged bytes,
    bytes left over.
    """
    codec = _CODECS.get(cls) or _compile(cls)
    written, wanted = codec.schema, None
    if data[:FRAME_BYTES] != codec.prefix:
        written, wanted = codec.older.get(data[:FRAME_BYTES]), codec.schema
        if written is None:
            found, _ = unframe(data)
            raise Undecodable(
                f"schema id {found} instead of {codec.schema_id}: this is no {cls.__name__}"
            )
    buffer = BytesIO(data)
    buffer.seek(FRAME_BYTES)
    try:
        record = codec.from_avro(
            schemaless_reader(
                buffer,
                written,
                wanted,
                return_record_name=True,
                return_record_name_override=True,
            )
        )
    except Exception as error:
        # Damaged bytes surface as EOFError, IndexError, UnicodeDecodeError and a dozen others.
        raise Undecodable(f"damaged {cls.__name__}: {_describe(error)}") from error
    if buffer.tell() != len(data):
        raise Undecodable(
            f"damaged {cls.__name__}: {len(data) - buffer.tell()} bytes left over at its end"
        )
    return cast(R, record)


def record_schema_id(cls: type) -> int:
    """Return the schema id under which records of `cls` are framed."""
    return (_CODECS.get(cls) or _compile(cls)).schema_id


def encode_json(value: Any) -> bytes:
    """Return `value` as a framed JSON document (id of `Json`): for data without a schema.

    Raises `Unencodable` for what JSON cannot hold (NaN and infinities too).
    """
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        body = text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise Unencodable(f"no JSON document: {error}") from error
    return frame_json_text(body)


def decode_json(data: bytes) -> Any:
    """Return the value of a framed JSON document; raises `Undecodable`."""
    text = json_text(data)
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Undecodable(f"damaged Json: {_describe(error)}") from error


def frame_json_text(text: bytes) -> bytes:
    """Return JSON text (UTF-8) as it stands in a frame."""
    return frame_prefix(OwnSchema.Json) + _varint(len(text)) + text


def json_text(data: bytes) -> str:
    """Return the text in a framed JSON document; raises `Undecodable`."""
    schema_id, body = unframe(data)
    if schema_id != OwnSchema.Json:
        raise Undecodable(f"schema id {schema_id} instead of {OwnSchema.Json:d}: this is no Json")
    buffer = BytesIO(body)
    try:
        text = cast(str, schemaless_reader(buffer, "string", None))
    except Exception as error:
        raise Undecodable(f"damaged Json: {_describe(error)}") from error
    if buffer.tell() != len(body):
        raise Undecodable(f"damaged Json: {len(body) - buffer.tell()} bytes left over at its end")
    return text


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _varint(number: int) -> bytes:
    """Return a length as Avro writes it (zig-zag; never negative here)."""
    number <<= 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


# --- compiling ---------------------------------------------------------------------------------


_CODECS: dict[type, _Codec] = {}


def _compile(cls: type) -> _Codec:
    try:
        own = OwnSchema[cls.__name__]
    except KeyError:
        raise TypeError(f"{cls.__name__} is no envelope of holdfast.schemas.records") from None
    codec = _CODECS[cls] = _Codec(
        schema_id=int(own),
        prefix=frame_prefix(own),
        schema=parse_schema(own_schema(own)),
        to_avro=_record_to_avro(cls),
        from_avro=_record_from_avro(cls),
        older={
            frame_prefix(schema_id): parse_schema(own_schema(schema_id))
            for schema_id, now in OLDER.items()
            if now is own
        },
    )
    return codec


@cache
def _record_to_avro(cls: type) -> _Convert:
    names, converters = _field_converters(cls, _to_avro)
    values = attrgetter(*names)
    single = len(names) == 1

    def convert(record: Any) -> dict[str, Any]:
        found = values(record)
        row = {names[0]: found} if single else dict(zip(names, found, strict=True))
        for name, to_avro in converters:
            value = row[name]
            if value is not None:  # most optional fields are: it spares a call for each
                row[name] = to_avro(value)
        return row

    return convert


@cache
def _record_from_avro(cls: type) -> _Convert:
    _, converters = _field_converters(cls, _from_avro)

    def convert(row: dict[str, Any]) -> Any:
        for name, from_avro in converters:
            value = row[name]
            if value is not None:
                row[name] = from_avro(value)
        return cls(**row)

    return convert


def _field_converters(
    cls: type, compile_type: Callable[[Any], _Convert | None]
) -> tuple[list[str], list[tuple[str, _Convert]]]:
    hints = typing.get_type_hints(cls)
    names = [field.name for field in fields(cls)]
    compiled = [(name, compile_type(hints[name])) for name in names]
    return names, [(name, convert) for name, convert in compiled if convert is not None]


def _to_avro(kind: Any) -> _Convert | None:
    """Return what turns a value of type `kind` into what fastavro writes; None: nothing to do."""
    if kind in _PRIMITIVES or (isinstance(kind, type) and issubclass(kind, StrEnum)):
        return None
    origin = typing.get_origin(kind)
    if origin is list:
        return _over_list(_to_avro(typing.get_args(kind)[0]))
    if origin is dict:
        return _over_dict(_to_avro(typing.get_args(kind)[1]))
    if origin in (typing.Union, types.UnionType):
        return _union_to_avro(kind)
    return _record_to_avro(kind)


def _union_to_avro(kind: Any) -> _Convert:
    branches: dict[type, tuple[str, _Convert | None]] = {
        branch: (_branch_name(branch), _to_avro(branch))
        for branch in typing.get_args(kind)
        if branch is not types.NoneType
    }

    def convert(value: Any) -> Any:
        if value is None:
            return None
        found = branches.get(type(value))
        if found is None:
            # An int where a float belongs, a subclass: fastavro finds the branch, or refuses.
            return value
        name, to_avro = found
        return name, value if to_avro is None else to_avro(value)

    return convert


def _branch_name(branch: Any) -> str:
    return _PRIMITIVES.get(branch) or f"holdfast.{branch.__name__}"


def _from_avro(kind: Any) -> _Convert | None:
    """Return what turns a value that fastavro read into type `kind`; None: nothing to do."""
    if kind in _PRIMITIVES:
        return None
    origin = typing.get_origin(kind)
    if origin is list:
        return _over_list(_from_avro(typing.get_args(kind)[0]))
    if origin is dict:
        return _over_dict(_from_avro(typing.get_args(kind)[1]))
    if origin in (typing.Union, types.UnionType):
        return _union_from_avro(kind)
    if issubclass(kind, StrEnum):
        members = {member.value: member for member in kind}
        return members.__getitem__
    return _record_from_avro(kind)


def _union_from_avro(kind: Any) -> _Convert | None:
    branches = [branch for branch in typing.get_args(kind) if branch is not types.NoneType]
    converted = [branch for branch in branches if branch not in _PRIMITIVES]
    if not converted:
        return None
    if len(converted) == 1:
        return _single_from_avro(_from_avro(converted[0]), mixed=len(branches) > 1)
    by_name = {_branch_name(branch): _record_from_avro(branch) for branch in converted}

    def convert(value: tuple[str, Any]) -> Any:
        name, row = value
        return by_name[name](row)

    return convert


def _single_from_avro(from_avro: _Convert | None, *, mixed: bool) -> _Convert:
    """A union in which one branch needs work: a record (a dict, as read) or an enum."""

    def convert(value: Any) -> Any:
        if value is None or from_avro is None or (mixed and type(value) is not dict):
            return value
        return from_avro(value)

    return convert


def _over_list(convert: _Convert | None) -> _Convert | None:
    if convert is None:
        return None
    return lambda values: [convert(value) for value in values]


def _over_dict(convert: _Convert | None) -> _Convert | None:
    if convert is None:
        return None
    return lambda values: {name: convert(value) for name, value in values.items()}
