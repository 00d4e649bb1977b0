"""A broker that lost the end of a transaction (KAFKA-20734): whoever opens the slot next writes it.

Made here as the fault leaves it: records of a transaction in a partition that its coordinator does
not know of, so that its end writes no marker there. The check that forbids it is switched off.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.structs import TopicPartition as KafkaPartition

from holdfast.bus.errors import BusUnavailable
from holdfast.bus.kafka import hanging
from holdfast.bus.kafka.bus import KafkaBus
from holdfast.bus.kafka.hanging import Ended, Hanging, _outcome
from holdfast.bus.kafka.writer import transactional_id
from holdfast.bus.port import Cleanup, Record, Slot, TopicPartition, TopicSpec
from holdfast.bus.settings import KafkaSettings
from tests.broker import local_broker

SLOT = Slot("ns.echo", 0)
OUT, JOURNAL = "ns.out", "ns.journal"
GUARD = {"transaction.partition.verification.enable": "false"}


@pytest.fixture(scope="module")
def bootstrap() -> Iterator[str]:
    with local_broker(properties=GUARD) as broker:
        yield broker.bootstrap


@pytest.fixture
async def bus(bootstrap: str, request: pytest.FixtureRequest) -> AsyncIterator[KafkaBus]:
    bus = KafkaBus(KafkaSettings((bootstrap,)))
    await bus.start()
    await bus.create_topics([TopicSpec(topic_of(request), 2, Cleanup.CONSUMED)])
    yield bus
    await bus.close()


def topic_of(request: pytest.FixtureRequest) -> str:
    return f"ns.{request.node.name.replace('_', '-')[:80]}"


async def gone(*_: Any) -> Any:
    raise BusUnavailable("the broker went away")


async def leave_hanging(writer: Any, topic: str, value: bytes, name: str = "ns.echo.0") -> None:
    """Put a record of the writer's last transaction into partition 1, behind its coordinator."""
    producer = writer._producer
    state = producer._txn_manager
    builder = DefaultRecordBatchBuilder(2, 0, 1, state.producer_id, state.producer_epoch, 1, 10_000)
    builder.append(0, 1, b"k", value, [])
    request = ProduceRequest(name, -1, 5_000, [(topic, [(1, bytes(builder.build()))])])
    leader = producer.client.cluster.leader_for_partition(KafkaPartition(topic, 1))
    response = await producer.client.send(leader, request)
    ((_, ((_, code, *_),)),) = response.topics
    assert code == 0


async def ended(bus: KafkaBus, topic: str) -> None:
    """Wait for the marker of the first commit: a commit is acknowledged before."""
    where = TopicPartition(topic, 1)
    while (await bus.end_offsets([where]))[where] < 2:
        await asyncio.sleep(0.01)


async def values(bus: KafkaBus, topic: str) -> list[bytes | None]:
    async with asyncio.timeout(10):
        return [r.value async for batch in bus.read(topic, 1, 0) for r in batch]


async def test_what_was_committed_is_committed_there_too(
    bus: KafkaBus, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    topic = topic_of(request)
    writer = await bus.open_writer(SLOT)
    await writer.commit([Record(topic, b"k", b"0", (), 0), Record(topic, b"k", b"1", (), 1)], {})
    await ended(bus, topic)
    await leave_hanging(writer, topic, b"left")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await values(bus, topic)
    with caplog.at_level(logging.WARNING):
        await bus.open_writer(SLOT)
    assert await values(bus, topic) == [b"1", b"left"]
    assert "it was committed" in caplog.text


async def test_nothing_is_written_where_nothing_hangs(
    bus: KafkaBus, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    topic = topic_of(request)
    for number in range(3):
        writer = await bus.open_writer(Slot("ns.calm", 0))
        await writer.commit([Record(topic, b"k", b"%d" % number, (), 1)], {})
    assert await values(bus, topic) == [b"0", b"1", b"2"]
    assert "lost the end" not in caplog.text


async def cut_off(bus: KafkaBus, slot: Slot, topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a committed transaction hanging, and an opening that fenced, but got no further."""
    writer = await bus.open_writer(slot)
    await writer.commit([Record(topic, b"k", b"1", (), 1)], {})
    await ended(bus, topic)
    await leave_hanging(writer, topic, b"left", transactional_id(slot))
    with monkeypatch.context() as away:
        away.setattr(hanging, "_open_of", gone)
        with pytest.raises(BusUnavailable):
            await bus.open_writer(slot)


async def test_what_was_heard_before_the_broker_went_away_is_not_forgotten(
    bus: KafkaBus, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The opening fenced, and got no further; the next one hears that nothing had been."""
    topic, slot = topic_of(request), Slot("ns.flap", 0)
    await cut_off(bus, slot, topic, monkeypatch)
    await bus.open_writer(slot)
    assert await values(bus, topic) == [b"1", b"left"]


async def test_what_nobody_knows_is_left_alone_and_the_slot_stays_closed(
    bus: KafkaBus, bootstrap: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic, slot = topic_of(request), Slot("ns.doubt", 0)
    await cut_off(bus, slot, topic, monkeypatch)
    other = KafkaBus(KafkaSettings((bootstrap,), operation_timeout_s=2.0))
    await other.start()
    with pytest.raises(BusUnavailable, match=r"hangs in .*its outcome is not known"):
        await other.open_writer(slot)
    await other.close()


@pytest.mark.parametrize(
    ("state", "epoch", "committed"),
    [
        (Ended(1, 4, committed=None), 5, True),
        (Ended(1, 4, committed=None), 6, False),
        (Ended(1, 4, committed=None, empty=True), 5, None),
        (Ended(1, 4, committed=False), 5, False),
    ],
)
def test_the_epochs_tell_how_one_that_was_open_has_ended(
    state: Ended, epoch: int, committed: bool | None
) -> None:
    assert hanging.decided(state, epoch).committed is committed


@pytest.mark.parametrize(
    ("epoch", "last", "committed"),
    [
        (4, Ended(1, 4, committed=True), True),
        (4, Ended(1, 4, committed=False), False),
        (4, Ended(1, 4, committed=None), None),
        (3, Ended(1, 4, committed=False), False),
        (3, Ended(1, 4, committed=True), None),
        (2, Ended(1, 4, committed=False), None),
    ],
)
def test_the_outcome_is_told_only_where_it_is_known(
    epoch: int, last: Ended, committed: bool | None
) -> None:
    found = Hanging(TopicPartition("t", 0), epoch, 0, 7)
    assert _outcome(found, last) is committed
