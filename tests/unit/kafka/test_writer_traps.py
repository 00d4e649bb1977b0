"""The traps of aiokafka's transactional producer, each on its own code against a fake broker.

The numbers are those of the design's list of traps.
"""

from __future__ import annotations

import ast
import asyncio
import gc
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import errors as kafka_errors
from aiokafka.producer import producer as kafka_producer
from aiokafka.producer import sender as kafka_sender
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
    TxnOffsetCommitRequest,
)

from holdfast.bus.errors import BusUnavailable, Fenced, OutcomeUnknown, Rejected
from holdfast.bus.kafka import clients, quiet, writer
from holdfast.bus.kafka.publisher import idempotent_producer
from holdfast.bus.port import Record, TopicPartition
from holdfast.bus.settings import KafkaSettings
from tests.kafka.fake_broker import FakeBroker
from tests.waiting import until

GROUP_AUTHORIZATION_FAILED = 30
MESSAGE_TOO_LARGE = 10
INVALID_PRODUCER_EPOCH = 47
INVALID_TXN_STATE = 48
CONCURRENT_TRANSACTIONS = 51
FENCED_CODE = 90
ABORTABLE_CODE = 120

RECORDS = [Record("out", b"k", b"one"), Record("journal", b"o", b"two", (("h", b"x"),), 3)]
OFFSETS = {TopicPartition("in", 3): 12}


@pytest.fixture
async def broker() -> FakeBroker:
    return FakeBroker()


async def test_a_commit_writes_records_and_offsets(broker: FakeBroker) -> None:
    slot = await broker.writer()
    await slot.commit(RECORDS, OFFSETS)
    assert sorted(broker.log) == [b"one", b"two"]
    assert broker.offsets == {("in", 3): 12}
    await slot.close()


async def test_a_slot_has_one_producer_by_its_name(broker: FakeBroker) -> None:
    slot = await broker.writer()
    manager = broker.producers[0]._txn_manager
    assert manager.transactional_id == "ns.group.3"
    assert manager.transaction_timeout_ms == 5_000
    await slot.commit(RECORDS, OFFSETS)
    await slot.commit(RECORDS, OFFSETS)
    assert len(broker.producers) == 1
    await slot.close()


async def test_batches_take_part_in_the_transaction(broker: FakeBroker) -> None:
    # Partitions are added before they are written to, and all in one request.
    slot = await broker.writer()
    await slot.commit(RECORDS, OFFSETS)
    assert broker.count(AddPartitionsToTxnRequest) == 1
    assert broker.requests.index("AddPartitionsToTxnRequest") < broker.requests.index(
        "ProduceRequest"
    )
    assert broker.requests[-1] == "EndTxnRequest"
    await slot.close()


async def test_partitions_and_offsets_are_added_in_one_round_trip(broker: FakeBroker) -> None:
    held = asyncio.Event()
    broker.answer[AddPartitionsToTxnRequest].append(held)
    slot = await broker.writer()
    commit = asyncio.ensure_future(slot.commit(RECORDS, OFFSETS))
    await until(lambda: broker.count(AddOffsetsToTxnRequest) == 1, "offsets asked for beside")
    assert not broker.count(ProduceRequest)
    held.set()
    await commit
    await slot.close()


async def test_trap_1_after_an_abortable_error_the_producer_is_never_used_again(
    broker: FakeBroker,
) -> None:
    broker.answer[AddOffsetsToTxnRequest].append(GROUP_AUTHORIZATION_FAILED)
    slot = await broker.writer()
    with pytest.raises(OutcomeUnknown):
        await slot.commit(RECORDS, OFFSETS)
    with pytest.raises(Fenced, match="dead"):
        await slot.commit([Record("out", b"k", b"next")], {})
    await slot.close()
    assert broker.log == []
    assert broker.count(EndTxnRequest) == 0
    assert broker.producers[0]._closed


async def test_trap_2_a_lost_batch_fails_the_commit(broker: FakeBroker) -> None:
    broker.answer[ProduceRequest].append(MESSAGE_TOO_LARGE)
    slot = await broker.writer()
    with pytest.raises(Rejected) as refused:
        await slot.commit(RECORDS, OFFSETS)
    assert refused.value.record in RECORDS
    assert broker.count(EndTxnRequest) == 0
    await slot.close()


