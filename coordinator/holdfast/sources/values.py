"""The values of a user's topic: framed Avro or JSON, as a type of the user's or as plain data."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NoReturn

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from holdfast.schemas import DocumentCodec, DoesNotFit, OwnSchema, Undecodable, UnknownSchema
from holdfast.schemas.codec import json_text
from holdfast.schemas.errors import ConfigurationError
from holdfast.schemas.framing import FRAME_BYTES, unframe
from holdfast.schemas.wire import compile_schema
from holdfast.sources.definition import Topic

__all__ = ["ValueReader"]

MAGIC_BYTE = 0
"""No JSON text begins with it."""


class ValueReader:
    """Reads the values of one topic; `known` returns the schema (parsed JSON) of an id, or None.

    Raises `ConfigurationError` for a type that pydantic cannot validate.
    """

    def __init__(self, topic: Topic[Any], known: Callable[[int], Any | None]) -> None:
        self._format = topic.format
        self._known = known
        self._documents = DocumentCodec(known)
        try:
            self._adapter = None if topic.value is None else TypeAdapter[Any](topic.value)
        except PydanticUserError as error:
            raise ConfigurationError(
                f"topic {topic.name!r}: {topic.value!r} cannot be validated: {error.message}"
            ) from None

    def schema_id(self, data: bytes) -> int | None:
        """Return the id of the schema that `data` was written with; None: it is JSON text."""
        if self._format == "json" or (self._format == "auto" and data[:1] != bytes([MAGIC_BYTE])):
            return None
        return unframe(data)[0]

    def read(self, data: bytes) -> Any:
        """Return the value.

        Raises `Undecodable`; `DoesNotFit` naming the field; `UnknownSchema` where the writer's
        schema has to be asked for first, or is no schema.
        """
        schema_id = self.schema_id(data)
        if schema_id is None or schema_id == OwnSchema.Json:
            return self._read_json(data)
        if self._adapter is None:
            return self._documents.decode(data)
        schema = self._known(schema_id)
        if schema is None:
            raise UnknownSchema(f"schema id {schema_id} is not in the registry")
        value = compile_schema(schema).read(unframe(data)[1])
        try:
            return self._adapter.validate_python(value, strict=False, by_alias=True, by_name=True)
        except ValidationError as error:
            raise DoesNotFit(_complaint(error)) from None

    def _read_json(self, data: bytes) -> Any:
        text = _text(data)
        if self._adapter is None:
            try:
                return json.loads(text, parse_constant=_refuse)
            except (ValueError, RecursionError) as error:
                raise Undecodable(f"this is no JSON: {error}") from None
        try:
            return self._adapter.validate_json(text, strict=False, by_alias=True, by_name=True)
        except ValidationError as error:
            if any(each["type"] == "json_invalid" for each in error.errors(include_url=False)):
                raise Undecodable(f"this is no JSON: {_complaint(error)}") from None
            raise DoesNotFit(_complaint(error)) from None


def _text(data: bytes) -> str | bytes:
    """Return the JSON text; a frame in front of it is passed over."""
    if data[:1] != bytes([MAGIC_BYTE]):
        return data
    if unframe(data)[0] == OwnSchema.Json:
        return json_text(data)
    return data[FRAME_BYTES:]


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _complaint(error: ValidationError) -> str:
    """Return the first complaint with its field; never the value, which may be a secret."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"field {place!r}: {first['msg']}{more}" if place else f"{first['msg']}{more}"
