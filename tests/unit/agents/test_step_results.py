"""Codecs of step results are found again for the function that they were made for, and no other."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from holdfast.agents.step_results import result_codec

SOURCE = """
from __future__ import annotations
from pydantic import BaseModel

class Result(BaseModel):
    {field}: int

def body() -> Result:
    return Result({field}=1)
"""


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Any:
        return function(*arguments)

    return wrapper


def body_of(name: str, field: str) -> Callable[..., BaseModel]:
    module = types.ModuleType(name)
    exec(compile(SOURCE.format(field=field), name, "exec"), module.__dict__)
    body: Callable[..., BaseModel] = module.__dict__["body"]
    return body


def test_functions_behind_one_decorator_keep_their_own_types() -> None:
    # Both wrappers share their code, and both annotations are the string "Result".
    one, two = logged(body_of("one", "left")), logged(body_of("two", "right"))
    for body in (one, two):
        value = body()
        codec = result_codec(body)
        assert codec.decode("step", codec.encode("step", value)) == value


def test_a_function_made_anew_in_each_call_finds_its_codec() -> None:
    def make() -> Callable[[], int]:
        def body() -> int:
            return 1

        return body

    assert result_codec(make()) is result_codec(make())
