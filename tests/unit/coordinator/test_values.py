"""Payloads as documents: what is asked for, when it is there, and what is said where it is not."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.coordinator.engine import Documents, Fetch, Values
from holdfast.coordinator.engine.effects import FindSchema
from holdfast.coordinator.engine.values import Blocked
from holdfast.schemas.codec import encode_json
from holdfast.schemas.errors import SchemaError, Undecodable, Unencodable, UnknownSchema
from holdfast.schemas.plan import Plan
from holdfast.schemas.records import BlobReference, TaskEnvelope
from tests.unit.coordinator.host import Host, given, resolved

SCHEMA_ID = 7


class Unheard(Documents):
    """Knows no schema, and of some data not even what it is."""

    def decode(self, data: bytes) -> Any:
        if data.endswith(b"?"):
            raise SchemaError("this is no schema")
        raise UnknownSchema("schema id 7 is not in the registry")

    def encode(self, schema_id: int, document: Any, *, strict: bool = False) -> bytes:
        raise UnknownSchema("schema id 7 is not in the registry")


FRAMED = b"\x00" + SCHEMA_ID.to_bytes(4, "big")


def test_a_schema_is_looked_for_once_and_what_needs_it_is_refused_then() -> None:
    values = Values(Unheard())
    for use in (lambda: values.document(FRAMED), lambda: values.encode(SCHEMA_ID, {})):
        with pytest.raises(Blocked) as blocked:
            use()
        assert blocked.value.needs == (FindSchema(SCHEMA_ID),)
    values.unknown.add(SCHEMA_ID)
    with pytest.raises(Undecodable, match="schema id 7 is not in the registry"):
        values.document(FRAMED)
    with pytest.raises(Unencodable, match="schema id 7 is not in the registry"):
        values.encode(SCHEMA_ID, {})


def test_what_has_no_usable_schema_cannot_be_read() -> None:
    with pytest.raises(Undecodable, match="this is no schema"):
        Values(Unheard()).document(FRAMED + b"?")


def test_the_bytes_of_what_is_known_decoded_are_fetched_all_the_same() -> None:
    values = Values(Unheard())
    reference = BlobReference("run-1/abc", 3)
    values._remember(reference.name, {"x": 1}, 3)
    assert values.document(reference) == {"x": 1}
    with pytest.raises(Blocked) as blocked:
        values.data(reference)
    assert blocked.value.needs == (Fetch(reference),)
    values.loaded[reference.name] = b"abc"
    assert (values.data(reference), values.data(b"inline"), values.data(None)) == (
        b"abc",
        b"inline",
        b"",
    )


async def test_a_large_map_that_gives_back_what_it_was_given_ends() -> None:
    """Its outputs are the very blob, by content, that its list was read from: that one is known
    decoded, and its bytes are not here."""
    plan = Plan("same")
    first = plan.map("first", "worker.grow", over=plan.input("items"))
    plan.map("second", "worker.same", over=first)
    host = Host()
    host.submit(resolved(plan), {"items": list("0123456789")})

    def work(envelope: TaskEnvelope) -> Any:
        return given(envelope) * (60_000 if envelope.task == "grow" else 1)

    for _ in range(3):
        host.work(work)
        await host.settle()
    assert host.output() == [digit * 60_000 for digit in "0123456789"]


def test_what_was_decoded_longest_ago_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.coordinator.engine.values.MEMO_BYTES_MAX", 700)
    decoded: list[bytes] = []

    class Noted(Unheard):
        def decode(self, data: bytes) -> Any:
            decoded.append(data)
            return data

    values = Values(Noted())
    first, second, third = (encode_json(text) for text in ("a", "b", "c"))
    for payload in (first, second, first, third, first, second):
        values.document(payload)
    assert decoded == [first, second, third, second], "the one that was asked for last stays"
