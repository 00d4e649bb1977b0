"""A member of a group, and the machines in its slots: poll loop, ownership, stop.

One poll task never stops polling and never runs handlers. Each slot's own task owns its writer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any

from holdfast.bus import metrics
from holdfast.bus.errors import TopicMismatch, TopicMissing
from holdfast.bus.port import Environment, Received, Subscription
from holdfast.bus.slot.journal import ProcessIdentity
from holdfast.bus.slot.machine import MachineFactory
from holdfast.bus.slot.ownership import Ownership
from holdfast.bus.slot.slot import SlotContext

__all__ = ["SlotHost", "SlotSettings"]

logger = logging.getLogger(__name__)

POLL_S = 0.25
"""The longest that one poll waits: how fast a stop is noticed by the poll loop."""
BEAT_S = 0.1
"""How often the loop proves that it turns."""
LAG_EVERY_S = 5.0
"""How often the group's lag is measured."""


@dataclass(frozen=True, slots=True)
class SlotSettings:
    """One member of one group.

    `group` and all topics are whole names, with the namespace. `topics` have equal partition
    counts, and `journal` has as many. `stop_grace_s`: how long a stop lets handlers finish.
    `from_end`: of `topics`, those that a slot begins at the end of, where it never was before; at
    the others it begins with the first record that there is.
    """

    group: str
    topics: tuple[str, ...]
    journal: str
    identity: ProcessIdentity
    stop_grace_s: float = 10.0
    from_end: frozenset[str] = frozenset()


