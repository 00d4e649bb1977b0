"""Slices of the torture on the wire, each on a real broker: `python -m tests.torture.wire`."""

from __future__ import annotations

import random
import uuid
from collections.abc import AsyncIterator

import pytest

from holdfast.bus.kafka import writer
from tests.broker import TestBroker
from tests.kafka.proxy import ApiKey, Fault, FaultProxy, redirect
from tests.torture.wire import cuts, torn
from tests.torture.wire.bed import Bed, bed
from tests.torture.wire.torn import Torn

pytestmark = pytest.mark.kafka

TORN = [
    Torn(ApiKey.END_TXN, Fault.HOLD_CUT, ApiKey.PRODUCE, False, 2),
    Torn(ApiKey.END_TXN, Fault.HOLD_CUT, ApiKey.PRODUCE, False, 1),
    Torn(ApiKey.END_TXN, Fault.HOLD_SILENT, ApiKey.TXN_OFFSET_COMMIT, True, 1),
    Torn(ApiKey.TXN_OFFSET_COMMIT, Fault.HOLD_CUT, ApiKey.END_TXN, False, 1),
    Torn(ApiKey.PRODUCE, Fault.HOLD_CUT, ApiKey.PRODUCE, False, 1),
    Torn(ApiKey.PRODUCE, Fault.HOLD_SILENT, ApiKey.END_TXN, True, 1),
    Torn(ApiKey.ADD_PARTITIONS_TO_TXN, Fault.HOLD_CUT, ApiKey.END_TXN, False, 1),
]
INVALID_PRODUCER_EPOCH = 47
TEARS = 12
"""Which requests of the next transaction are there already is chance: enough of them, and some
are torn (one of three, measured)."""


@pytest.fixture
async def proxy(kafka_broker: TestBroker) -> AsyncIterator[FaultProxy]:
    """A proxy before the broker of the session, to which this process's clients are led."""
    host, _, port = kafka_broker.bootstrap.rpartition(":")
    real = (host, int(port))
    made = FaultProxy(real)
    await made.restore()
    redirect(real, made.address)
    yield made
    redirect(real, None)
    await made.cut()


@pytest.fixture
async def lanes(kafka_broker: TestBroker, proxy: FaultProxy) -> AsyncIterator[Bed]:
    """Lanes at work through the proxy."""
    namespace = f"wire-{uuid.uuid4().hex[:8]}"
    async with bed(namespace, kafka_broker.bootstrap, [proxy]) as made:
        yield made


async def test_a_late_request_of_an_old_transaction_is_refused(lanes: Bed) -> None:
    codes = set()
    for number, one in enumerate(TORN):
        lane = lanes.lanes.all[number % len(lanes.lanes.all)]
        codes.add((await torn.strike(lanes, lanes.proxy, lane, one)).code)
    assert codes == {INVALID_PRODUCER_EPOCH}
    assert await lanes.verdict() == []


async def test_without_our_defence_the_broker_tears_transactions(
    lanes: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the fault is the real one, and that the check sees it."""
    never = property(lambda _writer: False, lambda _writer, _value: None)
    monkeypatch.setattr(writer.KafkaWriter, "_stray", never, raising=False)
    for number in range(TEARS):
        lane = lanes.lanes.all[number % len(lanes.lanes.all)]
        told = await torn.strike(lanes, lanes.proxy, lane, TORN[number % 2])
        assert told.code == 0  # into the next transaction: the broker cannot tell
    found = await lanes.verdict()
    assert "I4" in {violation.invariant for violation in found}


async def test_every_kind_of_request_survives_its_connection(lanes: Bed) -> None:
    seed = random.randrange(2**31)
    print(f"seed {seed}")
    async with cuts.traffic(lanes) as traffic:
        kinds = await cuts.used(lanes, traffic)
        assert len(kinds) >= 19, kinds
        for fault, kind in cuts.plan(cuts.CUTS, kinds, len(kinds), seed):
            await cuts.strike(lanes, traffic, fault, kind)
        assert traffic.surprises == []
    assert await lanes.verdict() == []
