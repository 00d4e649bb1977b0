"""The machine of a source's slot: what it writes, what it waits for, what it never does."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from pydantic import BaseModel

from holdfast.bus.errors import Rejected
from holdfast.bus.port import Record
from holdfast.client.payloads import INLINE_BYTES_MAX
from holdfast.schemas import Plan, Undecodable, decode, decode_json, frame
from holdfast.schemas.records import (
    BlobReference,
    DeadLetterReason,
    FailureKind,
    SourceJournal,
    SourceSlot,
)
from holdfast.sources import Source, Submit, Topic, TopicRecord, source
from holdfast.sources import starting as starting_module
from holdfast.sources.machine import QUEUE_BYTES, QUEUE_RECORDS
from tests.unit.agents.virtual import run_virtual
from tests.unit.sources.fake_slot import AVRO_ID, TOPICS, FakeSlot


class Order(BaseModel):
    number: str


def fulfil(**more: Any) -> Plan:
    plan = Plan("fulfil", **more)
    plan.task("pack", "packer.pack", number=plan.input("number"))
    return plan


def orders(**more: Any) -> Source[Order]:
    return Source("orders", topic=Topic(TOPICS.topic, Order), plan=fulfil(), **more)


def order(number: object = "1") -> bytes:
    return json.dumps({"number": number}).encode()


def paused(reason: str) -> float:
    labels = {"source": "orders", "reason": reason}
    return REGISTRY.get_sample_value("holdfast_source_paused", labels) or 0.0


def slot_of(made: Source[Any], **settings: Any) -> FakeSlot:
    slot = FakeSlot(made, **settings)
    slot.offer("packer", "pack", Order)
    slot.boot()
    return slot


async def test_a_submission_stands_in_the_commit_that_passes_its_record() -> None:
    slot = slot_of(orders())
    slot.publish(order("a"))
    slot.deliver()
    for _ in range(20):
        await asyncio.sleep(0)
    assert slot.collect()
    commit = slot.under_way
    assert commit is not None
    (change,) = commit.changes
    told, journal = change.records
    assert commit.offsets == {TOPICS.topic: 1}
    assert (told.topic, told.key) == (TOPICS.coordinator, b"orders-3-0")
    assert dict(told.headers) == {
        "holdfast-run": b"orders-3-0",
        "holdfast-reply-key": b"orders-3-0",
        "holdfast-source": b"orders/3",
    }
    assert decode(SourceJournal, journal.value or b"").open_runs == 1
    assert slot.machine.open_runs == 0, "commit precedes apply"
    slot.acknowledge()
    assert slot.machine.open_runs == 1
    ((run_id, submission),) = slot.submissions
    assert run_id == submission.origin == "orders-3-0"
    assert submission.source == SourceSlot("orders", 3)
    assert isinstance(submission.input, bytes)
    assert decode_json(submission.input) == {"number": "a"}


async def test_the_record_key_is_the_order_key_of_the_plan() -> None:
    plan = fulfil()
    plan.order_key = plan.input("number")
    slot = slot_of(Source("orders", topic=Topic(TOPICS.topic, Order), plan=plan))
    slot.publish(order("customer-9"))
    await slot.work()
    assert [record.key for record in slot.written] == [b"customer-9"]
    assert slot.submissions[0][1].order_key == "customer-9"


async def test_a_word_of_an_end_makes_room() -> None:
    slot = slot_of(orders(), max_open=2)
    for n in range(5):
        slot.publish(order(n := str(n)))
    await slot.work()
    assert slot.run_ids == ["orders-3-0", "orders-3-1"]
    assert paused("open_runs") == 1
    slot.end("orders-3-0")
    await slot.work()
    assert slot.run_ids == ["orders-3-0", "orders-3-1", "orders-3-2"]
    slot.end("orders-3-1", None)
    slot.end("orders-3-2")
    await slot.work()
    assert len(slot.run_ids) == 5
    assert slot.machine.open_runs == 2
    assert slot.offsets == {TOPICS.topic: 5, TOPICS.control: 3}
    assert paused("open_runs") == 0


async def test_a_word_that_cannot_be_read_makes_no_room() -> None:
    slot = slot_of(orders(), max_open=1)
    slot.publish(order())
    slot.publish(order())
    await slot.work()
    slot._append(TOPICS.control, b"rubbish", b"k")
    await slot.work()
    assert slot.run_ids == ["orders-3-0"]
    (letter,) = slot.letters
    assert letter.dead_letter_id == "source-orders/control/3/0"
    assert letter.source is not None
    assert letter.source.value == b"rubbish"


# --- what is wrong with a record --------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "reason", "told"),
    [
        (b"rubbish", DeadLetterReason.UNDECODABLE, "no JSON"),
        (frame(9_999, b"x"), DeadLetterReason.UNDECODABLE, "9999 is not in the registry"),
        (b'{"nummer": 1}', DeadLetterReason.SCHEMA, "'number'"),
        (frame(AVRO_ID, b"\xff"), DeadLetterReason.UNDECODABLE, "damaged"),
    ],
)
async def test_a_record_that_cannot_be_read(
    value: bytes, reason: DeadLetterReason, told: str
) -> None:
    slot = slot_of(orders())
    slot.publish(value, key=b"k")
    slot.publish(order())
    await slot.work()
    assert slot.run_ids == ["orders-3-1"], "its neighbour passes"
    (letter,) = slot.letters
    assert letter.reason is reason
    assert letter.failure is not None
    assert told in letter.failure.message
    kept = letter.source
    assert kept is not None
    assert (kept.topic, kept.partition, kept.offset, kept.key) == (TOPICS.topic, 3, 0, b"k")
    assert kept.value == value
    assert kept.sha256 == hashlib.sha256(value).hexdigest()
    assert (letter.dead_letter_id, letter.agent) == ("source-orders/3/0", "source-orders")


async def test_an_input_that_does_not_fit_the_plan() -> None:
    slot = slot_of(orders(input=lambda record: {"number": {"not": "text"}}))
    slot.publish(order())
    await slot.work()
    assert slot.run_ids == []
    (letter,) = slot.letters
    assert letter.reason is DeadLetterReason.SCHEMA
    assert letter.failure is not None
    assert "number" in letter.failure.message


def _raises(record: TopicRecord[Order]) -> Submit | None:
    raise LookupError("no such customer")


async def _sleeps(record: TopicRecord[Order]) -> Submit | None:
    await asyncio.sleep(3_600)
    return None


def _returns_a_dict(record: TopicRecord[Order]) -> Any:
    return {"number": "1"}


def _makes_a_cycle(record: TopicRecord[Order]) -> Submit:
    plan = Plan("cycle")
    plan.task("a", "packer.pack", number="1", after=["b"])
    plan.task("b", "packer.pack", number="1", after=["a"])
    return Submit(plan)


def _names_no_task(record: TopicRecord[Order]) -> Submit:
    return Submit("nonsense")


@pytest.mark.parametrize(
    ("function", "kind", "told"),
    [
        (_raises, FailureKind.ERROR, "LookupError: no such customer"),
        (_sleeps, FailureKind.TIMEOUT, "longer than"),
        (_returns_a_dict, FailureKind.ERROR, "returned a dict"),
        (_makes_a_cycle, FailureKind.SCHEMA, "cycle"),
        (_names_no_task, FailureKind.SCHEMA, "names no task"),
    ],
)
def test_a_function_that_fails(function: Any, kind: FailureKind, told: str) -> None:
    async def scene() -> None:
        slot = slot_of(Source.of("orders", Topic(TOPICS.topic, Order), function))
        slot.publish(order())
        await slot.work()
        await asyncio.sleep(starting_module.CONVERT_S + 1)
        await slot.work()
        assert slot.run_ids == []
        (letter,) = slot.letters
        assert letter.failure is not None
        assert letter.failure.kind is kind
        assert told in letter.failure.message
        slot.machine.lost()

    run_virtual(scene)


async def test_what_is_passed_over_moves_the_offset_and_nothing_else() -> None:
    slot = slot_of(orders(where=lambda record: record.value.number != "no"))
    slot.publish(order("no"))
    slot.publish(None)
    await slot.work()
    assert slot.offsets[TOPICS.topic] == 2
    assert slot.written == []
    assert slot.journal == {}


# --- what is wrong around it ------------------------------------------------------------------


def test_what_is_out_of_reach_is_waited_for() -> None:
    async def scene() -> None:
        slot = slot_of(orders())
        slot.registry.late[AVRO_ID + 1] = slot.registry.schemas[AVRO_ID]
        slot.registry.away, slot.directory.away, slot.blobs.away = 3, 3, 3
        from holdfast.schemas import PayloadCodec

        big = "x" * (INLINE_BYTES_MAX + 1)
        slot.publish(PayloadCodec(Order).encode(Order(number=big), AVRO_ID + 1))
        seen: set[str] = set()
        for _ in range(200):
            await slot.work(5)
            await asyncio.sleep(0.05)
            seen |= {r for r in ("registry", "bus", "blobs", "agents", "plan") if paused(r)}
        assert seen == {"registry", "bus", "blobs"}
        ((_, submission),) = slot.submissions
        assert isinstance(submission.input, BlobReference)
        assert submission.input.name.startswith("orders-3-0/")
        assert slot.letters == []
        assert not any(paused(reason) for reason in seen)
        slot.machine.lost()

    run_virtual(scene)


@pytest.mark.parametrize(("agent", "reason"), [("other", "agents"), ("packer", "plan")])
def test_what_agents_do_not_offer_yet_is_waited_for(agent: str, reason: str) -> None:
    async def scene() -> None:
        slot = FakeSlot(orders())
        slot.offer(agent, "something", Order)
        slot.boot()
        slot.publish(order())
        for _ in range(10):
            await slot.work(5)
            await asyncio.sleep(1)
        assert paused(reason) == 1
        assert slot.written == []
        slot.offer("packer", "pack", Order)
        for _ in range(10):
            await slot.work(5)
            await asyncio.sleep(1)
        assert slot.run_ids == ["orders-3-0"]
        assert paused(reason) == 0
        slot.machine.lost()

    run_virtual(scene)


# --- what the bus does not take ---------------------------------------------------------------


@pytest.mark.parametrize("in_commit", [True, False])
async def test_what_the_bus_does_not_take_is_a_dead_letter(in_commit: bool) -> None:
    slot = slot_of(orders())
    slot.publish(order("huge"))
    slot.publish(order())

    def refuse(record: Record) -> bool:
        if in_commit and not slot.committing:
            return False
        return b"orders-3-0" in (record.key or b"") or (
            # A dead letter that holds the value, or even the headers, is as large.
            record.topic == TOPICS.dead_letters and b"huge" in (record.value or b"")
        )

    slot.refuse = refuse
    await slot.work()
    assert slot.run_ids == ["orders-3-1"]
    assert slot.machine.open_runs == 1
    assert decode(SourceJournal, slot.journal["open"] or b"").open_runs == 1
    (letter,) = slot.letters
    assert letter.failure is not None
    assert letter.failure.kind is FailureKind.TOO_LARGE
    assert letter.source is not None
    assert letter.source.value is None
    assert letter.source.sha256 == hashlib.sha256(order("huge")).hexdigest()


async def test_a_bus_that_does_not_even_take_a_dead_letter_ends_the_slot_loudly() -> None:
    slot = slot_of(orders())
    slot.publish(b"rubbish")
    await asyncio.sleep(0)
    slot.refuse = lambda record: record.topic == TOPICS.dead_letters
    await slot.work()
    assert slot.died, "a slot whose worker has ended would stand still for ever"
    assert slot.written == []


async def test_a_journal_that_is_not_taken_ends_the_slot_loudly() -> None:
    slot = slot_of(orders())
    slot.refuse = lambda record: slot.committing and record.topic == "journal"
    slot.publish(order())
    with pytest.raises(Rejected):
        await slot.work()
    assert slot.written == []


# --- its life ---------------------------------------------------------------------------------


async def test_what_waits_is_bounded_and_control_is_never_paused() -> None:
    slot = slot_of(orders(), max_open=1)
    for _ in range(QUEUE_RECORDS + 1):
        slot.publish(order())
    await slot.work(5)
    assert slot.machine.congested() == {TOPICS.topic}
    slot = slot_of(orders(), max_open=1)
    slot.publish(order())
    slot.publish(b"x" * QUEUE_BYTES)
    slot.deliver()
    assert slot.machine.congested() == {TOPICS.topic}


async def test_a_stop_begins_nothing_new_and_loses_nothing() -> None:
    slot = slot_of(orders())
    for _ in range(3):
        slot.publish(order())
    slot.deliver()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    slot.machine.quiesce()
    while slot.collect():
        slot.acknowledge()
    assert slot.machine.idle()
    slot.machine.lost()
    assert not slot.died
    slot.boot()
    await slot.work()
    assert slot.run_ids == ["orders-3-0", "orders-3-1", "orders-3-2"]


async def test_records_that_are_read_again_are_taken_once() -> None:
    slot = slot_of(orders())
    slot.publish(order())
    slot.deliver()
    slot.machine.receive(slot.logs[TOPICS.topic])
    await slot.work()
    assert slot.run_ids == ["orders-3-0"]


async def test_a_journal_of_another_build() -> None:
    slot = slot_of(orders())
    with pytest.raises(Undecodable, match="no key 'else'"):
        slot.machine.restore("else", b"")
    with pytest.raises(Undecodable):
        slot.machine.restore("open", b"rubbish")


Moves = st.lists(
    st.sampled_from(["publish", "poison", "end", "work", "collect", "acknowledge", "lose", "keep"]),
    max_size=60,
)


@given(moves=Moves, max_open=st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_one_submission_for_each_record_however_it_crashes(moves: list[str], max_open: int) -> None:
    async def scene() -> None:
        slot = slot_of(orders(), max_open=max_open)
        ended: set[str] = set()

        async def move(name: str) -> None:
            if name in ("publish", "poison"):
                slot.publish(order() if name == "publish" else b"rubbish")
                slot.deliver()
            elif name == "end":
                waiting = [run_id for run_id in slot.run_ids if run_id not in ended]
                for run_id in waiting[:1]:
                    ended.add(run_id)
                    slot.end(run_id)
                slot.deliver()
            elif name == "collect" and slot.under_way is None:
                slot.collect()
            elif name == "acknowledge" and slot.under_way is not None:
                slot.acknowledge()
            elif name in ("lose", "keep"):
                slot.crash(keep=name == "keep")
                slot.boot()
            await asyncio.sleep(0)
            assert len(slot.run_ids) - len(ended) <= max_open

        for name in moves:
            await move(name)
        if slot.under_way is not None:
            slot.acknowledge()
        for _ in range(len(moves) + 1):
            await slot.work(10)
            await move("end")
        await slot.work(10)
        good = [r.offset for r in slot.logs[TOPICS.topic] if r.value != b"rubbish"]
        bad = [r.offset for r in slot.logs[TOPICS.topic] if r.value == b"rubbish"]
        assert Counter(slot.run_ids) == Counter(f"orders-3-{offset}" for offset in good)
        assert [letter.source.offset for letter in slot.letters if letter.source] == bad
        assert slot.machine.open_runs == len(slot.run_ids) - len(ended)
        slot.machine.lost()

    run_virtual(scene)


def test_a_function_is_a_source_and_can_be_called() -> None:
    @source(Topic("orders.v1", Order), max_open=5)
    def on_order(record: TopicRecord[Order]) -> Submit | None:
        return Submit("packer.pack", record.value)

    assert (on_order.name, on_order.max_open, on_order.plan) == ("on-order", 5, None)
    record = TopicRecord("orders.v1", 0, 0, None, Order(number="1"), (("h", b"1"),), 0)
    assert on_order(record).input == Order(number="1")
    assert record.header("h") == b"1"
    assert record.header("x") is None
    assert record.at.year == 1970
