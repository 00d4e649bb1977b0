"""Collects the history of a namespace while it happens, from any bus.

Topics are purged and compacted while the work goes on, so that a history read at the end would
hold little of it. The recorder follows every partition from its beginning, topics that appear
later too, and survives a bus that goes away. What it may have missed it says (`Gap`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from operator import attrgetter
from types import TracebackType
from typing import Self

from holdfast.bus.errors import BusError, OffsetOutOfRange
from holdfast.bus.port import Bus, Cleanup, Reader, Received, TopicInfo, TopicPartition
from holdfast.bus.topics import COORDINATOR_GROUP, Topics
from holdfast.testing.history import Gap, History

__all__ = ["Recorder"]

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.25
"""How often new topics are looked for. A purge comes seconds after a topic was made."""
POLL_S = 0.25
BATCH_RECORDS = 5_000
REOPEN_PAUSE_S = 0.2
AWAY_MAX_S = 300.0
"""Away for longer, compaction may have passed what was not read: a topic's newest segment, which
is never compacted, is at most 10 minutes old (`segment.ms`)."""


class _Follower:
    """Follows some partitions from where it stands, across failures of the bus."""

    def __init__(self, recorder: Recorder, starts: dict[TopicPartition, int]) -> None:
        self._recorder = recorder
        self.positions = starts
        self.task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        while True:
            reader: Reader | None = None
            try:
                reader = await self._recorder.bus.open_reader(dict(self.positions))
                while True:
                    self._take(reader, await reader.poll(POLL_S, BATCH_RECORDS))
            except OffsetOutOfRange:
                await self._jump()
            except (BusError, OSError) as error:
                self._recorder.away(error)
            finally:
                if reader is not None:
                    await reader.close()
            await asyncio.sleep(REOPEN_PAUSE_S)

    def _take(self, reader: Reader, batch: list[Received]) -> None:
        self._recorder.take(batch)
        for partition in self.positions:
            self.positions[partition] = reader.position(partition)
        self._recorder.progressed(self.positions)

    async def _jump(self) -> None:
        """Records were purged before they were read: go on behind them, and say so."""
        try:
            begins = await self._recorder.bus.begin_offsets(list(self.positions))
        except (BusError, OSError) as error:
            self._recorder.away(error)
            return
        for partition, begin in begins.items():
            at = self.positions[partition]
            if begin > at:
                self._recorder.missed(partition, at, begin, "purged before it was read")
                self.positions[partition] = begin


class Recorder:
    """Follows all topics of a namespace; used as an async context manager.

    `dense`: offsets of the bus have no holes by themselves (SQLite), so that a hole in a compacted
    topic is a record that was compacted away. The bus stays the caller's: the recorder only reads.
    """

    def __init__(self, bus: Bus, namespace: str, *, dense: bool | None = None) -> None:
        self.bus = bus
        self._topics = Topics(namespace)
        self._dense = bus.url.startswith("sqlite") if dense is None else dense
        self._records: dict[TopicPartition, list[Received]] = {}
        self._positions: dict[TopicPartition, int] = {}
        self._compacted: set[str] = set()
        self._gaps: list[Gap] = []
        self._begins: dict[TopicPartition, int] = {}
        self._followers: list[_Follower] = []
        self._watch: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()
        self._progress_at_s = 0.0

    async def __aenter__(self) -> Self:
        self._progress_at_s = asyncio.get_running_loop().time()
        await self._look()
        self._watch = asyncio.create_task(self._keep_looking())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop following; what was collected stays."""
        tasks = [follower.task for follower in self._followers]
        if self._watch is not None:
            tasks.append(self._watch)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._followers.clear()
        self._watch = None

    def __len__(self) -> int:
        return sum(len(log) for log in self._records.values())

    async def history(self, timeout_s: float = 60.0) -> History:
        """Read all that stands on the bus now, and return the history up to there.

        The groups' offsets are asked for first, so that what they have passed is in the history.
        Raises `TimeoutError` when the end is not reached in time, `BusError` while the bus is
        away.
        """
        async with asyncio.timeout(timeout_s):
            await self._look()
            offsets = {group: await self._committed(group) for group in self._groups()}
            ends = await self.bus.end_offsets(list(self._positions))
            while any(self._positions[partition] < end for partition, end in ends.items()):
                self._moved.clear()
                self._raise_failures()
                await self._moved.wait()
        records = {partition: list(log) for partition, log in self._records.items()}
        return History(
            self._topics.namespace, records, offsets, gaps=self._gaps, begins=dict(self._begins)
        )

    def forget(self, history: History) -> None:
        """Forget what `history` holds: the next one begins behind it. For runs of hours.

        Only while all is quiet: no run, task or transaction may be open, or what comes later refers
        to records that are forgotten. Of compacted topics the newest record of each key is kept, as
        a broker would keep it.
        """
        for partition, log in history.records.items():
            if not log:
                continue
            newer = self._records[partition][len(log) :]
            kept = _compacted(log) if partition.topic in self._compacted else []
            self._records[partition] = kept + newer
            self._begins[partition] = log[-1].offset + 1
        self._gaps = [g for g in self._gaps if g.end > self._begins.get(g.partition, 0)]

    # --- what the followers say ----------------------------------------------------------------

    def take(self, batch: Iterable[Received]) -> None:
        """Take records as they were read; what was read before is dropped."""
        for received in batch:
            partition = TopicPartition(received.topic, received.partition)
            log = self._records[partition]
            forgotten = self._begins.get(partition, 0) - 1
            last = max(forgotten, log[-1].offset) if log else forgotten
            if last < 0:
                last = received.offset - 1  # where the recorder began to read
            if received.offset <= last:
                continue
            if self._dense and received.offset > last + 1:
                self.missed(partition, last + 1, received.offset, "compacted before it was read")
            log.append(received)

    def progressed(self, positions: dict[TopicPartition, int]) -> None:
        """Note how far a follower has come, and that the bus is there."""
        now_s = asyncio.get_running_loop().time()
        away_s = now_s - self._progress_at_s
        if away_s > AWAY_MAX_S:
            for partition, at in positions.items():
                if partition.topic in self._compacted:
                    why = f"the bus was away for {away_s:.0f} s: perhaps compacted meanwhile"
                    self.missed(partition, self._positions.get(partition, 0), at, why)
        self._progress_at_s = now_s
        self._positions.update(positions)
        self._moved.set()

    def missed(self, partition: TopicPartition, start: int, end: int, why: str) -> None:
        """Note that records may be missing."""
        logger.warning("%s/%d: %d to %d: %s", *partition, start, end, why)
        self._gaps.append(Gap(partition, start, end, why))

    def away(self, error: BaseException) -> None:
        """Note that the bus is away; it is tried again."""
        logger.info("the recorder waits for the bus: %s", error)

    # --- topics --------------------------------------------------------------------------------

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self._look()
            except (BusError, OSError) as error:
                self.away(error)

    async def _look(self) -> None:
        """Follow the topics that were not there before."""
        prefix = f"{self._topics.namespace}."
        found = await self.bus.describe_topics()
        fresh = [
            TopicPartition(info.name, number)
            for info in found.values()
            if info.name.startswith(prefix)
            for number in range(info.partitions)
        ]
        self._note_compacted(found)
        begins = await self.bus.begin_offsets([p for p in fresh if p not in self._records])
        # Asked again after the wait: two looks may have run at once.
        starts = {p: begin for p, begin in begins.items() if p not in self._records}
        if not starts:
            return
        for partition, begin in starts.items():
            self._records[partition] = []
            self._positions[partition] = begin
            if begin > 0:
                self.missed(partition, 0, begin, "purged before the recorder came")
        self._followers.append(_Follower(self, starts))

    def _note_compacted(self, found: dict[str, TopicInfo]) -> None:
        self._compacted.update(i.name for i in found.values() if i.cleanup is Cleanup.COMPACT)

    def _groups(self) -> dict[str, list[TopicPartition]]:
        """Return the groups by whole name, with the partitions that they consume."""
        groups: dict[str, list[TopicPartition]] = {}
        for partition in self._positions:
            name = partition.topic.removeprefix(f"{self._topics.namespace}.")
            kind, _, rest = name.partition(".")
            if name == COORDINATOR_GROUP:
                groups.setdefault(self._topics.group(COORDINATOR_GROUP), []).append(partition)
            elif kind in ("tasks", "control"):
                groups.setdefault(self._topics.group(rest), []).append(partition)
        return groups

    async def _committed(self, group: str) -> dict[TopicPartition, int]:
        return await self.bus.committed(group, self._groups()[group])

    def _raise_failures(self) -> None:
        for follower in self._followers:
            if follower.task.done():
                follower.task.result()


def _compacted(log: Sequence[Received]) -> list[Received]:
    newest = {received.key: received for received in log}
    kept = (received for received in newest.values() if received.value is not None)
    return sorted(kept, key=attrgetter("offset"))