class SlotHost:
    """Joins a group and runs a machine in each slot that it is given.

    `start` joins, `run` returns when `stop` was called and raises what ended the member, `stop`
    lets handlers finish, commits a last time and leaves the group.
    """

    def __init__(
        self, environment: Environment, settings: SlotSettings, factory: MachineFactory
    ) -> None:
        self._environment = environment
        self._settings = settings
        self._factory = factory
        self._failure: asyncio.Future[None] | None = None
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._subscription: Subscription | None = None
        self._ownership: Ownership | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.polled_at = environment.monotonic()
        """When the poll loop last came round (`Environment.monotonic`): liveness by progress."""

    @property
    def running_slots(self) -> int:
        """How many slots are restored and at work here."""
        return 0 if self._ownership is None else self._ownership.running()

    @property
    def settled(self) -> bool:
        """True when every slot that lives here is restored and at work."""
        if self._ownership is None:
            return False
        return self._ownership.running() == len(tuple(self._ownership.slots))

    async def start(self) -> None:
        """Check the topics and join. Raises `TopicMissing`, `TopicMismatch`, `BusUnavailable`."""
        settings = self._settings
        partitions = await self._equal_partitions((*settings.topics, settings.journal))
        self._failure = asyncio.get_running_loop().create_future()
        context = SlotContext(
            self._environment,
            settings.identity,
            settings.topics,
            settings.journal,
            partitions,
            self._factory,
            settings.from_end,
        )
        self._ownership = Ownership(settings.group, context, self._fail)
        self._subscription = await self._environment.bus.subscribe(
            settings.group,
            settings.topics,
            member=settings.identity.instance,
            listener=self._ownership,
        )
        self._ownership.attach(self._subscription)
        for work in (self._poll, self._beat, self._measure_lag):
            self._tasks.append(asyncio.create_task(self._guard(work)))

    async def run(self) -> None:
        """Return when `stop` has finished; raise what ended the member before."""
        assert self._failure is not None, "start() comes first"
        stopped = asyncio.create_task(self._stopped.wait())
        try:
            ends: set[asyncio.Future[Any]] = {stopped, self._failure}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if self._failure.done():
                await self._failure
        finally:
            stopped.cancel()

    async def stop(self) -> None:
        """Finish or hand over within the grace, then leave the group. May be called again."""
        if self._stopping.is_set():
            await self._stopped.wait()
            return
        self._stopping.set()
        try:
            if self._ownership is not None:
                self._ownership.quiesce()
                await self._drain(self._ownership)
                await self._ownership.stop()
            await self._end_tasks()
            if self._subscription is not None:
                await self._subscription.close()
        finally:
            self._stopped.set()  # whatever happened: others wait for it

    async def kill(self) -> None:
        """Drop everything without a word, as a crash would: for tests and fatal errors."""
        self._stopping.set()
        if self._ownership is not None:
            await self._ownership.kill()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._stopped.set()

    async def _equal_partitions(self, topics: Collection[str]) -> int:
        found = await self._environment.bus.describe_topics(topics)
        missing = sorted(set(topics) - found.keys())
        if missing:
            raise TopicMissing(
                f"topics {', '.join(missing)} do not exist on {self._environment.bus.url}: "
                "create them with `holdfast topics create`"
            )
        counts = {info.partitions for info in found.values()}
        if len(counts) != 1:
            told = ", ".join(f"{i.name} has {i.partitions}" for i in found.values())
            raise TopicMismatch(
                f"the topics of group {self._settings.group} need equal partition counts: {told}"
            )
        return counts.pop()

    async def _poll(self) -> None:
        subscription, ownership = self._subscription, self._ownership
        assert subscription is not None
        assert ownership is not None
        # A stop still polls: the client's membership, and with it the right to commit, lives on
        # polls. It only hands nothing on.
        while not self._stopped.is_set():
            records = await subscription.poll(POLL_S)
            self.polled_at = self._environment.monotonic()
            if subscription.failure is not None:
                raise subscription.failure
            if not self._stopping.is_set():
                self._hand_over(ownership, records)

    @staticmethod
    def _hand_over(ownership: Ownership, records: list[Received]) -> None:
        by_partition: dict[int, list[Received]] = {}
        for record in records:
            by_partition.setdefault(record.partition, []).append(record)
        for partition, batch in by_partition.items():
            slot = ownership.slot(partition)
            if slot is not None:
                slot.receive(batch)

    async def _beat(self) -> None:
        assert self._ownership is not None
        worst_s, since = 0.0, self._environment.monotonic()
        while True:
            began = self._environment.monotonic()
            await asyncio.sleep(BEAT_S)
            now = self._environment.monotonic()
            self._ownership.beat()
            worst_s = max(worst_s, now - began - BEAT_S)
            metrics.LOOP_STALL_SECONDS.set(worst_s)
            if now - since > 10.0:
                worst_s, since = 0.0, now

    async def _measure_lag(self) -> None:
        settings = self._settings
        while True:
            await asyncio.sleep(LAG_EVERY_S)
            try:
                lag = await self._environment.bus.lag(settings.group, settings.topics)
            except Exception as error:  # noqa: BLE001 a figure is missing, nothing more
                logger.warning("cannot measure the lag of %s: %s", settings.group, error)
                continue
            for (topic, partition), records in lag.items():
                metrics.LAG.labels(topic, str(partition)).set(records)

    async def _drain(self, ownership: Ownership) -> None:
        try:
            async with asyncio.timeout(self._settings.stop_grace_s):
                while not all(slot.idle() for slot in ownership.slots):
                    await asyncio.sleep(0.01)
        except TimeoutError:
            logger.warning(
                "handlers still run after %g s; handing over", self._settings.stop_grace_s
            )

    async def _end_tasks(self) -> None:
        # The poll is never cancelled (a cancelled one spoils the client): it ends by itself.
        poll, *others = self._tasks or (None,)
        self._stopped.set()
        for task in others:
            task.cancel()
        if poll is not None:
            await asyncio.wait({poll}, timeout=POLL_S + 2.0)
        await asyncio.gather(*others, return_exceptions=True)

    async def _guard(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 handed to whoever waits in `run`
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        logger.error("group %s: this member cannot go on: %s", self._settings.group, error)
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)
            self._failure.exception()  # logged above, also where nobody waits in `run`
