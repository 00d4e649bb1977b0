"""A request whose answer was lost may still be on its way when the client's retry has long gone
through: nothing more is written with its epoch (KAFKA-17754). Against a fake broker."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka import errors as kafka_errors
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    TxnOffsetCommitRequest,
)

from holdfast.bus.errors import OutcomeUnknown
from holdfast.bus.port import Record, TopicPartition
from tests.kafka.fake_broker import FakeBroker

KINDS = (
    AddPartitionsToTxnRequest,
    AddOffsetsToTxnRequest,
    ProduceRequest,
    TxnOffsetCommitRequest,
    EndTxnRequest,
)
OFFSETS = {TopicPartition("in", 3): 12}


def records(value: bytes) -> list[Record]:
    return [Record("out", b"k", value)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lost", ["the request", "the answer"])
async def test_a_writer_that_lost_a_request_is_used_no_more(kind: type[Any], lost: str) -> None:
    broker = FakeBroker()
    writer = await broker.writer()
    error = kafka_errors.KafkaConnectionError("closed")
    if lost == "the answer" and kind is not ProduceRequest:  # the fake keeps no sequence numbers
        broker.answer[kind].append((error,))
    else:
        broker.answer[kind].append(error)
    await writer.commit(records(b"one"), OFFSETS)
    sent = len(broker.requests)
    with pytest.raises(OutcomeUnknown, match="on its way"):
        await writer.commit(records(b"two"), OFFSETS)
    assert len(broker.requests) == sent
    await writer.close()

    successor = await broker.writer()
    await successor.commit(records(b"two"), OFFSETS)
    await successor.commit(records(b"three"), OFFSETS)
    assert broker.log == [b"one", b"two", b"three"]
    await successor.close()


async def test_a_request_that_was_never_sent_is_no_stray() -> None:
    broker = FakeBroker()
    writer = await broker.writer()
    broker.answer[AddPartitionsToTxnRequest].append(kafka_errors.NodeNotReadyError("no connection"))
    await writer.commit(records(b"one"), OFFSETS)
    await writer.commit(records(b"two"), OFFSETS)
    assert broker.log == [b"one", b"two"]
    await writer.close()
