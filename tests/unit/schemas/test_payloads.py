"""Users' types: to Avro by the table, to bytes and back, and as documents."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

import pytest
from fastavro import parse_schema
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    NaiveDatetime,
    RootModel,
    create_model,
    field_serializer,
)

from holdfast.schemas import (
    DoesNotFit,
    Undecodable,
    Unencodable,
    UnknownSchema,
    UnsupportedType,
    encode_json,
    frame,
)
from holdfast.schemas.derive import derive
from holdfast.schemas.documents import DocumentCodec
from holdfast.schemas.payloads import JsonCodec, PayloadCodec

Money = Annotated[Decimal, Field(max_digits=10, decimal_places=2)]
MOMENT = datetime(2026, 11, 21, 12, 30, 15, 123_456, tzinfo=timezone(timedelta(hours=2)))


class Kind(enum.StrEnum):
    SMALL = "small"
    LARGE = "large"


class Dotted(enum.StrEnum):
    A = "a.b"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Node(BaseModel):
    """A node.

    More about it."""

    value: int
    kids: list[Node] = []
    parent: Node | None = None


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    name: str


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str
    age: int | None = None


class Tags(RootModel[list[str]]):
    pass


Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    items: list[Item]


class Everything(BaseModel):
    an_int: int = Field(gt=0, description="one of them")
    a_float: float
    a_bool: bool = False
    a_text: Annotated[str, Field(min_length=1)]
    some_bytes: bytes = b"\xff\x00"
    a_list: list[Node]
    a_map: dict[str, float] = Field(default_factory=dict)
    an_enum: Kind = Kind.LARGE
    a_dotted: Dotted = Dotted.A
    a_level: Level = Level.HIGH
    a_literal: Literal["x", "y"]
    a_number: Literal[1, 2] = 2
    a_date: date = date(2020, 1, 31)
    an_instant: datetime
    aware: AwareDatetime
    naive: NaiveDatetime
    a_time: time = time(1, 2, 3, 4)
    a_decimal: Money = Decimal("-1.50")
    decimals: list[Money]
    an_id: UUID
    an_optional: str | None = "there"
    other_optional: Kind | None = None
    a_union: int | str = "three"
    models: Cat | Dog | None
    several: list[Cat | Dog]
    nested: Dog = Dog(name="rex")
    again: Kind
    tags: Tags
    page: Page[int]
    nothing: None = None


def everything(**changes: Any) -> Everything:
    given: dict[str, Any] = {
        "an_int": 1,
        "a_float": 1.5,
        "a_text": "ünicode",
        "a_list": [Node(value=1, kids=[Node(value=2)])],
        "a_literal": "y",
        "an_instant": MOMENT,
        "aware": MOMENT,
        "naive": datetime(2026, 1, 1),
        "decimals": ["1.25", "99999999.99"],
        "an_id": UUID(int=7),
        "models": Dog(name="bello", age=3),
        "several": [Cat(name="a"), Dog(name="b")],
        "again": "small",
        "tags": ["a", "b"],
        "page": {"items": [1, 2]},
    }
    return Everything.model_validate({**given, **changes})


CODEC = PayloadCodec(Everything)
SCHEMAS: dict[int, Any] = {1_000: CODEC.schema}


def fields(schema: Any) -> dict[str, Any]:
    return {field["name"]: field for field in schema["fields"]}


def test_the_table_of_types() -> None:
    found = fields(CODEC.schema)
    parse_schema(CODEC.schema)
    assert found["an_int"] == {"name": "an_int", "type": "long", "doc": "one of them"}
    assert found["some_bytes"]["default"] == "ÿ\x00"
    assert found["an_enum"]["type"]["symbols"] == ["small", "large"]
    assert found["an_enum"]["default"] == "large"
    assert found["a_dotted"]["type"] == "string"
    assert found["a_level"] == {"name": "a_level", "type": "long", "default": 2}
    assert found["a_literal"]["type"]["name"] == "Everything_a_literal"
    assert found["a_date"] == {
        "name": "a_date",
        "type": {"type": "int", "logicalType": "date"},
        "default": (date(2020, 1, 31) - date(1970, 1, 1)).days,
    }
    assert found["an_instant"]["type"]["logicalType"] == "timestamp-micros"
    assert found["aware"]["type"]["logicalType"] == "timestamp-micros"
    assert found["naive"]["type"]["logicalType"] == "local-timestamp-micros"
    assert found["a_decimal"]["type"]["scale"] == 2
    assert found["an_optional"]["type"] == ["string", "null"], "the default's branch is first"
    assert found["other_optional"]["type"] == ["null", "Kind"]
    assert found["a_union"]["type"] == ["string", "long"]
    assert found["nested"]["default"] == {"kind": "dog", "name": "rex", "age": None}
    assert found["again"]["type"] == "Kind"
    assert found["tags"]["type"] == {"type": "array", "items": "string"}
    assert found["page"]["type"]["name"] == "Page_int"
    node = found["a_list"]["type"]["items"]
    assert node["doc"] == "A node."
    assert fields(node)["kids"]["type"] == {"type": "array", "items": "Node"}
    assert fields(node)["parent"]["type"] == ["null", "Node"]


def named(name: str, kind: Any) -> Any:
    return create_model(name, x=(kind, ...))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (tuple[int, str], "T.x: tuple.*use a model with named fields"),
        (Any, "T.x: Any .*say what it holds"),
        (object, "T.x: object"),
        (set[int], r"T.x: set.*use list\[X\]"),
        (list, r"T.x: list .*list\[X\]"),
        (dict, r"T.x: dict .*dict\[str, X\]"),
        (dict[int, str], "T.x: a dict's keys are text"),
        (list[tuple[int, ...]], "T.x: tuple"),
        (list[dict[str, Any]], "T.x: Any"),
        (Decimal, "T.x: a Decimal needs its size"),
        (timedelta, "T.x: timedelta has no counterpart"),
        (str | UUID, "T.x: .*two are written as string"),
        (list[int] | list[str], "T.x: .*two are written as array"),
        (Literal["a", 1], "T.x: a Literal of values of one type"),
        (Callable[[], int], "T.x: .*Callable"),
        (list[named("Cat", int)] | Cat, "T.x: two different types are named 'Cat'"),
        (named("Inner", Any), "Inner.x: Any"),
    ],
)
def test_what_has_no_counterpart(kind: Any, message: str) -> None:
    with pytest.raises(UnsupportedType, match=message):
        derive(named("T", kind))


def test_a_model_comes_back_as_it_was() -> None:
    value = everything()
    found = CODEC.decode(CODEC.encode(value, 1_000), SCHEMAS.get)
    assert found == value
    assert [type(each) for each in found.several] == [Cat, Dog]
    assert found.an_instant.tzinfo is not None


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, 3),
        (str, "x"),
        (type(None), None),
        (str | None, None),
        (str | None, "x"),
        (list[Node], [Node(value=1)]),
        (dict[str, Cat], {"a": Cat(name="b")}),
        (Cat | Dog, Dog(name="x")),
        (dict[str, list[Cat | Dog]], {"a": [Cat(name="b"), Dog(name="c")]}),
        (float | int, 3),
        (float | None, 2),
        (Kind | None, Kind.SMALL),
        (Literal["a", "b"] | int, "b"),
        (Literal["a", None], None),  # noqa: PYI061 - as people write it
        (date | datetime, date(2020, 1, 1)),
        (date | datetime, datetime(2020, 1, 1, tzinfo=UTC)),
        (Page[Cat], Page[Cat](items=[Cat(name="x")])),
        (Tags, Tags(["a"])),
        (Money, Decimal("1.10")),
    ],
)
def test_any_type_of_the_table_stands_alone(kind: Any, value: Any) -> None:
    codec = PayloadCodec(kind)
    found = codec.decode(codec.encode(value, 1_000), {1_000: codec.schema}.get)
    assert found == value
    assert isinstance(found, type(value)) or kind == float | None


def test_plain_data_is_made_to_the_type_first() -> None:
    value = everything()
    assert CODEC.encode(value.model_dump(), 1_000) == CODEC.encode(value, 1_000)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"value": "x"}, "field 'value': .*got 'x'"),
        ({"value": 1, "kids": [{"value": None}]}, r"field 'kids\[0\].value'"),
        (None, "got None"),
        ({"value": 2**70}, "2|long|large"),
    ],
)
def test_values_that_do_not_fit(value: Any, message: str) -> None:
    with pytest.raises(Unencodable, match=message):
        PayloadCodec(Node).encode(value, 1_000)


def test_moments_without_a_zone_are_refused() -> None:
    value = everything().model_copy(update={"an_instant": datetime(2020, 1, 1)})
    with pytest.raises(Unencodable, match=r"field 'an_instant': .*has no time zone"):
        CODEC.encode(value, 1_000)
    with pytest.raises(Unencodable, match=r"field 'a_time': .*has a time zone"):
        CODEC.encode(everything(a_time=time(1, tzinfo=UTC)), 1_000)
    deep = PayloadCodec(dict[str, list[datetime]])
    with pytest.raises(Unencodable, match=r"field 'a\[1\]'"):
        deep.encode({"a": [MOMENT, datetime(2020, 1, 1)]}, 1_000)


def test_nesting_that_nobody_could_read_is_not_written() -> None:
    value = Node(value=0)
    for _ in range(150):
        value = Node(value=1, kids=[value])
    with pytest.raises(Unencodable, match="nested"):
        PayloadCodec(Node).encode(value, 1_000)


def test_an_older_writer_is_resolved() -> None:
    older = PayloadCodec(create_model("Dog", name=(str, ...)))
    wider = PayloadCodec(create_model("Dog", name=(str, ...), age=(int, ...), more=(str, ...)))
    schemas = {1_000: older.schema, 1_001: wider.schema}
    codec = PayloadCodec(Dog)
    data = older.encode(older.kind(name="x"), 1_000)
    assert codec.decode(data, schemas.get) == Dog(name="x")
    data = wider.encode(wider.kind(name="x", age=3, more="m"), 1_001)
    assert codec.decode(data, schemas.get) == Dog(name="x", age=3)


def test_defaults_of_every_type_stand_in_for_what_an_older_writer_left_out() -> None:
    required = {
        name: (field.annotation, ...)
        for name, field in Everything.model_fields.items()
        if field.is_required()
    }
    older = PayloadCodec(create_model("Everything", **required))  # type: ignore[call-overload]
    value = everything()
    data = older.encode({name: getattr(value, name) for name in required}, 1_001)
    assert CODEC.decode(data, {1_001: older.schema}.get) == value


def test_why_something_cannot_be_decoded() -> None:
    class Strict(BaseModel):
        model_config = ConfigDict(extra="forbid")
        name: Annotated[str, Field(max_length=3)]

    data = PayloadCodec(Strict).encode(Strict(name="abc"), 1_000)
    wider = PayloadCodec(create_model("Strict", name=(str, ...)))
    codec = PayloadCodec(Strict)
    known = {1_000: codec.schema, 1_001: {"type": "record", "name": "Other", "fields": []}}.get
    with pytest.raises(UnknownSchema, match="4711"):
        codec.decode(frame(4_711, b""), known)
    with pytest.raises(Undecodable):
        codec.decode(data[:-1], known)
    with pytest.raises(Undecodable, match="cannot be resolved"):
        codec.decode(frame(1_001, b""), known)
    with pytest.raises(DoesNotFit, match="field 'name': String should have at most 3"):
        codec.decode(wider.encode(wider.kind(name="abcd"), 1_000), known)
    assert codec.decode(encode_json({"name": "abc"}), known) == Strict(name="abc")


def test_aliases_and_serializers_are_not_looked_at() -> None:
    class Odd(BaseModel):
        model_config = ConfigDict(strict=True)
        name: str = Field(alias="theName")
        kind: Kind

        @field_serializer("name")
        def shout(self, name: str) -> str:
            return name.upper()

    codec = PayloadCodec(Odd)
    assert list(fields(codec.schema)) == ["name", "kind"]
    value = Odd(theName="x", kind=Kind.SMALL)
    assert codec.decode(codec.encode(value, 1_000), {1_000: codec.schema}.get) == value


def test_json_for_types_outside_of_the_table() -> None:
    codec = JsonCodec(dict[str, tuple[int, set[str]]])
    value = {"a": (1, {"x"})}
    assert codec.decode(codec.encode(value)) == value
    with pytest.raises(DoesNotFit, match=r"field 'a\[0\]'"):
        codec.decode(encode_json({"a": ["x", []]}))
    with pytest.raises(Undecodable, match="this is no Json"):
        codec.decode(frame(1_000, b"x"))


# --- documents ---------------------------------------------------------------------------------

DOCUMENTS = DocumentCodec(SCHEMAS.get)


def test_a_document_is_what_pydantic_writes_as_json() -> None:
    value = everything(some_bytes=b"plain", several=[])
    document = DOCUMENTS.decode(CODEC.encode(value, 1_000))
    json.dumps(document)
    written = json.loads(value.model_dump_json())
    assert document.pop("some_bytes") == "cGxhaW4="
    assert Everything.model_validate({**document, "some_bytes": b"plain"}) == value
    written.pop("some_bytes")
    moments = ("an_instant", "aware")
    assert {k: v for k, v in document.items() if k not in moments} == {
        k: v for k, v in written.items() if k not in moments
    }


def test_a_document_goes_back_to_the_same_bytes() -> None:
    data = CODEC.encode(everything(), 1_000)
    assert DOCUMENTS.encode(1_000, DOCUMENTS.decode(data)) == data


def test_a_document_may_leave_out_what_has_a_default_and_hold_more() -> None:
    codec = DocumentCodec({1_000: derive(Dog)}.get)
    assert codec.decode(codec.encode(1_000, {"name": "x", "unasked": [1]})) == {
        "kind": "dog",
        "name": "x",
        "age": None,
    }


@pytest.mark.parametrize(
    ("kind", "document", "message"),
    [
        (Node, {"value": "abc"}, "^field 'value': expected long, got 'abc'$"),
        (Node, {"value": True}, "field 'value': expected long, got True"),
        (Node, {"value": 1.5}, "expected long, got 1.5"),
        (Node, {"value": 2**63}, "too large for long"),
        (Node, {}, "field 'value': is missing"),
        (Node, {"value": 1, "kids": [{"value": 1}, {"valu": 1}]}, r"field 'kids\[1\].value'"),
        (Node, [], "expected object"),
        (dict[str, int], {"a": "x"}, "field 'a': expected long"),
        (list[int], {"a": 1}, "expected list"),
        (float, 10**400, "too large for double"),
        (date, "2020-13-01", "expected date"),
        (datetime, "2020-01-01T00:00:00", "with an offset"),
        (UUID, "x", "expected UUID"),
        (Money, "abc", "expected decimal"),
        (bytes, "!", "base64"),
        (Kind, "huge", "expected one of small, large, got 'huge'"),
        (int | bool, "x", "expected long or boolean, got 'x'"),
        (Kind | None, 3, "expected one of small, large"),
        (None, 1, "expected null"),
        (Money, "1.234", "."),
    ],
)
def test_documents_that_do_not_fit(kind: Any, document: Any, message: str) -> None:
    codec = DocumentCodec({1_000: derive(kind)}.get)
    with pytest.raises(Unencodable, match=message):
        codec.encode(1_000, document)


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        (int, 3.0),
        (float, 3),
        (Money, 1.5),
        (
            list[Cat | Dog],
            [{"kind": "dog", "name": "a", "age": None}, {"kind": "cat", "name": "b"}],
        ),
        (Cat | Dog | None, None),
        (bytes, "_w=="),
    ],
)
def test_documents_that_fit(kind: Any, document: Any) -> None:
    codec = DocumentCodec({1_000: derive(kind)}.get)
    found = codec.decode(codec.encode(1_000, document))
    assert found in (document, "1.50", "/w==")


def test_json_frames_are_documents_too() -> None:
    assert DOCUMENTS.decode(encode_json([1, "a"])) == [1, "a"]
    assert DOCUMENTS.decode(DOCUMENTS.encode(20, {"a": None})) == {"a": None}
    with pytest.raises(UnknownSchema):
        DOCUMENTS.encode(4_711, 1)
