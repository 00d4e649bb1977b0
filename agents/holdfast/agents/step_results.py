"""Arguments to digests, results to bytes and back.

A result is written as JSON, by pydantic, in the way of the function's return annotation, and read
back before the handler sees it, the first time too: so a handler never meets a value on replay
that differs from the one it met before.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from holdfast.agents.errors import DefinitionError
from holdfast.schemas import Unencodable, frame_json_text, json_text

__all__ = ["ResultCodec", "digest", "is_async", "result_codec"]

_CONFIG = ConfigDict(
    ser_json_bytes="base64",
    val_json_bytes="base64",
    ser_json_inf_nan="constants",
    arbitrary_types_allowed=False,
)
_CODECS_MAX = 4_096


def digest(step: str, arguments: Sequence[Any]) -> str:
    """Return the SHA-256 (hex) of the arguments' JSON; raises `DefinitionError`.

    Sets are sorted: their own order differs from process to process.
    """
    try:
        text = to_json(
            [_ordered(argument) for argument in arguments],
            bytes_mode="base64",
            inf_nan_mode="constants",
        )
    except PydanticSerializationError as error:
        raise DefinitionError(
            f"an argument of step {step!r} cannot be written as JSON: {error}. Give it plain data "
            "or pydantic models, and bind everything else with a closure or functools.partial"
        ) from None
    return hashlib.sha256(text).hexdigest()


def _ordered(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return sorted((_ordered(item) for item in value), key=_json)
    if type(value) is list or type(value) is tuple:
        return [_ordered(item) for item in value]
    if type(value) is dict:
        return {name: _ordered(item) for name, item in value.items()}
    return value


def _json(value: Any) -> bytes:
    return to_json(value, bytes_mode="base64", inf_nan_mode="constants")


class ResultCodec:
    """Writes and reads the results of one kind of function."""

    def __init__(self, annotation: Any) -> None:
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=_CONFIG)
        except PydanticUserError:
            # A model brings its own configuration, and refuses ours.
            self._adapter = TypeAdapter(annotation)

    def encode(self, step: str, value: Any) -> bytes:
        """Return framed JSON; raises `Unencodable`."""
        try:
            text = self._adapter.dump_json(value, warnings="error")
        except (PydanticSerializationError, UnicodeDecodeError, ValueError) as error:
            raise Unencodable(
                f"step {step!r} returned a {type(value).__name__} that its return annotation "
                f"does not describe: {error}"
            ) from None
        return frame_json_text(text)

    def decode(self, step: str, data: bytes) -> Any:
        """Return the value that `data` holds; raises `Unencodable` if the annotation differs."""
        try:
            return self._adapter.validate_json(json_text(data))
        except ValidationError as error:
            raise Unencodable(
                f"the journaled result of step {step!r} does not fit the return annotation of its "
                f"function: {error.errors(include_url=False)[0]['msg']}"
            ) from None


_ANY = ResultCodec(Any)


def result_codec(function: Callable[..., Any]) -> ResultCodec:
    """Return the codec for what `function` returns; raises `DefinitionError`."""
    target = _unwrap(function)
    annotations = getattr(target, "__annotations__", {})
    if "return" not in annotations:
        return _ANY
    # Not the function itself: one that is made anew in each call would never be found again, and
    # would keep alive whatever it closes over.
    # Nor a decorator's wrapper: all that it wraps share its code, while one annotation (a string)
    # may name different types in their modules.
    code = getattr(inspect.unwrap(target), "__code__", target)
    key = (code, str(annotations["return"]), annotations["return"])
    codec = _codecs.get(key)
    if codec is None:
        if len(_codecs) >= _CODECS_MAX:
            _codecs.clear()
        codec = _codecs[key] = _make_codec(target)
    return codec


_codecs: dict[tuple[Any, str, Any], ResultCodec] = {}


def _make_codec(function: Callable[..., Any]) -> ResultCodec:
    name = getattr(function, "__qualname__", repr(function))
    try:
        annotation = typing.get_type_hints(function, include_extras=True)["return"]
        return ResultCodec(annotation)
    except Exception as error:  # noqa: BLE001 unknown names, unusable types: many kinds
        raise DefinitionError(
            f"the return annotation of {name} cannot be used for a step's result: {error}"
        ) from None


def is_async(function: Callable[..., Any]) -> bool:
    """Tell whether calling `function` only makes a coroutine."""
    return inspect.iscoroutinefunction(_unwrap(function))


def _unwrap(function: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.ismethod(function):
        return function.__func__
    if not inspect.isroutine(function) and not isinstance(function, type):
        return type(function).__call__
    return function