@pytest.mark.parametrize("where", [ProduceRequest, EndTxnRequest])
async def test_trap_3_a_cancelled_commit_goes_on_and_ends_the_writer(
    broker: FakeBroker, where: type
) -> None:
    held = asyncio.Event()
    broker.answer[where].append(held)
    slot = await broker.writer()
    commit = asyncio.ensure_future(slot.commit(RECORDS, OFFSETS))
    await until(lambda: broker.count(where), "the commit is under way")
    commit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await commit
    with pytest.raises(Fenced, match="cancelled"):
        await slot.commit(RECORDS, OFFSETS)
    held.set()
    await until(lambda: slot.closed, "its producer is dropped")
    assert len(broker.log) == 2  # it was committed all the same: its outcome was unknown
    assert broker.producers[0]._closed


async def test_trap_3_state_errors_are_assertions_and_are_caught(broker: FakeBroker) -> None:
    slot = await broker.writer()
    await broker.producers[0].begin_transaction()  # so that our own begin is one too many
    with pytest.raises(OutcomeUnknown, match="AssertionError"):
        await slot.commit(RECORDS, OFFSETS)
    await slot.close()


@pytest.mark.parametrize(
    "kind", [AddPartitionsToTxnRequest, AddOffsetsToTxnRequest, ProduceRequest, EndTxnRequest]
)
async def test_trap_7_a_fenced_producer_is_not_initialised_again(
    broker: FakeBroker, kind: type
) -> None:
    broker.answer[kind].append(INVALID_PRODUCER_EPOCH)
    slot = await broker.writer()
    with pytest.raises(Fenced, match="newer writer"):
        await slot.commit(RECORDS, OFFSETS)
    with pytest.raises(Fenced):
        await slot.commit(RECORDS, OFFSETS)
    await slot.close()
    assert broker.count(InitProducerIdRequest) == 1
    assert broker.log == []


async def test_who_is_fenced_is_told_both_things_it_can_be(broker: FakeBroker) -> None:
    # One code stands for a newer writer and for a transaction that took too long.
    broker.answer[EndTxnRequest].append(INVALID_PRODUCER_EPOCH)
    slot = await broker.writer()
    both = r"slot 3 of 'ns\.group' has a newer writer, or its transaction timed out"
    with pytest.raises(Fenced, match=both):
        await slot.commit(RECORDS, OFFSETS)
    with pytest.raises(Fenced, match=both):
        await slot.commit(RECORDS, OFFSETS)
    await slot.close()


async def test_trap_8_a_code_that_aiokafka_does_not_know_is_told_by_its_number(
    broker: FakeBroker,
) -> None:
    broker.answer[EndTxnRequest].append(ABORTABLE_CODE)
    slot = await broker.writer()
    with pytest.raises(OutcomeUnknown):
        await slot.commit(RECORDS, OFFSETS)
    assert slot._tap.unknown_code == ABORTABLE_CODE
    await slot.close()


async def test_trap_8_producer_fenced_is_one_of_them(broker: FakeBroker) -> None:
    broker.answer[AddOffsetsToTxnRequest].append(FENCED_CODE)
    slot = await broker.writer()
    with pytest.raises(Fenced):
        await slot.commit(RECORDS, OFFSETS)
    await slot.close()


def test_trap_8_aiokafka_still_hides_codes_above_79() -> None:
    known = max(kafka_errors.kafka_errors)
    assert known == 79
    assert kafka_errors.for_code(FENCED_CODE) is kafka_errors.UnknownError


async def test_trap_8_a_producer_that_timed_out_is_dead(broker: FakeBroker) -> None:
    broker.answer[AddPartitionsToTxnRequest].append(INVALID_TXN_STATE)
    slot = await broker.writer()
    with pytest.raises(OutcomeUnknown, match="before it was decided"):
        await slot.commit(RECORDS, OFFSETS)
    await slot.close()
    assert broker.count(InitProducerIdRequest) == 1


