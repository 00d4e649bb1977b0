"""The torn transaction: a request of an old transaction reaches the broker in a later one.

Jepsen's report on Bufstream 0.1.0 (2024) and KAFKA-17754: Kafka's transaction protocol counts on
requests to arrive in order, but sends them over several connections, with retries. A client whose
EndTxn is stuck in the network times out, sends it again over a new connection, is answered, and
begins its next transaction; then the first EndTxn arrives and ends that one in its midst. What had
arrived by then is committed; the rest is not. In the same way a late TxnOffsetCommit puts back the
offsets of a later transaction, and a late AddPartitionsToTxn opens a transaction that nobody ends.

KIP-890 mends this in two parts. Part 1 (brokers from 3.6): a partition's leader asks the
coordinator whether a produce belongs to an open transaction ("verification"): no record can be left
outside of any. Part 2, `transaction.version` 2 (brokers and Java clients from 4.0): the epoch
grows with every transaction, so that a late request of an older one is fenced. It needs EndTxn 5,
Produce 12 and TxnOffsetCommit 5; aiokafka 0.14 speaks EndTxn 0, Produce 8 and TxnOffsetCommit 0. So
although a 4.x broker runs version 2, our transactions are of version 1: one epoch for as long as
the producer lives, and the broker cannot tell a late request from a present one (it answers "no
error"). What protects us is our own: a writer one of whose requests was lost, even if a retry went
through, commits nothing more; the next writer's InitProducerId fences all that is on its way.

Here the proxy holds one request back, has its connection break or fall silent, waits until the next
transaction of the same slot stands at a chosen request, delivers the old one on its own connection,
and lets the next one go on when the broker has answered.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.kafka.proxy import ApiKey, Fault, FaultProxy, Frame, Injection
from tests.torture.wire.bed import Bed
from tests.torture.wire.lanes import Lane

__all__ = ["POINTS", "Told", "Torn", "plan", "strike"]

STRIKE_S = 20.0
HELD = (ApiKey.PRODUCE, ApiKey.ADD_PARTITIONS_TO_TXN, ApiKey.END_TXN, ApiKey.TXN_OFFSET_COMMIT)
GATES = (
    ApiKey.ADD_PARTITIONS_TO_TXN,
    ApiKey.PRODUCE,
    ApiKey.TXN_OFFSET_COMMIT,
    ApiKey.END_TXN,
)
POINTS = tuple(f"{key.name.lower()}-late" for key in HELD)


class Torn(NamedTuple):
    """One injection: what is held, how its connection fails, into what it is delivered."""

    held: ApiKey
    fault: Fault
    into: ApiKey
    successor: bool
    nth: int
    """Into the next transaction's first or second request of that kind."""

    @property
    def point(self) -> str:
        return f"{self.held.name.lower()}-late"


@dataclass(frozen=True, slots=True)
class Told:
    """What came of one injection."""

    torn: Torn
    lane: int
    held_in_try: int
    delivered_in_try: int
    code: int | None
    """What the broker said to the late request; None: it closed the connection."""
    recovery_s: float


def plan(count: int, seed: int, held: tuple[ApiKey, ...] = HELD) -> Iterator[Torn]:
    """Yield `count` injections; all combinations come up, in an order of the seed's."""
    choose = random.Random(seed)
    every = [
        Torn(key, fault, into, successor, nth)
        for key in held
        for fault in (Fault.HOLD_CUT, Fault.HOLD_SILENT)
        for into in GATES
        for successor in (False, True)
        for nth in ((1, 2) if into in (ApiKey.PRODUCE, ApiKey.ADD_PARTITIONS_TO_TXN) else (1,))
    ]
    while count > 0:
        choose.shuffle(every)
        yield from every[:count]
        count -= len(every)


async def strike(bed: Bed, proxy: FaultProxy, lane: Lane, torn: Torn) -> Told:
    """Hold a request of `lane`, deliver it in a later transaction, wait until all lanes go on."""
    hold = proxy.inject(Injection(torn.fault, torn.held, chooses=_of(lane)))
    async with asyncio.timeout(STRIKE_S):
        await hold.struck.wait()
    held_in = lane.begun
    assert hold.held is not None
    try:
        gate = proxy.inject(Injection(Fault.GATE, torn.into, chooses=_later(lane, torn.nth)))
        try:
            if torn.successor:
                bus = bed.lanes.make_bus()
                await bus.start()
                await lane.hand_over(bus)
            async with asyncio.timeout(STRIKE_S):
                await gate.struck.wait()
            delivered_in, at = lane.begun, time.monotonic()
            answer = await hold.held.deliver()
        finally:
            proxy.withdraw(gate)
            gate.open_gate()
        recovery_s = await lane.progress(at)
    finally:
        proxy.withdraw(hold)
        hold.held.drop()
    return Told(torn, lane.index, held_in, delivered_in, _code(torn.held, answer), recovery_s)


def _of(lane: Lane) -> Callable[[Frame], bool]:
    def chooses(frame: Frame) -> bool:
        return frame.transactional_id == lane.transactional_id

    return chooses


def _later(lane: Lane, nth: int) -> Callable[[Frame], bool]:
    """Choose the `nth` such request of one of the lane's transactions after this one."""
    of, now, count = _of(lane), lane.begun, itertools.count(1)

    def chooses(frame: Frame) -> bool:
        return of(frame) and lane.begun > now and next(count) >= nth

    return chooses


def _code(key: ApiKey, answer: bytes | None) -> int | None:
    """Return the error code in the broker's answer, in the versions that aiokafka speaks."""
    if answer is None:
        return None
    body = answer[8:]
    if key is ApiKey.END_TXN:
        return int.from_bytes(body[4:6], "big", signed=True)
    if key is ApiKey.PRODUCE:  # topics, name, partitions, partition
        name_bytes = int.from_bytes(body[4:6], "big")
        at = 6 + name_bytes + 4 + 4
    else:  # throttle time, topics, name, partitions, partition
        name_bytes = int.from_bytes(body[8:10], "big")
        at = 10 + name_bytes + 4 + 4
    return int.from_bytes(body[at : at + 2], "big", signed=True)
