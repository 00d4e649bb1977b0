"""Plans from files: YAML or JSON, with the file, line and column of what is wrong.

Only the tags of JSON are understood (a date is text), a key may stand once, and anchors may not
blow a plan up.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from holdfast.schemas.errors import PlanError
from holdfast.schemas.plan import PlanDocument, plan_error
from holdfast.schemas.plan_checks import check_plan

__all__ = ["load_plan", "parse_plan", "read_values"]

FILE_BYTES_MAX = 16 * 1024 * 1024
"""Larger plan files are refused."""
VALUES_MAX = 1_000_000
"""How many values a file may stand for, once its anchors are followed."""


def load_plan(path: str | Path) -> PlanDocument:
    """Read and check a plan from a `.yaml`, `.yml` or `.json` file.

    Raises `PlanError`: `file:line:column: what is wrong`, as far as the place is known.
    """
    path = Path(path)
    return parse_plan(_read(path), source=str(path), as_json=_is_json(path))


def read_values(path: Path) -> Any:
    """Return what a YAML or JSON file stands for; raises `PlanError` with the place."""
    text, source = _read(path), str(path)
    return _parse_json(text, source) if _is_json(path) else _parse_yaml(text, source)


def _is_json(path: Path) -> bool:
    return path.suffix.lower() == ".json"


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise PlanError(f"plan file {str(path)!r} does not exist") from None
    except OSError as error:
        raise PlanError(f"plan file {str(path)!r} cannot be read: {error.strerror}") from None
    if len(data) > FILE_BYTES_MAX:
        raise PlanError(f"plan file {str(path)!r} is larger than {FILE_BYTES_MAX >> 20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PlanError(f"{path}:{line}: this is not UTF-8 text") from None


def parse_plan(text: str, *, source: str = "plan", as_json: bool = False) -> PlanDocument:
    """Read and check a plan from text; `source` stands before the line in messages."""
    value = _parse_json(text, source) if as_json else _parse_yaml(text, source)
    if not isinstance(value, dict):
        raise PlanError(f"{source}: a plan is an object with name and tasks")
    try:
        document = PlanDocument.model_validate(value)
    except ValidationError as error:
        path = error.errors(include_url=False, include_input=False)[0]["loc"]
        raise plan_error(error, f"{source}{_place(text, path)}") from None
    try:
        check_plan(document)
    except PlanError as error:
        raise PlanError(f"{source}: {error}") from None
    return document


def _parse_json(text: str, source: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{twice!r} stands twice in one object")
        return found

    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is no JSON")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise PlanError(f"{source}:{error.lineno}:{error.colno}: {error.msg}") from None
    except RecursionError:
        raise PlanError(f"{source}: it is nested too deeply") from None
    except ValueError as error:
        raise PlanError(f"{source}: {error}") from None


def _parse_yaml(text: str, source: str) -> Any:
    return _Constructor(source).value(_compose(text, source))


def _not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


class _Loader(yaml.SafeLoader):
    """YAML's types as JSON has them: without dates."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - the name and type are PyYAML's
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _compose(text: str, source: str) -> yaml.Node:
    loader = None
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise PlanError(f"{source}{where}: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise PlanError(f"{source}: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise PlanError(f"{source}: it is nested too deeply") from None
    finally:
        if loader is not None:
            loader.dispose()
    if root is None:
        raise PlanError(f"{source}: the file is empty")
    return root


class _Constructor:
    """Turns YAML's nodes into values, and refuses what JSON could not say."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._count = 0
        self._open: set[int] = set()
        self._scalars = _Loader("")

    def value(self, node: yaml.Node) -> Any:
        self._count += 1
        if self._count > VALUES_MAX:
            raise self._error(node, f"the file stands for more than {VALUES_MAX} values")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self._open or len(self._open) >= 100:
            raise self._error(node, "it contains itself, or is nested more than 100 deep")
        self._open.add(id(node))
        found = self._mapping(node) if isinstance(node, yaml.MappingNode) else self._list(node)
        self._open.discard(id(node))
        return found

    def _list(self, node: Any) -> list[Any]:
        return [self.value(each) for each in node.value]

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        self._flatten(node)
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.value(key_node)
            if not isinstance(key, Hashable) or not isinstance(key, str):
                raise self._error(key_node, f"{key!r} cannot be a name; put it in quotes")
            if key in found:
                raise self._error(key_node, f"{key!r} stands here twice")
            found[key] = self.value(value_node)
        return found

    def _flatten(self, node: yaml.MappingNode) -> None:
        """Follow YAML's merge key (`<<: *defaults`); what stands beside it comes first."""
        own = {key.value for key, _ in node.value}
        merged: list[tuple[yaml.Node, yaml.Node]] = []
        for key, value in node.value:
            if key.tag != "tag:yaml.org,2002:merge":
                merged.append((key, value))
            elif isinstance(value, yaml.MappingNode):
                merged += [pair for pair in value.value if pair[0].value not in own]
            else:
                raise self._error(value, "<<: needs an object")
        node.value = merged

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        try:
            found = self._scalars.construct_object(node)
        except yaml.MarkedYAMLError as error:
            raise self._error(node, str(error.problem)) from None
        except ValueError as error:
            raise self._error(node, str(error)) from None
        if not isinstance(found, str | int | float | bool | None) or _not_finite(found):
            raise self._error(node, f"{node.value!r} is nothing that JSON has")
        return found

    def _error(self, node: yaml.Node, message: str) -> PlanError:
        return PlanError(f"{self._source}{_mark(node)}: {message}")


def _mark(node: yaml.Node) -> str:
    return f":{node.start_mark.line + 1}:{node.start_mark.column + 1}"


def _place(text: str, path: tuple[int | str, ...]) -> str:
    """Return the place of the innermost value on the way along `path`; "" if it is not found.

    JSON is looked at as YAML too, whose nodes know their places; its tabs mean nothing.
    """
    try:
        node = _compose(text.replace("\t", " "), "")
    except PlanError:
        return ""
    for step in path:
        following: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == step:
                    following = value
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            following = node.value[step] if step < len(node.value) else None
        if following is None:
            break
        node = following
    return _mark(node)