async def test_trap_9_a_producer_that_wrote_a_billion_records_is_not_used_on(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert writer.MAX_RECORDS < 2**31
    monkeypatch.setattr(writer, "MAX_RECORDS", 3)
    slot = await broker.writer()
    await slot.commit(RECORDS, OFFSETS)
    await slot.commit(RECORDS, OFFSETS)
    with pytest.raises(OutcomeUnknown, match="reopen"):
        await slot.commit(RECORDS, OFFSETS)
    # Not made anew in place: that could fence the slot's newer owner.
    assert broker.count(InitProducerIdRequest) == 1
    await slot.close()


async def test_trap_10_a_producer_that_does_not_stop_is_dropped_in_time(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "DROP_TIMEOUT_S", 0.05)
    broker.answer[ProduceRequest].append(asyncio.Event())  # never answered
    slot = await broker.writer(commit_timeout_s=0.05)
    with pytest.raises(OutcomeUnknown, match="before it was decided"):
        await slot.commit(RECORDS, OFFSETS)
    async with asyncio.timeout(2):
        await slot.close()
    assert broker.producers[0]._sender.sender_task.done()


def test_trap_14_the_constant_is_where_it_was() -> None:
    assert clients.TRANSACTION_BACKOFF_MS == 2
    assert kafka_sender.BACKOFF_OVERRIDE == 0.002
    assert "BACKOFF_OVERRIDE" in inspect.getsource(kafka_sender.AddPartitionsToTxnHandler)
    uses = inspect.getsource(kafka_sender).count("BACKOFF_OVERRIDE")
    assert uses == 2, "only transactions may use it"


async def test_trap_14_only_transactional_producers_retry_so_soon() -> None:
    settings = KafkaSettings(("nowhere:1",))
    transactional = clients.transactional_producer(settings, "t")
    other = idempotent_producer(settings)
    assert transactional._sender._retry_backoff == 0.002
    assert transactional.client._retry_backoff == 0.002
    assert other._sender._retry_backoff == 0.1
    await transactional.stop()
    await other.stop()


async def test_trap_14_a_transaction_waits_2_ms_for_the_markers_of_the_one_before(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def noting(delay_s: float) -> None:
        slept.append(delay_s)
        await sleep(0)

    slot = await broker.writer()
    monkeypatch.setattr(kafka_sender.asyncio, "sleep", noting)
    broker.answer[AddPartitionsToTxnRequest] += [CONCURRENT_TRANSACTIONS] * 3
    await slot.commit(RECORDS, {})
    monkeypatch.undo()
    assert slept == [0.002] * 3
    await slot.close()


def test_trap_14_the_warning_of_each_retry_is_known_by_its_text() -> None:
    texts = {
        node.value
        for node in ast.walk(ast.parse(inspect.getsource(kafka_sender)))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert set(quiet.ROUTINE) <= texts


async def test_trap_15_offsets_of_a_topic_that_is_missing_are_refused_at_once(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = await broker.writer()

    async def described(names: Any) -> dict[str, Any]:
        return {}

    monkeypatch.setattr(slot._cluster, "describe", described)
    with pytest.raises(Rejected, match="'gone' does not exist"):
        await slot.commit(RECORDS, {TopicPartition("gone", 0): 1})
    assert not broker.count(TxnOffsetCommitRequest)
    await slot.close()


async def test_a_topic_that_was_deleted_is_refused_and_not_written_to_for_ever(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client would look for it until the commit's time is up, in every commit again."""
    monkeypatch.setattr(clients, "DROP_TIMEOUT_S", 0.05)
    slot = await broker.writer(commit_timeout_s=0.05)
    broker.answer[AddPartitionsToTxnRequest].append(asyncio.Event())
    with pytest.raises(OutcomeUnknown):
        await slot.commit(RECORDS, OFFSETS)
    await slot.close()

    async def described(names: Any) -> dict[str, Any]:
        return {name: slot._cluster.known[name] for name in names if name != "out"}

    monkeypatch.setattr(slot._cluster, "describe", described)
    again = writer.KafkaWriter(slot.slot, slot._cluster, slot._settings, broker.producer)
    await again.open()
    with pytest.raises(Rejected, match="'out' does not exist") as refused:
        await again.commit(RECORDS, OFFSETS)
    assert refused.value.record is RECORDS[0]
    await again.close()
    third = writer.KafkaWriter(slot.slot, slot._cluster, slot._settings, broker.producer)
    await third.open()
    await third.commit(RECORDS[1:], OFFSETS)
    assert broker.log == [b"two"]
    await third.close()


async def test_a_bus_that_is_away_while_a_topic_is_looked_up_is_an_unknown_outcome(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = await broker.writer()

    async def described(names: Any) -> dict[str, Any]:
        raise BusUnavailable("nobody answers")

    monkeypatch.setattr(slot._cluster, "describe", described)
    with pytest.raises(OutcomeUnknown, match="nobody answers"):
        await slot.commit([Record("new", b"k", b"v")], {})
    await slot.close()


async def test_trap_15_offsets_of_a_partition_that_is_missing_too(broker: FakeBroker) -> None:
    slot = await broker.writer()
    with pytest.raises(Rejected, match="no 9"):
        await slot.commit(RECORDS, {TopicPartition("in", 9): 1})
    await slot.close()


@pytest.mark.parametrize(
    "kind",
    [
        AddPartitionsToTxnRequest,
        AddOffsetsToTxnRequest,
        ProduceRequest,
        TxnOffsetCommitRequest,
        EndTxnRequest,
    ],
)
async def test_trap_15_every_await_of_a_commit_is_bounded(
    broker: FakeBroker, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "DROP_TIMEOUT_S", 0.05)
    broker.answer[kind].append(asyncio.Event())
    slot = await broker.writer(commit_timeout_s=0.05)
    with pytest.raises(OutcomeUnknown):
        await slot.commit(RECORDS, OFFSETS)
    await slot.close()


def test_a_commit_is_bounded_by_no_less_than_a_minute() -> None:
    assert KafkaSettings(("nowhere:1",)).commit_timeout_s == 60


async def test_trap_16_an_empty_commit_is_refused(broker: FakeBroker) -> None:
    slot = await broker.writer()
    with pytest.raises(ValueError, match="proves nothing"):
        await slot.commit([], OFFSETS)
    await slot.commit(RECORDS, OFFSETS)  # which costs the writer nothing
    await slot.close()


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (AddOffsetsToTxnRequest, GROUP_AUTHORIZATION_FAILED),
        (TxnOffsetCommitRequest, GROUP_AUTHORIZATION_FAILED),
        (AddPartitionsToTxnRequest, INVALID_PRODUCER_EPOCH),
        (TxnOffsetCommitRequest, INVALID_PRODUCER_EPOCH),
        (ProduceRequest, MESSAGE_TOO_LARGE),
        (EndTxnRequest, INVALID_TXN_STATE),
    ],
)
async def test_trap_19_no_failed_future_is_left_unseen(
    broker: FakeBroker, kind: type, code: int, unseen: Callable[[], list[str]]
) -> None:
    broker.answer[kind].append(code)
    slot = await broker.writer()
    with pytest.raises((Fenced, OutcomeUnknown, Rejected)):
        await slot.commit(RECORDS, OFFSETS)
    await slot.close()
    broker.producers.clear()
    del slot
    assert unseen() == []


async def test_trap_19_nor_when_the_offsets_fail_before_the_records_are_sent(
    broker: FakeBroker, unseen: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "DROP_TIMEOUT_S", 0.05)
    broker.answer[AddPartitionsToTxnRequest].append(asyncio.Event())
    broker.answer[AddOffsetsToTxnRequest].append(INVALID_PRODUCER_EPOCH)
    slot = await broker.writer(commit_timeout_s=0.1)
    with pytest.raises((Fenced, OutcomeUnknown)):
        await slot.commit(RECORDS, OFFSETS)
    await slot.close()
    broker.producers.clear()
    del slot
    assert unseen() == []


@pytest.fixture
async def unseen() -> Any:
    """Tells which errors asyncio reported as never retrieved."""
    told: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(str(context)))

    def look() -> list[str]:
        gc.collect()
        return told

    return look


async def test_the_answer_to_a_commit_that_is_lost_makes_its_outcome_unknown(
    broker: FakeBroker,
) -> None:
    # Committed; the answer is lost; asked again, the broker knows a newer writer: not "Fenced",
    # which would promise that nothing was written.
    broker.answer[EndTxnRequest] += [
        (kafka_errors.KafkaConnectionError("lost"),),
        INVALID_PRODUCER_EPOCH,
    ]
    slot = await broker.writer()
    with pytest.raises(OutcomeUnknown, match="answer to a commit"):
        await slot.commit(RECORDS, OFFSETS)
    assert broker.log != []
    await slot.close()


async def test_a_broker_that_comes_back_is_outlived(broker: FakeBroker) -> None:
    gone = kafka_errors.KafkaConnectionError("gone")
    for kind in (AddPartitionsToTxnRequest, ProduceRequest, TxnOffsetCommitRequest, EndTxnRequest):
        broker.answer[kind] += [gone] * 5
    slot = await broker.writer()
    await slot.commit(RECORDS, OFFSETS)
    assert len(broker.log) == 2
    await slot.close()


async def test_large_commits_are_split_and_stay_in_order(broker: FakeBroker) -> None:
    slot = await broker.writer()
    records = [Record("out", b"k", i.to_bytes(4, "big") + b"x" * 1000, (), 1) for i in range(3000)]
    await slot.commit(records, OFFSETS)
    assert broker.log == [record.value for record in records]
    assert broker.count(ProduceRequest) == 4
    await slot.close()


async def test_the_names_that_are_reached_into_are_there() -> None:
    producer = clients.transactional_producer(KafkaSettings(("nowhere:1",)), "t")
    assert isinstance(producer, kafka_producer.AIOKafkaProducer)
    assert hasattr(producer._txn_manager, "_transaction_waiter")
    assert producer._message_accumulator._batches == {}
    assert producer._sender.sender_task is None
    await producer.stop()
