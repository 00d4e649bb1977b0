"""Lanes: owners of one slot each that commit numbers, one after the other, and nothing else.

A commit of number n writes two records to `left`, one to `right` and one to `journal`, and moves
the consumed offset of `source` to n. Each carries n and the *try*: no two calls of `commit` have
the same. After `OutcomeUnknown` or `Fenced` a lane does what a slot does: opens a new writer, reads
its journal, and commits n again, as another try, only if n is not there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from holdfast.bus.errors import BusUnavailable, Fenced, OutcomeUnknown, Rejected
from holdfast.bus.port import Bus, Cleanup, Record, Slot, TopicPartition, TopicSpec, Writer
from tests.waiting import until

__all__ = ["ONE_RECORD_BYTES", "PARTS", "Lane", "Lanes", "Piece", "Topics"]

RETRY_S = 0.02
PATIENCE_S = 90.0
"""After a fault every lane goes on within this, or it hangs."""
VALUE_BYTES = 120
ONE_RECORD_BYTES = 240
"""One record of a lane and the header of its batch fit into this; two records do not."""
PARTS = (("left", 0), ("left", 1), ("right", 2), ("journal", 3))
"""What each commit writes: topic and part."""


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one run; each has a partition per lane."""

    namespace: str

    def name(self, topic: str) -> str:
        return f"{self.namespace}.{topic}"

    def specs(self, lanes: int) -> list[TopicSpec]:
        names = ("left", "right", "journal", "source")
        return [TopicSpec(self.name(name), lanes, Cleanup.CONSUMED) for name in names]


@dataclass(frozen=True, slots=True)
class Piece:
    """One record of a commit: which lane, number, try and part it says it is."""

    lane: int
    number: int
    attempt: int
    part: int

    def encode(self) -> bytes:
        text = f"{self.lane}:{self.number}:{self.attempt}:{self.part}"
        return text.ljust(VALUE_BYTES).encode()

    @classmethod
    def decode(cls, value: bytes) -> Piece:
        return cls(*(int(text) for text in value.decode().split(":")))


@dataclass(eq=False)
class Lane:
    """The owner of slot `index`; `bus` is its process's, and changes when a successor comes."""

    index: int
    topics: Topics
    bus: Bus
    pause_s: float = 0.005
    number: int = 0
    """The newest number that is known to be committed."""
    begun: int = 0
    """Calls of `commit` so far; also the newest try."""
    opened: int = 0
    """Writers opened so far."""
    acknowledged: dict[int, int] = field(default_factory=dict)
    """Try to number, of commits that returned."""
    denied: dict[int, str] = field(default_factory=dict)
    """Try to error, of commits that said that nothing was written."""
    surprises: list[str] = field(default_factory=list)
    """What a bus must never do."""
    acknowledged_try: int = 0
    last_ack_at: float = 0.0
    _task: asyncio.Task[None] | None = None
    _journal_read: int = 0
    _reopen: bool = False
    _old: list[Bus] = field(default_factory=list)

    @property
    def slot(self) -> Slot:
        return Slot(self.topics.name("lanes"), self.index)

    @property
    def transactional_id(self) -> str:
        return f"{self.slot.group}.{self.index}"

    def start(self) -> None:
        """Begin to commit."""
        self._task = asyncio.ensure_future(self._run())

    async def stop(self) -> None:
        """End after the commit under way; raises what the lane died of."""
        task, self._task = self._task, None
        if task is not None:
            self._reopen = True
            task.set_name("stopping")
            await asyncio.wait({task}, timeout=PATIENCE_S)
            if not task.done():
                self.surprises.append(f"I9: hangs: {task.get_stack()}")
                task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        for bus in (*self._old, self.bus):
            await bus.close()

    async def progress(self, since: float, timeout_s: float = PATIENCE_S) -> float:
        """Return how many seconds after `since` the first commit begun from now on was
        acknowledged."""
        begun = self.begun
        what = f"lane {self.index}: no commit after try {begun}"
        await until(lambda: self.acknowledged_try > begun, what, timeout_s)
        return self.last_ack_at - since

    def reopen(self) -> None:
        """Open a new writer after the commit under way."""
        self._reopen = True

    async def hand_over(self, bus: Bus) -> None:
        """Go on as another process would after this one was cut off: its commit stays under way."""
        task, self._task = self._task, None
        assert task is not None
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        self._old.append(self.bus)
        self.bus = bus
        self.start()

    async def _run(self) -> None:
        me = asyncio.current_task()
        assert me is not None
        while me.get_name() != "stopping":
            self._reopen = False
            try:
                await self._own(await self.bus.open_writer(self.slot))
            except (OutcomeUnknown, Fenced):
                pass
            except BusUnavailable:
                await asyncio.sleep(RETRY_S)
            except Rejected as error:
                self.surprises.append(f"I4: {error}")

    async def _own(self, writer: Writer) -> None:
        self.opened += 1
        try:
            await self._restore()
            while not self._reopen:
                await self._commit(writer)
                await asyncio.sleep(self.pause_s)
        finally:
            await writer.close()

    async def _restore(self) -> None:
        journal = self.topics.name("journal")
        async for batch in self.bus.read(journal, self.index, self._journal_read):
            for record in batch:
                assert record.value is not None
                self.number = Piece.decode(record.value).number
                self._journal_read = record.offset + 1
        source = TopicPartition(self.topics.name("source"), self.index)
        consumed = (await self.bus.committed(self.slot.group, [source])).get(source, 0)
        if consumed != self.number:
            self.surprises.append(
                f"I4: opened for the {self.opened}th time at number {self.number}, "
                f"but the consumed offset is {consumed}"
            )

    async def _commit(self, writer: Writer) -> None:
        number, attempt = self.number + 1, self.begun + 1
        self.begun = attempt
        offsets = {TopicPartition(self.topics.name("source"), self.index): number}
        try:
            await writer.commit(self._records(number, attempt), offsets)
        except (Fenced, Rejected) as error:
            self.denied[attempt] = str(error)
            raise
        self.number = number
        self.acknowledged[attempt] = number
        self.acknowledged_try = attempt
        self.last_ack_at = time.monotonic()

    def _records(self, number: int, attempt: int) -> list[Record]:
        key = str(self.index).encode()
        return [
            Record(
                self.topics.name(topic),
                key,
                Piece(self.index, number, attempt, part).encode(),
                partition=self.index,
            )
            for topic, part in PARTS
        ]


class Lanes:
    """All lanes of one run."""

    def __init__(self, topics: Topics, make_bus: Callable[[], Bus], count: int) -> None:
        self.topics = topics
        self.make_bus = make_bus
        self.all = [Lane(index, topics, make_bus()) for index in range(count)]

    async def start(self) -> None:
        """Have every lane commit once."""
        for lane in self.all:
            await lane.bus.start()
            lane.start()
        await self.progress(time.monotonic(), 60)

    async def progress(self, since: float, timeout_s: float = PATIENCE_S) -> float:
        """Return how many seconds after `since` the last lane had a commit acknowledged."""
        return max(await asyncio.gather(*(lane.progress(since, timeout_s) for lane in self.all)))

    async def stop(self) -> None:
        """End all lanes."""
        await asyncio.gather(*(lane.stop() for lane in self.all))
