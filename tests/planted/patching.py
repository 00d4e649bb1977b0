"""Changes a function of the production code in place, for as long as a bug is planted.

A bug is written as what a diff would hold: the function, the lines as they stand, the lines as a
good engineer might have got them wrong. The function's code object is swapped, not the name that
leads to it: so every importer, every bound method and every table of functions meets the bug.

A function that is gone, has other parameters, or does not hold the lines any more, exactly once,
is a `PlantingError`: a refactoring breaks the bug loudly, and somebody writes it anew.
"""

from __future__ import annotations
import __future__

import importlib
import inspect
import textwrap
from types import CodeType, FunctionType
from typing import Any

__all__ = ["Patch", "PlantingError"]

_ANNOTATIONS = __future__.annotations.compiler_flag


class PlantingError(Exception):
    """The production code is not what the bug was written against: write the bug anew."""


class Patch:
    """The changes of one bug; `undo` takes all of them back, the newest first."""

    def __init__(self, bug: str) -> None:
        self._bug = bug
        self._undo: list[tuple[FunctionType, CodeType]] = []
        self._written: dict[FunctionType, str] = {}
        self.places: list[str] = []

    def edit(self, place: str, old: str, new: str) -> None:
        """Put `new` in the place of `old` in the function `place` (`package.module:Class.name`).

        `old` must stand in its source exactly once; both are written as they stand in a function
        that begins in the first column. May be called again for the same function. Raises
        `PlantingError`.
        """
        function = self._find(place)
        source = self._written.get(function) or self._source(function, place)
        count = source.count(old)
        if count != 1:
            raise PlantingError(
                f"bug {self._bug!r}: {place} holds {count} times, not once:\n{old}\nIt was changed "
                "since the bug was written: write the bug anew in tests/planted"
            )
        changed = source.replace(old, new)
        code = self._compile(function, changed, place)
        self._undo.append((function, function.__code__))
        self._written[function] = changed
        function.__code__ = code
        self.places.append(place)

    def undo(self) -> None:
        """Take everything back."""
        while self._undo:
            function, code = self._undo.pop()
            function.__code__ = code
        self._written.clear()

    def _find(self, place: str) -> FunctionType:
        module, _, path = place.partition(":")
        try:
            found: Any = importlib.import_module(module)
            for name in path.split("."):
                # Not `getattr`: what is inherited is not what the bug was written against.
                found = vars(found)[name]
        except (ImportError, KeyError, TypeError) as error:
            raise PlantingError(f"bug {self._bug!r}: there is no {place} any more") from error
        if isinstance(found, property):
            found = found.fget
        if isinstance(found, classmethod | staticmethod):
            found = found.__func__
        if not isinstance(found, FunctionType):
            raise PlantingError(f"bug {self._bug!r}: {place} is no function any more")
        return found

    def _source(self, function: FunctionType, place: str) -> str:
        try:
            source = textwrap.dedent(inspect.getsource(function))
        except OSError as error:
            raise PlantingError(
                f"bug {self._bug!r}: {place} has no source; another bug is planted there"
            ) from error
        lines = source.splitlines(keepends=True)
        while not lines[0].startswith(("def ", "async def ")):
            del lines[0]  # decorators: they have been applied already
        return "".join(lines)

    def _compile(self, function: FunctionType, source: str, place: str) -> CodeType:
        original = function.__code__
        try:
            module = compile(
                source, f"<planted {self._bug}>", "exec", flags=_ANNOTATIONS, dont_inherit=True
            )
        except SyntaxError as error:
            raise PlantingError(f"bug {self._bug!r}: {place} is no Python: {error}") from error
        for constant in module.co_consts:
            if isinstance(constant, CodeType) and constant.co_name == original.co_name:
                self._compare(original, constant, place)
                return constant.replace(
                    co_qualname=original.co_qualname, co_firstlineno=original.co_firstlineno
                )
        raise PlantingError(f"bug {self._bug!r}: {place} defines nothing")

    def _compare(self, original: CodeType, planted: CodeType, place: str) -> None:
        if _parameters(original) != _parameters(planted):
            raise PlantingError(f"bug {self._bug!r}: {place} has got other parameters")
        if original.co_freevars != planted.co_freevars:
            raise PlantingError(f"bug {self._bug!r}: {place} closes over {original.co_freevars}")


def _parameters(code: CodeType) -> tuple[Any, ...]:
    count = code.co_argcount + code.co_kwonlyargcount
    stars = code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS)
    return code.co_posonlyargcount, code.co_argcount, code.co_varnames[:count], stars
