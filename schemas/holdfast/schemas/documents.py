"""Payloads as JSON-like documents: what plans select from and build inputs with.

| Avro | in a document |
|---|---|
| null, boolean, string, enum | null, true or false, text |
| int, long, float, double | number |
| bytes, fixed | text, base64 |
| date, time, timestamp | text, ISO 8601; timestamps with their offset, local ones without |
| decimal, uuid | text |
| array, map, record | list, object, object |

It is what pydantic writes and reads as JSON, bytes aside (`ser_json_bytes="base64"` there).

Selected data may hold more names than a record asks for: they are left out, as Avro's own
resolution does. What a person wrote (`check_document`, `check_template`) may not: a name
that nobody reads is a mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from holdfast.schemas.codec import decode_json, encode_json
from holdfast.schemas.document_converters import Convert, compile_decoder, compile_encoder
from holdfast.schemas.document_types import Misfit
from holdfast.schemas.errors import Unencodable, UnknownSchema, did_you_mean
from holdfast.schemas.expressions import expression_in, expressions_in, render
from holdfast.schemas.framing import frame_prefix, unframe
from holdfast.schemas.ids import OwnSchema
from holdfast.schemas.wire import CompiledSchema, compile_schema

__all__ = [
    "DocumentCodec",
    "check_document",
    "check_template",
    "decode_document",
    "encode_document",
]


@dataclass(frozen=True, slots=True)
class _Compiled:
    """What is compiled for one schema."""

    schema: CompiledSchema
    encoder: Convert
    strict: Convert
    decoder: Convert | None


def encode_document(schema_id: int, schema: Any, document: Any) -> bytes:
    """Return a document as framed Avro; raises `Unencodable` naming the field."""
    return _encode(schema_id, _compile(schema), document)


def decode_document(schema: Any, body: bytes) -> Any:
    """Return Avro bytes (not framed) as a document; raises `Undecodable`."""
    return _decode(_compile(schema), body)


def check_document(schema: Any, document: Any) -> None:
    """Raise `Unencodable` naming the field, if a document that a person wrote does not fit."""
    compiled = _compile(schema)
    compiled.schema.write(_converted(compiled.strict, document))


def check_template(schema: Any, template: Any) -> None:
    """The same for a template: expressions are let through, all else must fit."""
    parsed = compile_schema(schema).parsed
    named: dict[str, Any] = {}
    try:
        _check_part(parsed, template, named)
    except Misfit as misfit:
        raise Unencodable(misfit.message()) from None


class DocumentCodec:
    """Framed payloads to documents and back, by the schemas that `known` has.

    `known` returns the schema (parsed JSON) of an id, or None. Holdfast's own id of `Json` needs
    no look-up.
    """

    def __init__(self, known: Callable[[int], Any | None]) -> None:
        self._known = known
        self._compiled: dict[int, _Compiled] = {}

    def decode(self, data: bytes) -> Any:
        """Return the document of a framed payload; raises `Undecodable`, `UnknownSchema`."""
        schema_id, body = unframe(data)
        if schema_id == OwnSchema.Json:
            return decode_json(data)
        return _decode(self._of(schema_id), body)

    def encode(self, schema_id: int, document: Any, *, strict: bool = False) -> bytes:
        """Return a document as a framed payload; raises `Unencodable`, `UnknownSchema`.

        `strict`: a person wrote it, see `check_document`.
        """
        if schema_id == OwnSchema.Json:
            return encode_json(document)
        compiled = self._of(schema_id)
        if strict:
            _converted(compiled.strict, document)
        return _encode(schema_id, compiled, document)

    def _of(self, schema_id: int) -> _Compiled:
        found = self._compiled.get(schema_id)
        if found is None:
            schema = self._known(schema_id)
            if schema is None:
                raise UnknownSchema(f"schema id {schema_id} is not in the registry")
            # An id never changes its meaning: what is compiled for it stays.
            found = self._compiled[schema_id] = _compile(schema)
        return found


def _compile(schema: Any) -> _Compiled:
    return _compile_once(compile_schema(schema))


@lru_cache(maxsize=1_024)
def _compile_once(schema: CompiledSchema) -> _Compiled:
    return _Compiled(
        schema,
        encoder=compile_encoder(schema.parsed, strict=False),
        strict=compile_encoder(schema.parsed, strict=True),
        decoder=compile_decoder(schema.parsed),
    )


def _encode(schema_id: int, compiled: _Compiled, document: Any) -> bytes:
    value = _converted(compiled.encoder, document)
    return frame_prefix(schema_id) + compiled.schema.write(value)


def _decode(compiled: _Compiled, body: bytes) -> Any:
    value = compiled.schema.read(body)
    return value if compiled.decoder is None else compiled.decoder(value)


def _converted(convert: Convert, document: Any) -> Any:
    try:
        return convert(document)
    except Misfit as misfit:
        raise Unencodable(misfit.message()) from None
    except RecursionError:
        raise Unencodable("it is nested too deeply") from None


# --- templates ---------------------------------------------------------------------------------


def _check_part(schema: Any, template: Any, named: dict[str, Any]) -> None:
    """Walk down while there are expressions below; what has none is checked as a document."""
    if isinstance(template, str) and expression_in(template) is not None:
        return
    if isinstance(schema, str):
        schema = named.get(schema, schema)
    if isinstance(schema, Mapping) and "name" in schema:
        named[schema["name"]] = schema
    if next(expressions_in(template), None) is None:
        _check_constant(schema, _unescaped(template), named)
    elif isinstance(schema, list):
        _check_union(schema, template, named)
    elif isinstance(template, Mapping):
        _check_object(schema, template, named)
    elif isinstance(template, list) and isinstance(schema, Mapping) and schema["type"] == "array":
        for index, part in enumerate(template):
            _check_inside(f"[{index}]", schema["items"], part, named)
    else:
        raise Misfit(f"expected {_name(schema)}, got {type(template).__name__}")


def _check_inside(name: str, schema: Any, template: Any, named: dict[str, Any]) -> None:
    try:
        _check_part(schema, template, named)
    except Misfit as misfit:
        raise misfit.within(name) from None


def _check_constant(schema: Any, document: Any, named: dict[str, Any]) -> None:
    compile_encoder(schema, strict=True, named=named)(document)


def _check_union(branches: list[Any], template: Any, named: dict[str, Any]) -> None:
    """Something with expressions inside is a list or an object: one branch is enough."""
    first: Misfit | None = None
    for branch in branches:
        try:
            _check_part(branch, template, named)
        except Misfit as misfit:
            # Of several refusals the one that came furthest is the most telling.
            if first is None or len(misfit.path) > len(first.path):
                first = misfit
        else:
            return
    if first is not None:
        raise first


def _check_object(schema: Any, template: Mapping[str, Any], named: dict[str, Any]) -> None:
    if isinstance(schema, Mapping) and schema["type"] == "map":
        for name, part in template.items():
            _check_inside(name, schema["values"], part, named)
        return
    if not isinstance(schema, Mapping) or schema["type"] not in ("record", "error"):
        raise Misfit(f"expected {_name(schema)}, got an object")
    fields = {field["name"]: field for field in schema["fields"]}
    for name, part in template.items():
        if name not in fields:
            raise Misfit(f"is unknown{did_you_mean(name, fields)}").within(name)
        _check_inside(name, fields[name]["type"], part, named)
    for name, field in fields.items():
        if name not in template and "default" not in field:
            raise Misfit("is missing").within(name)


def _unescaped(template: Any) -> Any:
    return render(template, {})


def _name(schema: Any) -> str:
    if isinstance(schema, Mapping):
        return str(schema.get("name") or schema["type"])
    return str(schema)
