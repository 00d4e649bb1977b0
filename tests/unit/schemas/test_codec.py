"""Every record goes to bytes and back, and what cannot is one of two errors."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from holdfast.schemas import (
    Undecodable,
    Unencodable,
    UnknownSchema,
    decode,
    decode_json,
    encode,
    encode_json,
    frame,
    frame_json_text,
    own_schema,
    record_schema_id,
    unframe,
)
from holdfast.schemas.guard import compile_guard
from holdfast.schemas.ids import FIRST_USER_ID, OwnSchema
from holdfast.schemas.records import (
    CoordinatorEnvelope,
    SlotOffset,
    TaskEnvelope,
    TaskProgress,
)
from holdfast.schemas.wire import compile_schema
from tests.unit.schemas.samples import SAMPLES, TASK, sample_id


@pytest.mark.parametrize("record", SAMPLES, ids=sample_id)
def test_a_record_comes_back_as_it_was(record: Any) -> None:
    found = decode(type(record), encode(record))
    assert found == record
    assert repr(found) == repr(record), "types too: enums are enums"


def test_every_envelope_has_a_sample() -> None:
    names = {type(sample).__name__ for sample in SAMPLES}
    assert names == {own.name for own in OwnSchema} - {"Json"}


def test_a_frame_names_the_schema() -> None:
    data = encode(TASK)
    assert data[:5] == b"\x00\x00\x00\x00\x66"
    assert unframe(data) == (record_schema_id(TaskEnvelope), data[5:])
    assert frame(102, data[5:]) == data


@pytest.mark.parametrize("own", list(OwnSchema), ids=lambda own: own.name)
def test_own_schemas_need_no_guard(own: OwnSchema) -> None:
    """What bounds the cost of hostile bytes for our own records, see `codec`."""
    assert own < FIRST_USER_ID
    assert compile_guard(compile_schema(own_schema(own)).parsed) is None


def test_an_id_that_is_not_ours() -> None:
    with pytest.raises(UnknownSchema, match="999"):
        own_schema(999)


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x00\x00\x00\x00", b"\x01\x00\x00\x00\x02x"])
def test_what_is_no_frame(data: bytes) -> None:
    with pytest.raises(Undecodable):
        unframe(data)
    with pytest.raises(Undecodable):
        decode(TaskEnvelope, data)


def test_another_schema_id_is_named() -> None:
    with pytest.raises(Undecodable, match="schema id 1 instead of 102: this is no TaskEnvelope"):
        decode(TaskEnvelope, encode(SlotOffset(1, [], "i", "p", False, 1)))


def test_bytes_left_over() -> None:
    with pytest.raises(Undecodable, match="2 bytes left over"):
        decode(TaskEnvelope, encode(TASK) + b"\x00\x00")


def test_a_value_of_a_wrong_type() -> None:
    with pytest.raises(Unencodable, match="TaskEnvelope cannot be written"):
        encode(dataclasses.replace(TASK, attempt="two"))
    with pytest.raises(Unencodable):
        encode(dataclasses.replace(TASK, attempt=2**63))
    with pytest.raises(Unencodable):
        encode(dataclasses.replace(TASK, run_id="\ud800"))


def test_an_int_where_a_float_belongs() -> None:
    record = CoordinatorEnvelope("run", 1, TaskProgress("t", 1, "all", 1))
    found = decode(CoordinatorEnvelope, encode(record))
    assert isinstance(found.body, TaskProgress)
    assert found.body.fraction == 1.0


def test_what_is_no_envelope() -> None:
    with pytest.raises(TypeError, match="int is no envelope"):
        encode(3)


@pytest.mark.parametrize("value", [None, 1, 1.5, "ü", [1, {"a": []}], {"a": "b" * 1_000}])
def test_json_documents(value: Any) -> None:
    assert decode_json(encode_json(value)) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1j: 2}, "\ud800"])
def test_what_json_cannot_hold(value: Any) -> None:
    with pytest.raises(Unencodable):
        encode_json(value)


@pytest.mark.parametrize("text", [b"NaN", b"[", b"", b"[" * 100_000, b"9" * 10_000, b"\xff"])
def test_damaged_json(text: bytes) -> None:
    with pytest.raises(Undecodable):
        decode_json(frame_json_text(text))
