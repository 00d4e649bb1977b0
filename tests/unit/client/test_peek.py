"""Peeking and decoding agree, whatever the ids; bytes of any other kind are passed over."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.client.peek import peek_event
from holdfast.schemas import Event, EventType, SlotOffset, decode, encode


@given(
    run_id=st.text(min_size=0, max_size=200),
    kind=st.sampled_from(list(EventType)),
    message=st.text(max_size=50),
)
def test_it_agrees_with_decoding(run_id: str, kind: EventType, message: str) -> None:
    data = encode(Event(run_id, kind, 1, None, None, None, message))
    event = decode(Event, data)
    assert peek_event(data) == (event.run_id.encode(), event.type.encode())


@pytest.mark.parametrize("data", [None, b"", b"\x00", b"\x00\x00\x00\x00\x05", b"\x00" * 40])
def test_what_is_no_event_is_passed_over(data: bytes | None) -> None:
    assert peek_event(data) in (None, (b"", b""))


def test_another_record_is_passed_over() -> None:
    assert peek_event(encode(SlotOffset(1, [], "i", "p", True, 1))) is None


def test_damaged_bytes_never_raise() -> None:
    seed = 20_261_121
    print("seed", seed)
    draw = random.Random(seed)
    data = encode(Event("a-run", EventType.RUN_STARTED, 1, None, None, None, ""))
    for _ in range(2_000):
        damaged = bytearray(data[: draw.randrange(len(data))])
        for _ in range(draw.randrange(3)):
            if damaged:
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        peek_event(bytes(damaged))
