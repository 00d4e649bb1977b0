"""Values of users' types as framed payloads, and back.

    codec = PayloadCodec(Review)
    data = codec.encode(review, schema_id)      # schema_id: what the registry gave codec.schema
    review = codec.decode(data, registry.known)

Written with the type's own schema, read with the writer's and resolved to the own one (by Avro's
rules), then validated by pydantic. `JsonCodec` does the same without schemas, for data that only
one build of one agent reads: its types are pydantic's, wider than the table of `derive`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, PydanticSerializationError

from holdfast.schemas.codec import frame_json_text, json_text
from holdfast.schemas.derive import derive, record_name, type_name
from holdfast.schemas.document_types import Misfit
from holdfast.schemas.errors import DoesNotFit, Undecodable, Unencodable, UnknownSchema
from holdfast.schemas.framing import frame_prefix, unframe
from holdfast.schemas.ids import OwnSchema
from holdfast.schemas.payload_converters import PayloadCompiler
from holdfast.schemas.wire import CompiledSchema, compile_schema

__all__ = ["JsonCodec", "PayloadCodec"]

T = TypeVar("T")


class PayloadCodec(Generic[T]):
    """Framed Avro of one Python type; compiled once. Raises `UnsupportedType` naming the field."""

    def __init__(self, kind: type[T] | Any) -> None:
        self.kind = kind
        self.schema: Any = derive(kind)
        """The Avro schema, to be registered."""
        self._compiled = compile_schema(self.schema)
        self._adapter: TypeAdapter[T] = TypeAdapter(kind)
        compiler = PayloadCompiler()
        self._to_avro = compiler.compile(kind, type_name(kind))
        self._models = {record_name(model): model for model in compiler.models}
        self._several = _has_record_union(self._compiled.parsed)
        self._writers: dict[int, tuple[CompiledSchema, bool]] = {}

    def encode(self, value: T, schema_id: int) -> bytes:
        """Return `value` framed under `schema_id`; raises `Unencodable` naming the field.

        A value that is not of the type yet (a dict) is made so by pydantic's rules.
        """
        try:
            checked = self._adapter.validate_python(value, by_alias=False, by_name=True)
            avro = checked if self._to_avro is None else self._to_avro(checked)
        except ValidationError as error:
            raise Unencodable(_complaint(error)) from None
        except Misfit as misfit:
            raise Unencodable(misfit.message()) from None
        except RecursionError:
            raise Unencodable("it is nested too deeply") from None
        return frame_prefix(schema_id) + self._compiled.write(avro)

    def decode(self, data: bytes, known: Callable[[int], Any | None]) -> T:
        """Return the value of a framed payload, whoever wrote it.

        Raises:
            UnknownSchema: `known` has no schema of the payload's id (yet).
            Undecodable: damaged bytes, or a schema that cannot be resolved to the type's own.
            DoesNotFit: pydantic refuses the value; the message names the field.
        """
        schema_id, body = unframe(data)
        if schema_id == OwnSchema.Json:
            return _validate_json(self._adapter, data)
        writer, named = self._writer(schema_id, known)
        value = writer.read(body, self._compiled, name_records=named)
        try:
            found = self._untag(value) if named else value
            return self._adapter.validate_python(found, strict=False, by_alias=False, by_name=True)
        except ValidationError as error:
            raise DoesNotFit(_complaint(error)) from None

    def _writer(
        self, schema_id: int, known: Callable[[int], Any | None]
    ) -> tuple[CompiledSchema, bool]:
        found = self._writers.get(schema_id)
        if found is None:
            schema = known(schema_id)
            if schema is None:
                raise UnknownSchema(f"schema id {schema_id} is not in the registry")
            compiled = compile_schema(schema)
            # An id never changes its meaning: what is compiled for it stays.
            found = compiled, self._several or _has_record_union(compiled.parsed)
            self._writers[schema_id] = found
        return found

    def _untag(self, value: Any) -> Any:
        """Make of each (record name, value) the model of that name: which one it was is written."""
        if isinstance(value, dict):
            return {name: self._untag(each) for name, each in value.items()}
        if isinstance(value, list):
            return [self._untag(each) for each in value]
        if not isinstance(value, tuple):
            return value
        name, row = value
        model: type[BaseModel] | None = self._models.get(name)
        inner = self._untag(row)
        if model is None:
            return inner
        return model.model_validate(inner, strict=False, by_alias=False, by_name=True)


class JsonCodec(Generic[T]):
    """Framed JSON of one Python type, by pydantic; needs no registry."""

    def __init__(self, kind: type[T] | Any) -> None:
        self.kind = kind
        self._adapter: TypeAdapter[T] = TypeAdapter(kind)

    def encode(self, value: T) -> bytes:
        """Return `value` framed as JSON; raises `Unencodable` naming the field."""
        try:
            text = self._adapter.dump_json(value, warnings="error")
        except (PydanticSerializationError, ValueError, RecursionError) as error:
            raise Unencodable(f"{type_name(self.kind)}: {str(error).splitlines()[0]}") from None
        return frame_json_text(text)

    def decode(self, data: bytes) -> T:
        """Return the value; raises `Undecodable`, `DoesNotFit` naming the field."""
        return _validate_json(self._adapter, data)


def _validate_json(adapter: TypeAdapter[T], data: bytes) -> T:
    text = json_text(data)
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        if any(each["type"] == "json_invalid" for each in error.errors(include_url=False)):
            raise Undecodable(f"damaged Json: {_complaint(error)}") from None
        raise DoesNotFit(_complaint(error)) from None


def _complaint(error: ValidationError) -> str:
    """Return the first complaint with its field, and how many more there are."""
    details = error.errors(include_url=False, include_context=False)
    first = details[0]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    field = f"field {path.lstrip('.')!r}: " if path else ""
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return f"{field}{first['msg']}{_input_of(first)}{more}"


def _input_of(first: ErrorDetails) -> str:
    if first["type"] == "missing":
        return ""
    shown = repr(first["input"])
    return f", got {shown if len(shown) <= 60 else shown[:57] + '...'}"


def _has_record_union(parsed: Any) -> bool:
    """Whether somewhere in a schema several records stand in one union."""
    if isinstance(parsed, list):
        records = sum(1 for branch in parsed if _maybe_record(branch))
        return records > 1 or any(_has_record_union(branch) for branch in parsed)
    if not isinstance(parsed, dict):
        return False
    inner = [field["type"] for field in parsed.get("fields", ())]
    inner += [parsed[name] for name in ("items", "values", "type") if name in parsed]
    return any(_has_record_union(each) for each in inner if not isinstance(each, str))


_UNNAMED = frozenset({"null", "boolean", "int", "long", "float", "double", "string", "bytes"})


def _maybe_record(branch: Any) -> bool:
    if isinstance(branch, str):
        return branch not in _UNNAMED
    return bool(branch["type"] == "record")
