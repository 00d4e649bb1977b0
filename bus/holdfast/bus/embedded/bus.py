"""The embedded bus: one SQLite file, many processes of one machine."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import Counter as Tally
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from holdfast.bus.embedded.append import Append
from holdfast.bus.embedded.blobs import BlobInfo, BlobTable
from holdfast.bus.embedded.catalog import Catalog, create_topics
from holdfast.bus.embedded.commit_thread import CommitThread
from holdfast.bus.embedded.encoding import to_row
from holdfast.bus.embedded.members import Joining
from holdfast.bus.embedded.queue_lock import HolderWatch
from holdfast.bus.embedded.reader import EmbeddedReader
from holdfast.bus.embedded.settings import EmbeddedSettings
from holdfast.bus.embedded.store import (
    Counter,
    connect_reader,
    counter,
    log_version,
    lower_switch_interval,
)
from holdfast.bus.embedded.subscription import EmbeddedSubscription, Place
from holdfast.bus.embedded.tail import READ_RECORDS_MAX, LogReader, Tail
from holdfast.bus.embedded.upkeep import COMPACT_DIRTY_MIN, Upkeep, due, purge
from holdfast.bus.embedded.waiting import NewsDesk, Waiter
from holdfast.bus.embedded.wake import WakeReceiver, listening
from holdfast.bus.embedded.writer import EmbeddedWriter, claim_slot
from holdfast.bus.errors import BusError, BusUnavailable, TopicMismatch
from holdfast.bus.port import (
    AssignmentListener,
    Position,
    Received,
    Record,
    Slot,
    TopicInfo,
    TopicPartition,
    TopicSpec,
)

__all__ = ["EmbeddedBus", "in_use"]

log = logging.getLogger("holdfast.bus.embedded")

TICK_S = 0.25


def in_use(path: Path) -> bool:
    """Tell whether a living process has the bus file `path` open: a service, a client, a command.

    Whoever is about to remove the file asks; nothing keeps one from starting a moment later.
    """
    return listening(Path(f"{path}.d").absolute() / "wake")


class _Open:
    """What exists between `start` and `close`."""

    def __init__(self, settings: EmbeddedSettings, folder: Path) -> None:
        (folder / "wake").mkdir(parents=True, exist_ok=True)
        (folder / "members").mkdir(exist_ok=True)
        self.folder = folder
        self.loop = asyncio.get_running_loop()
        name = token_hex(8)
        self.socket = WakeReceiver(folder / "wake", name)
        try:
            self.thread = CommitThread(settings, folder, name, self._committed)
        except BaseException:
            self.socket.close()
            raise
        self.news = NewsDesk(name, self.thread.transact)
        self.watch = HolderWatch(self.thread.queue)
        self.tasks: list[asyncio.Task[None]] = []
        self.db: sqlite3.Connection | None = None

    def _committed(self, interests: set[int]) -> None:
        self.news.committed(interests)

    def woken(self) -> None:
        self.news.woken(self.socket.drain())

    async def tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.thread.expire()
            self.watch.step()

    async def close(self) -> None:
        for task in self.tasks[1:]:
            task.cancel()
        self.loop.remove_reader(self.socket.fileno())
        if self.db is not None:
            with suppress(BusError, TimeoutError):
                async with asyncio.timeout(1.0):
                    await self.news.close()
            # Before the thread's own: the last connection to close checkpoints, and that is done
            # under the lock only there.
            self.db.close()
        await self.thread.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.socket.close()


class EmbeddedBus:
    """See `holdfast.bus.port.Bus`. For one event loop; nothing may fork once it is started."""

    def __init__(self, settings: EmbeddedSettings) -> None:
        self._settings = settings
        self._folder = Path(f"{settings.path}.d").absolute()
        self._open: _Open | None = None
        self._subscriptions: set[EmbeddedSubscription] = set()
        self._writers: Tally[Slot] = Tally()

    # -- life ------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where it is."""
        return f"sqlite:///{self._settings.path}"

    async def start(self) -> None:
        """Open the file, making it if need be; raises `BusUnavailable`."""
        lower_switch_interval()
        log_version()
        path = self._settings.path
        try:
            opened = _Open(self._settings, self._folder)
        except OSError as error:
            raise BusUnavailable(f"the bus {path} cannot be opened: {error}") from error
        opened.tasks.append(asyncio.create_task(opened.tick(), name="bus tick"))
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                await opened.thread.start()
            self._begin(opened)
        except BaseException as error:
            await opened.close()
            if isinstance(error, TimeoutError):
                raise BusUnavailable(
                    f"no turn at {path} within {self._settings.connect_timeout_s:g} s: another "
                    "process stands inside a commit (it is named in the log, and ended after 30 s)"
                ) from None
            if isinstance(error, sqlite3.Error):
                raise BusUnavailable(f"the bus file {path} cannot be used: {error}") from error
            raise
        self._open = opened

    def _begin(self, opened: _Open) -> None:
        opened.db = connect_reader(self._settings.path)
        transact = opened.thread.transact
        self._log = LogReader(opened.db)
        self._catalog = Catalog(opened.db)
        self._blobs = BlobTable(transact, opened.db)
        self._upkeep = Upkeep(transact, opened.db, self._settings.tombstone_grace_s, _now_ms)
        opened.loop.add_reader(opened.socket.fileno(), opened.woken)
        opened.tasks.append(asyncio.create_task(self._keep_tidy(opened), name="bus upkeep"))

    async def close(self) -> None:
        """Leave all groups and close the file; never raises."""
        for subscription in list(self._subscriptions):
            await subscription.close()
        opened, self._open = self._open, None
        if opened is not None:
            with suppress(OSError, BusError):
                await opened.close()

    def _now(self) -> _Open:
        if self._open is None:
            raise BusUnavailable(f"the bus {self.url} is not started, or closed")
        return self._open

    # -- writing ---------------------------------------------------------------------------------

    async def open_writer(self, slot: Slot) -> EmbeddedWriter:
        """Become the slot's only writer: all older ones are fenced by the epoch in the file."""
        thread = self._now().thread
        claimed = await thread.transact(lambda transaction: claim_slot(transaction, slot))
        self._writers[slot] += 1
        limit = self._settings.max_record_bytes
        return EmbeddedWriter(slot, claimed, thread, self._catalog, limit, self._writer_closed)

    def _writer_closed(self, writer: EmbeddedWriter) -> None:
        self._writers[writer.slot] -= 1
        if self._writers[writer.slot] <= 0:
            del self._writers[writer.slot]
        for subscription in self._subscriptions:
            subscription.writer_closed()

    def _has_writer(self, slot: Slot) -> bool:
        return slot in self._writers

    async def publish(self, records: Sequence[Record]) -> list[Position]:
        """Write for those who own no slot, in one transaction."""
        thread = self._now().thread
        if not records:
            return []
        limit = self._settings.max_record_bytes
        topics = [self._catalog.topic(record.topic) for record in records]
        rows = [to_row(record, topic, limit) for record, topic in zip(records, topics, strict=True)]
        op = Append(rows, records, asyncio.get_running_loop().create_future())
        thread.append(op)
        await op.future
        return [
            Position(topic.name, row.stream - topic.first_stream, offset)
            for topic, row, offset in zip(topics, rows, op.offsets, strict=True)
        ]

    async def purge(self, before: Mapping[TopicPartition, int]) -> None:
        """Forget all records below these offsets, at most 1,000 rows a transaction."""
        transact = self._now().thread.transact
        for partition, offset in before.items():
            await purge(transact, self._catalog.stream(partition), offset)

    # -- reading ---------------------------------------------------------------------------------

    async def subscribe(
        self, group: str, topics: Sequence[str], *, member: str, listener: AssignmentListener
    ) -> EmbeddedSubscription:
        """Join `group` under the static name `member`; raises `TopicMissing`, `TopicMismatch`."""
        opened = self._now()
        counts = {name: self._catalog.topic(name).partitions for name in topics}
        if len(set(counts.values())) != 1:
            shown = ", ".join(f"{name!r}: {count}" for name, count in counts.items())
            raise TopicMismatch(f"topics of one group need equal partition counts; {shown}")
        joining = Joining(group, member, "", counts[topics[0]], self._settings.session_timeout_s)
        assert opened.db is not None
        place = Place(
            self._settings,
            opened.folder,
            opened.thread,
            opened.db,
            self._catalog,
            opened.news,
            self._has_writer,
            self._subscriptions.discard,
        )
        subscription = EmbeddedSubscription(place, joining, topics, listener)
        await subscription.start()
        self._subscriptions.add(subscription)
        return subscription

    async def open_reader(self, starts: Mapping[TopicPartition, int]) -> EmbeddedReader:
        """Follow partitions from the offsets given, without end."""
        opened = self._now()
        tail, waiter = Tail(self._log, self._catalog), Waiter()
        tail.seek_all(starts)
        opened.news.follow(waiter, {self._catalog.stream(tp) for tp in starts})
        return EmbeddedReader(tail, list(starts), opened.news, waiter)

    async def read(
        self, topic: str, partition: int, start: int = 0, end: int | None = None
    ) -> AsyncIterator[list[Received]]:
        """Yield batches from `start` (or the log's first offset, if later) to before `end`."""
        self._now()
        where = TopicPartition(topic, partition)
        with self._readable():
            stream = self._catalog.stream(where)
            begin, head, _ = self._log.ends([stream])[stream]
        last = head if end is None else min(end, head)
        tail = Tail(self._log, self._catalog)
        tail.seek(where, max(start, begin))
        while (tail.position(where) or 0) < last:
            batch = [r for r in tail.take([where], READ_RECORDS_MAX) if r.offset < last]
            if batch:
                yield batch
            # Each batch is a moment on the event loop; a long restore must not become one long one.
            await asyncio.sleep(0)

    # -- topics and offsets ----------------------------------------------------------------------

    async def create_topics(self, specs: Collection[TopicSpec]) -> None:
        """Create those that are missing; raises `TopicMismatch` before any is created."""
        await self._now().thread.transact(lambda transaction: create_topics(transaction, specs))

    async def describe_topics(self, names: Collection[str] | None = None) -> dict[str, TopicInfo]:
        """Return those of `names` that exist, or all."""
        self._now()
        limit = self._settings.max_record_bytes
        return {
            topic.name: TopicInfo(topic.name, topic.partitions, topic.cleanup, limit)
            for topic in self._catalog.all().values()
            if names is None or topic.name in names
        }

    async def begin_offsets(
        self, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Return the first offset that each log still holds."""
        return self._counted(partitions, lambda stream: counter(Counter.BEGIN, stream))

    async def end_offsets(
        self, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Return the high watermarks; raises `TopicMissing`."""
        return self._counted(partitions, lambda stream: counter(Counter.HEAD, stream))

    async def committed(
        self, group: str, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Return the group's consumed offsets; partitions without one are left out."""
        self._now()
        with self._readable():
            number = self._catalog.group(group)
            if number is None:
                return {}
            ids = {
                partition: counter(Counter.CONSUMED, number, self._catalog.stream(partition))
                for partition in partitions
            }
            found = self._log.counters(list(ids.values()))
        return {tp: found[row_id] for tp, row_id in ids.items() if row_id in found}

    async def lag(self, group: str, topics: Collection[str]) -> dict[TopicPartition, int]:
        """Return, per partition, how many offsets lie between the group and the end."""
        partitions = [
            TopicPartition(name, number)
            for name in topics
            for number in range(self._catalog.topic(name).partitions)
        ]
        begins = await self.begin_offsets(partitions)
        ends = await self.end_offsets(partitions)
        done = await self.committed(group, partitions)
        return {tp: max(0, ends[tp] - max(done.get(tp, 0), begins[tp])) for tp in partitions}

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Map what SQLite says while the file is read: whoever restores a slot waits it out."""
        try:
            yield
        except sqlite3.Error as error:
            raise BusUnavailable(f"the bus {self.url} cannot be read: {error}") from error

    def _counted(
        self, partitions: Collection[TopicPartition], row_id: Callable[[int], int]
    ) -> dict[TopicPartition, int]:
        self._now()
        with self._readable():
            ids = {tp: row_id(self._catalog.stream(tp)) for tp in partitions}
            found = self._log.counters(list(ids.values()))
        return {tp: found.get(number, 0) for tp, number in ids.items()}

    # -- large values ----------------------------------------------------------------------------

    async def put_blob(self, name: str, data: bytes) -> None:
        """Keep `data` (any size) under `name`, in place of what was there."""
        self._now()
        await self._blobs.put(name, data, _now_ms())

    async def get_blob(self, name: str) -> bytes | None:
        """Return what is kept under `name`, or None."""
        self._now()
        return await self._blobs.get(name)

    async def delete_blobs(self, names: Collection[str]) -> None:
        """Forget these; unknown ones are ignored."""
        self._now()
        await self._blobs.delete(names)

    async def list_blobs(
        self, prefix: str = "", *, after: str = "", limit: int = 1_000
    ) -> list[BlobInfo]:
        """Return at most `limit` blobs by name, those after `after`; [] at the end."""
        self._now()
        return self._blobs.list(prefix, after, limit)

    # -- upkeep ----------------------------------------------------------------------------------

    async def tidy(self, *, dirty_min: int = COMPACT_DIRTY_MIN) -> None:
        """Purge by age and size, compact topics with at least `dirty_min` new records, sweep."""
        self._now()
        for topic in list(self._catalog.all().values()):
            await self._upkeep.tidy(topic, dirty_min)
        await self._blobs.sweep(_now_ms())

    async def _tidy_when_due(self, opened: _Open, every_ms: int) -> None:
        row_id = counter(Counter.UPKEEP)
        # Looked at first: asking for a turn costs a sync, and one process does it for all.
        last_ms = self._log.counters([row_id]).get(row_id, 0)
        if 0 <= _now_ms() - last_ms < every_ms:
            return
        if await opened.thread.transact(lambda t: due(t, _now_ms(), every_ms)):
            await self.tidy()

    async def _keep_tidy(self, opened: _Open) -> None:
        every_s = self._settings.upkeep_s
        while True:
            await asyncio.sleep(every_s)
            try:
                await self._tidy_when_due(opened, int(every_s * 1000))
            except (BusError, sqlite3.Error) as error:
                log.warning("the bus file was not tidied: %s", error)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
