"""What would break silently: the namespace, the doors, the contract beside its records."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
import types
import typing
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from holdfast.schemas import records
from holdfast.schemas.ids import OwnSchema, own_schema

ROOT = Path(__file__).parents[2]
ROOTS = ("agents", "bus", "coordinator", "schemas")
DOORS = sorted(path for root in ROOTS for path in (ROOT / root / "holdfast").rglob("__init__.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__.py" else (*parts[:-1], parts[-1][:-3]))


@pytest.mark.parametrize("root", ROOTS)
def test_the_namespace_has_no_door_of_its_own(root: str) -> None:
    """One `holdfast/__init__.py` would hide the other three roots."""
    assert not (ROOT / root / "holdfast" / "__init__.py").exists()
    assert not (ROOT / "holdfast").exists()


@pytest.mark.parametrize("path", DOORS, ids=module_of)
def test_a_door_says_what_it_holds_and_hands_out(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{module_of(path)} says not what it holds"
    explicit = [
        node
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    assert len(explicit) == 1, f"{module_of(path)} has no explicit __all__"
    names = ast.literal_eval(explicit[0].value)
    module = importlib.import_module(module_of(path))
    assert [name for name in names if not hasattr(module, name)] == []
    assert sorted(set(names)) == sorted(names), "a name stands twice"


@pytest.mark.parametrize("root", ROOTS)
def test_every_area_is_typed(root: str) -> None:
    for area in (ROOT / root / "holdfast").iterdir():
        if area.is_dir() and any(area.glob("*.py")):
            assert (area / "py.typed").exists(), f"{area.name} has no py.typed"


# --- the contract ------------------------------------------------------------------------------

PRIMITIVES = {str: "string", int: "long", bool: "boolean", float: "double", bytes: "bytes"}


def all_named(schema: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(schema, list):
        for branch in schema:
            yield from all_named(branch)
    if isinstance(schema, dict):
        if schema["type"] in ("record", "enum"):
            yield schema
        for field in schema.get("fields", ()):
            yield from all_named(field["type"])
        for inner in ("items", "values", "type"):
            yield from all_named(schema.get(inner))


def contract_of(kind: Any, seen: set[str]) -> Any:
    """What the contract must say of a Python type of `records`; named types stand out once."""
    if kind in PRIMITIVES:
        return PRIMITIVES[kind]
    if kind is types.NoneType:
        return "null"
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is list:
        return {"type": "array", "items": contract_of(args[0], seen)}
    if origin is dict:
        return {"type": "map", "values": contract_of(args[1], seen)}
    if origin in (typing.Union, types.UnionType):
        ordered = sorted(args, key=lambda each: each is not types.NoneType)
        return [contract_of(each, seen) for each in ordered]
    if issubclass(kind, StrEnum) and any("." in member.value for member in kind):
        return "string"
    name = f"holdfast.{kind.__name__}"
    if name in seen:
        return name
    seen.add(name)
    head = {"name": kind.__name__, "namespace": "holdfast"}
    if issubclass(kind, StrEnum):
        return {"type": "enum", **head, "symbols": [member.value for member in kind]}
    hints = typing.get_type_hints(kind, vars(records))
    fields = [field_of(field, hints[field.name], seen) for field in dataclasses.fields(kind)]
    return {"type": "record", **head, "fields": fields}


def field_of(field: dataclasses.Field[Any], kind: Any, seen: set[str]) -> dict[str, Any]:
    found = {"name": field.name, "type": contract_of(kind, seen)}
    if field.default is not dataclasses.MISSING:
        found["default"] = field.default
    elif field.default_factory is not dataclasses.MISSING:
        found["default"] = field.default_factory()
    return found


def without_docs(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {name: without_docs(value) for name, value in schema.items() if name != "doc"}
    return [without_docs(each) for each in schema] if isinstance(schema, list) else schema


RECORDS = [own for own in OwnSchema if own is not OwnSchema.Json]


@pytest.mark.parametrize("own", RECORDS, ids=lambda own: own.name)
def test_the_contract_is_the_records(own: OwnSchema) -> None:
    expected = contract_of(getattr(records, own.name), set())
    assert without_docs(own_schema(own)) == json.loads(json.dumps(expected)), (
        f"{own.name}.avsc and records.{own.name} differ: change both, and say it to those who read"
    )


@pytest.mark.parametrize("own", RECORDS, ids=lambda own: own.name)
def test_every_field_of_the_contract_is_explained(own: OwnSchema) -> None:
    for schema in all_named(own_schema(own)):
        assert len(schema["doc"]) > 10, schema["name"]
        for field in schema.get("fields", ()):
            assert len(field.get("doc", "")) > 3, f"{schema['name']}.{field['name']}"


def test_the_contract_is_whole() -> None:
    files = {path.stem for path in (ROOT / "schemas/holdfast/schemas").glob("*.avsc")}
    assert files == {own.name for own in OwnSchema}
