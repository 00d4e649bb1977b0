"""A transaction that a client has left open: it died with records written, and nobody ends it."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from typing import TYPE_CHECKING

from aiokafka import AIOKafkaProducer

from holdfast.bus.kafka.clients import drop
from holdfast.bus.topics import COORDINATOR_GROUP
from holdfast.schemas.codec import encode
from holdfast.schemas.records import CoordinatorEnvelope
from tests.torture.arena import PARTITIONS
from tests.torture.faults.base import RECOVERY_MAX_S, Fault, Injection, NotRecovered
from tests.torture.faults.records import submission

if TYPE_CHECKING:
    from tests.torture.arena import Arena

__all__ = ["OpenTransaction"]

TIMEOUT_MS = 5_000
"""After this the broker aborts it; until then nobody reads past it."""


class OpenTransaction(Fault):
    """A producer writes a submission to a partition of `coordinator`, and dies before it commits.

    What it wrote must never be acted on (I5). Recovery is the time until the slot of this
    partition, which reads nothing meanwhile, was committed to again.
    """

    name = "open-transaction"
    bound_s = 15.0
    buses = ("kafka",)

    def victims(self, arena: Arena) -> list[str]:
        """The partitions of `coordinator`."""
        return [str(number) for number in range(PARTITIONS)]

    async def inject(self, arena: Arena, victim: str, chance: random.Random) -> Injection | None:
        """See `Fault`."""
        name = f"never-{uuid.UUID(int=chance.getrandbits(128)).hex[:12]}"
        now_ms = time.time_ns() // 1_000_000
        value = encode(CoordinatorEnvelope(name, now_ms, submission(name, now_ms)))
        producer = AIOKafkaProducer(
            bootstrap_servers=arena.bus.url.removeprefix("kafka://"),
            transactional_id=f"{arena.settings.namespace}.{name}",
            transaction_timeout_ms=TIMEOUT_MS,
        )
        await producer.start()
        await producer.begin_transaction()
        topic, partition = arena.topics.coordinator, int(victim)
        await producer.send_and_wait(topic, value, key=name.encode(), partition=partition)
        at = time.monotonic()
        await drop(producer)
        slot = (arena.topics.journal(COORDINATOR_GROUP), partition)
        awaited = {"": arena.watch.progress([slot], at)}
        return Injection(victim, "", awaited)

    async def recovered(self, arena: Arena, injection: Injection) -> dict[str, float]:
        """See `Fault`. What waits behind an open transaction nobody can see: no look for lag."""
        recovery = injection.awaited[""]
        try:
            async with asyncio.timeout(RECOVERY_MAX_S):
                await recovery.done.wait()
        except TimeoutError:
            raise NotRecovered(
                f"partition {injection.victim} of coordinator stands still"
            ) from None
        return {} if recovery.seconds is None else {"": recovery.seconds}
