"""Which schema reads what: each rule, and that what the rules allow fastavro can read."""

from __future__ import annotations

import itertools
from io import BytesIO
from typing import Any

import pytest
from fastavro import parse_schema, schemaless_reader, schemaless_writer

from holdfast.schemas import IncompatibleSchema
from holdfast.schemas.compatibility import Compatibility, check_compatible, reading_problem


def record(*fields: Any, name: str = "R") -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields)}


def field(name: str, kind: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, **more}


def enum(*symbols: str, **more: Any) -> dict[str, Any]:
    return {"type": "enum", "name": "E", "symbols": list(symbols), **more}


DATE = {"type": "int", "logicalType": "date"}
MICROS = {"type": "long", "logicalType": "timestamp-micros"}
MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
UUID = {"type": "string", "logicalType": "uuid"}


def decimal(precision: int, scale: int) -> dict[str, Any]:
    return {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}


@pytest.mark.parametrize(
    ("reader", "writer"),
    [
        ("long", "int"),
        ("double", "long"),
        ("bytes", "string"),
        (["null", "long"], "long"),
        (["null", "long"], "int"),
        ("long", ["int", "long"]),
        (record(field("a", "long")), record(field("a", "int"), field("b", "string"))),
        (record(field("a", "long", default=1)), record()),
        (record(field("a", ["null", "R"])), record(field("a", ["null", "R"]))),
        (enum("a", "b"), enum("a")),
        (enum("a", default="a"), enum("a", "b")),
        ({"type": "array", "items": "double"}, {"type": "array", "items": "int"}),
        ({"type": "map", "values": ["null", "R"]}, {"type": "map", "values": "null"}),
        (decimal(10, 2), decimal(8, 2)),
        (MICROS, MICROS),
        ([record(name="A"), record(name="B")], record(name="B")),
        ({**record(), "namespace": "x"}, record()),
    ],
)
def test_what_can_be_read(reader: Any, writer: Any) -> None:
    if isinstance(reader, dict) and reader.get("type") == "map":
        reader = {"type": "map", "values": ["null", record()]}
    assert reading_problem(reader, writer) is None


@pytest.mark.parametrize(
    ("reader", "writer", "problem"),
    [
        ("int", "long", "long cannot be read as int"),
        ("string", "long", "long cannot be read as string"),
        ("long", ["null", "long"], "null cannot be read as long"),
        (["null", "string"], "long", "long cannot be read as null or string"),
        (record(field("a", "long")), record(), "field 'a': it is asked for without a default"),
        (
            record(field("a", {"type": "array", "items": record(field("b", "int"), name="I")})),
            record(field("a", {"type": "array", "items": record(field("b", "string"), name="I")})),
            "field 'a[].b': string cannot be read as int",
        ),
        (
            record(field("a", ["null", record(field("b", "int"), name="I")])),
            record(field("a", ["null", record(name="I")])),
            "field 'a.b': it is asked for",
        ),
        (record(name="New"), record(name="Old"), "record 'Old' is now named 'New'"),
        (record(field("k", enum("a"))), record(field("k", enum("a", "b"))), "field 'k': 'b' is no"),
        (MICROS, "long", "long cannot be read as timestamp-micros"),
        ("long", MICROS, "timestamp-micros cannot be read as long"),
        (MICROS, MILLIS, "timestamp-millis cannot be read as timestamp-micros"),
        ("long", DATE, "date cannot be read as long"),
        ("string", UUID, "uuid cannot be read as string"),
        (["null", DATE], "int", "int cannot be read as null or date"),
        (decimal(10, 2), decimal(10, 3), "another number of places"),
        (decimal(8, 2), decimal(10, 2), "fewer digits"),
        (
            {"type": "fixed", "name": "F", "size": 4},
            {"type": "fixed", "name": "F", "size": 8},
            "another name or size",
        ),
    ],
)
def test_what_cannot_be_read(reader: Any, writer: Any, problem: str) -> None:
    found = reading_problem(reader, writer)
    assert found is not None
    assert problem in found


def test_recursive_records_come_to_an_end() -> None:
    tree = record(field("kids", {"type": "array", "items": "R"}), field("n", "long"))
    other = record(field("kids", {"type": "array", "items": "R"}), field("n", "string"))
    assert reading_problem(tree, tree) is None
    assert reading_problem(tree, other) == "field 'n': string cannot be read as long"


OLD = record(field("a", "long"))
WIDER = record(field("a", "long"), field("b", "string"))
OPTIONAL = record(field("a", "long"), field("b", "string", default=""))


@pytest.mark.parametrize(
    ("old", "new", "modes"),
    [
        (OLD, OPTIONAL, {"backward", "forward", "full", "none"}),
        (OLD, WIDER, {"forward", "none"}),
        (WIDER, OLD, {"backward", "none"}),
        (OLD, record(field("a", "string")), {"none"}),
    ],
)
def test_modes(old: Any, new: Any, modes: set[str]) -> None:
    for mode in Compatibility:
        if mode.value in modes:
            check_compatible(old, new, mode, subject="a.t.input", old_version=3)
        else:
            with pytest.raises(IncompatibleSchema, match=r"'a.t.input': as a reader, .*version"):
                check_compatible(old, new, mode, subject="a.t.input", old_version=3)


def test_the_message_names_reader_and_field() -> None:
    with pytest.raises(IncompatibleSchema) as caught:
        check_compatible(OLD, WIDER, Compatibility.BACKWARD, subject="s", old_version=3)
    assert str(caught.value) == (
        "schema of 's': as a reader, the new version cannot take what version 3 writes:"
        " field 'b': it is asked for without a default, and was not there before"
    )


SAMPLES: list[tuple[Any, Any]] = [
    ("int", 1),
    ("long", 2),
    ("double", 1.5),
    ("string", "a"),
    ("bytes", b"a"),
    ("null", None),
    (["null", "long"], 3),
    (["null", "string"], None),
    (["int", "string"], "x"),
    (enum("a"), "a"),
    (enum("a", "b"), "b"),
    (enum("b", default="b"), "b"),
    (record(field("a", "int")), {"a": 1}),
    (record(field("a", "double"), field("b", "string", default="")), {"a": 1.0, "b": ""}),
    (record(field("a", ["null", "int"], default=None)), {"a": None}),
    ({"type": "array", "items": "int"}, [1]),
    ({"type": "array", "items": ["null", "double"]}, [None, 1.0]),
]


@pytest.mark.parametrize(
    ("written", "reader"), list(itertools.product(SAMPLES, [schema for schema, _ in SAMPLES]))
)
def test_what_is_allowed_fastavro_reads(written: tuple[Any, Any], reader: Any) -> None:
    writer, value = written
    if reading_problem(reader, writer) is not None:
        return
    buffer = BytesIO()
    schemaless_writer(buffer, parse_schema(writer), value)
    buffer.seek(0)
    schemaless_reader(buffer, parse_schema(writer), parse_schema(reader))
