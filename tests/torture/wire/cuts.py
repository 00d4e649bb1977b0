"""Single faults of connections, for each kind of request that is in use."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from holdfast.bus.kafka import KafkaBus
from tests.kafka.proxy import ApiKey, Fault, Injection
from tests.torture.wire.bed import Bed, settings_for
from tests.torture.wire.traffic import Traffic

__all__ = ["CUTS", "SLOW", "Hit", "plan", "strike", "traffic", "used"]

CUTS = (Fault.CUT_BEFORE, Fault.CUT_SENT, Fault.CUT_ANSWERED)
SLOW = (Fault.DELAY, Fault.TRICKLE, Fault.LOSE_REQUEST, Fault.LOSE_ANSWER)
STRIKE_S = 45.0
WARM_UP_S = 6.0
MEMBER_REBALANCE_S = 2.0
MEMBER_REQUEST_S = MEMBER_REBALANCE_S + 10.0
"""The least that the settings allow beside that rebalance time-out; 20 s as delivered."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One fault that struck, and how long after it lanes and traffic all went on."""

    fault: Fault
    kind: ApiKey
    recovery_s: float


@asynccontextmanager
async def traffic(bed: Bed) -> AsyncIterator[Traffic]:
    """Yield traffic beside the lanes, through the proxy."""
    short = settings_for(bed.proxied)
    member = settings_for(
        bed.proxied,
        rebalance_timeout_s=MEMBER_REBALANCE_S,
        request_timeout_s=MEMBER_REQUEST_S,
    )
    made = Traffic(bed.lanes, KafkaBus(short), KafkaBus(member))
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def used(bed: Bed, running: Traffic) -> list[ApiKey]:
    """Provoke each kind of request for a while, and return those that came."""
    for kind in ApiKey:
        running.wanted = kind
        await asyncio.sleep(WARM_UP_S / len(ApiKey))
    running.wanted = ApiKey.FIND_COORDINATOR
    await asyncio.sleep(1.0)
    running.wanted = None
    await bed.lanes.progress(time.monotonic())
    return sorted(ApiKey(key) for key in bed.proxy.seen)


def plan(
    faults: Collection[Fault], kinds: Collection[ApiKey], count: int, seed: int
) -> Iterator[tuple[Fault, ApiKey]]:
    """Yield `count` pairs: each as often as any other, give or take one, in a seeded order."""
    choose = random.Random(seed)
    every = [(fault, kind) for fault in faults for kind in kinds]
    while count > 0:
        choose.shuffle(every)
        yield from every[:count]
        count -= len(every)


async def strike(bed: Bed, running: Traffic, fault: Fault, kind: ApiKey) -> Hit:
    """Have `fault` strike the next request of its kind; wait until everything goes on."""
    injection = bed.proxy.inject(Injection(fault, kind))
    running.wanted = kind
    try:
        async with asyncio.timeout(STRIKE_S):
            await injection.struck.wait()
    finally:
        running.wanted = None
        bed.proxy.withdraw(injection)
    at = time.monotonic()
    recovered = await asyncio.gather(bed.lanes.progress(at), running.progress(at))
    return Hit(fault, kind, max(recovered))
