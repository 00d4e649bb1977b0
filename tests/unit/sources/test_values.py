"""Values of a user's topic: whatever the ecosystem writes, and what is none of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import pytest
from pydantic import BaseModel, Field

from holdfast.schemas import DoesNotFit, PayloadCodec, Undecodable, UnknownSchema, encode_json
from holdfast.schemas.errors import ConfigurationError
from holdfast.schemas.framing import frame
from holdfast.schemas.wire import compile_schema
from holdfast.sources import Topic
from holdfast.sources.values import ValueReader


class Order(BaseModel):
    number: int
    price: Annotated[Decimal, Field(max_digits=10, decimal_places=2)]
    at: datetime
    customer: UUID
    raw: bytes = b""
    paid_by: str | None = Field(default=None, alias="paidBy")


CODEC = PayloadCodec(Order)
ORDER = Order(
    number=7,
    price=Decimal("12.50"),
    at=datetime(2026, 11, 21, 12, tzinfo=UTC),
    customer=UUID(int=3),
    raw=b"\x00\xff",
)
ID = 1_234
FOREIGN = {
    "type": "record",
    "name": "com.shop.OrderPlaced",
    "fields": [
        {"name": "number", "type": "int"},
        {"name": "price", "type": "string"},
        {"name": "at", "type": "string"},
        {"name": "customer", "type": "string"},
        {"name": "paidBy", "type": ["null", "string"]},
        {"name": "extra", "type": {"type": "array", "items": "int"}},
    ],
}


def known(schema_id: int) -> Any | None:
    return {ID: CODEC.schema, ID + 1: FOREIGN}.get(schema_id)


def reader(value: Any = None, **settings: Any) -> ValueReader:
    return ValueReader(Topic("orders", value, **settings), known)


def test_avro_by_the_schema_of_its_writer() -> None:
    assert reader(Order).read(CODEC.encode(ORDER, ID)) == ORDER


def test_avro_of_somebody_elses_schema() -> None:
    """Another name, other types that pydantic converts, an alias, a field more."""
    row = {
        "number": 7,
        "price": "12.5",
        "at": "2026-11-21T12:00:00Z",
        "customer": str(UUID(int=3)),
        "paidBy": "card",
        "extra": [1],
    }
    found = reader(Order).read(frame(ID + 1, compile_schema(FOREIGN).write(row)))
    assert found == ORDER.model_copy(update={"raw": b"", "paid_by": "card"})


def test_plain_data_where_no_type_is_given() -> None:
    document = reader().read(CODEC.encode(ORDER, ID))
    assert document["price"] == "12.50"
    assert document["raw"] == "AP8="
    assert reader().read(b'{"a": [1, null]}') == {"a": [1, None]}


@pytest.mark.parametrize("form", ["auto", "json"])
def test_json(form: Any) -> None:
    text = json.dumps(
        {"number": 7, "price": "12.50", "at": "2026-11-21T12:00:00Z", "customer": str(UUID(int=3))}
    ).encode()
    wanted = ORDER.model_copy(update={"raw": b""})
    assert reader(Order, format=form).read(text) == wanted
    assert reader(Order, format=form).read(encode_json(json.loads(text))) == wanted


def test_json_behind_a_frame_of_confluents_json_schema() -> None:
    assert reader(format="json").read(frame(77, b'{"a": 1}')) == {"a": 1}


def test_a_schema_that_is_not_known_here() -> None:
    data = frame(9_999, b"x")
    with pytest.raises(UnknownSchema, match="9999"):
        reader(Order).read(data)
    with pytest.raises(UnknownSchema, match="9999"):
        reader().read(data)
    assert reader().schema_id(data) == 9_999
    assert reader(format="json").schema_id(data) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\x00\x00",
        b"no json",
        b"{",
        b"[" * 100_000,
        b"\xff\xfe",
        frame(ID, b""),
        frame(ID, b"\xff" * 50),
        frame(20, b"\x03"),
    ],
)
@pytest.mark.parametrize("value", [None, Order])
def test_what_cannot_be_read(data: bytes, value: Any) -> None:
    with pytest.raises(Undecodable):
        reader(value).read(data)


def test_json_has_no_nan() -> None:
    with pytest.raises(Undecodable, match="NaN"):
        reader().read(b'{"a": NaN}')


def test_json_where_avro_is_expected() -> None:
    with pytest.raises(Undecodable, match="magic byte"):
        reader(format="avro").read(b'{"a": 1}')


def test_what_does_not_fit_is_told_by_its_field_and_without_the_value() -> None:
    with pytest.raises(DoesNotFit, match="'number'") as told:
        reader(Order).read(b'{"number": "a-secret"}')
    assert "a-secret" not in str(told.value)


def test_a_type_that_pydantic_does_not_know() -> None:
    with pytest.raises(ConfigurationError, match="cannot be validated"):
        reader(object())
