"""What coordinators tidy up beside the runs: consumed records, silent manifests.

Only coordinators have the right to delete, and of those only the one that owns the first slot
does so, lest all of them ask the same. Doing it twice, at a change of owner, changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from holdfast.bus.errors import BusError, OffsetOutOfRange
from holdfast.bus.port import Environment, Record, TopicPartition
from holdfast.bus.topics import COORDINATOR_GROUP, Topics
from holdfast.coordinator import metrics
from holdfast.coordinator.directory import Directory
from holdfast.coordinator.settings import CoordinatorSettings

__all__ = ["Ends", "Housekeeping"]

logger = logging.getLogger(__name__)

ENDS_EVERY_S = 5.0
_DAY_MS = 86_400_000


class Ends:
    """A lower bound of the end of each partition of `events`, refreshed now and then.

    An end that was asked for earlier is never behind a record that is written later.
    """

    def __init__(self, environment: Environment, topic: str) -> None:
        self._bus = environment.bus
        self._topic = topic
        self._ends: dict[int, int] = {}

    def lower_bound(self, partition: int) -> int:
        """Return an offset at or before which no event written from now on can stand."""
        return self._ends.get(partition, 0)

    async def refresh(self) -> None:
        """Ask the bus. Raises `BusUnavailable`, `TopicMissing`."""
        info = await self._bus.describe_topics([self._topic])
        found = info.get(self._topic)
        if found is not None:
            partitions = [TopicPartition(self._topic, n) for n in range(found.partitions)]
            ends = await self._bus.end_offsets(partitions)
            self._ends = {where.partition: end for where, end in ends.items()}


class Housekeeping:
    """Runs beside the slots of one coordinator process. `leads`: whether it is the one to tidy."""

    def __init__(
        self,
        environment: Environment,
        topics: Topics,
        settings: CoordinatorSettings,
        directory: Directory,
        leads: Callable[[], bool],
    ) -> None:
        self._environment = environment
        self._bus = environment.bus
        self._topics = topics
        self._settings = settings
        self._directory = directory
        self._leads = leads
        self._purged: dict[TopicPartition, int] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.ends = Ends(environment, topics.events)

    async def start(self) -> None:
        """Learn where the events end, then tidy up regularly. Raises `BusUnavailable`."""
        await self.ends.refresh()
        self._tasks = [
            asyncio.create_task(self._every(ENDS_EVERY_S, self.ends.refresh)),
            asyncio.create_task(self._every(self._settings.purge_every_s, self.tidy)),
        ]

    async def close(self) -> None:
        """Stop; never raises."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def tidy(self) -> None:
        """Forget what was consumed and who is silent, if this process is the one to do so."""
        if not self._leads():
            return
        # Agents that came since, and signs of life: who is only thought silent must not be removed.
        await self._directory.refresh()
        await self._purge("coordinator", COORDINATOR_GROUP, [self._topics.coordinator])
        for agent in self._directory.agents():
            names = [self._topics.tasks(agent), self._topics.control(agent)]
            await self._purge("agent", agent, names)
        for group in self._directory.sources():
            await self._purge("source", group, [self._topics.control(group)])
        await self._forget_silent()

    async def _purge(self, kind: str, group: str, names: list[str]) -> None:
        found = await self._bus.describe_topics(names)
        partitions = [
            TopicPartition(info.name, number)
            for info in found.values()
            for number in range(info.partitions)
        ]
        committed = await self._bus.committed(self._topics.group(group), partitions)
        news = {
            where: offset
            for where, offset in committed.items()
            if offset > self._purged.get(where, 0)
        }
        if not news:
            return
        try:
            await self._bus.purge(news)
        except OffsetOutOfRange as error:
            logger.warning("consumed records were not purged: %s", error)
            return
        metrics.PURGED.labels(kind).inc(
            sum(offset - self._purged.get(where, 0) for where, offset in news.items())
        )
        self._purged |= news

    async def _forget_silent(self) -> None:
        before_ms = self._environment.now_ms() - round(self._settings.manifest_days * _DAY_MS)
        keys = self._directory.silent(before_ms)
        if not keys:
            return
        await self._bus.publish([Record(self._topics.agents, key.encode(), None) for key in keys])
        metrics.MANIFESTS_FORGOTTEN.inc(len(keys))
        logger.info("manifests of silent instances were removed: %s", ", ".join(keys))

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await work()
            except BusError as error:
                logger.warning("housekeeping waits for the bus: %s", error)
            except Exception:
                # Nobody awaits this task: ended, it would leave topics to grow without a word.
                logger.exception("housekeeping failed; it is tried again")
