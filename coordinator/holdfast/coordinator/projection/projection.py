"""Follows `events`, `agents` and `dead-letters` into a database.

    projection = Projection(environment, topics, "sqlite:///path")
    await projection.start()
    await projection.catch_up()             # all that is on the bus now
    await projection.follow()               # without end

1. Positions are read from the database, records from there on.
2. A batch is decoded to rows, of each run and task only the newest.
3. One transaction: the positions as they are now in the database; records below them are dropped
   (another process may follow into the same file); rows, unless the database has a newer version;
   the new positions.
So every record counts once, in whatever order processes die and start again.

A new database first takes the coordinator's journal: of runs older than the retention of `events`
only that tells. The same when it was away for longer than the retention.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import delete, select
from sqlalchemy.engine import Connection, Engine

from holdfast.bus.errors import OffsetOutOfRange, TopicMissing
from holdfast.bus.port import Environment, Position, Reader, Received, TopicPartition
from holdfast.bus.topics import COORDINATOR_GROUP, Topics
from holdfast.coordinator.projection import tables
from holdfast.coordinator.projection.rows import AskState, Batch, SignalState
from holdfast.schemas import (
    CoordinatorJournal,
    DeadLetter,
    Event,
    HoldfastError,
    Manifest,
    decode,
)
from holdfast.schemas.pauses import AGENT_PREFIX

__all__ = ["CAUSE_WAIT_S", "Projection"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

CAUSE_WAIT_S = 2.0
"""A read that names a record waits at most this long for the row it caused."""
BATCH_RECORDS = 2_000
"""The most records of one transaction."""
POLL_S = 0.25


class Projection:
    """One follower of one namespace. Used on one event loop; the database works in a thread."""

    def __init__(self, environment: Environment, topics: Topics, database_url: str) -> None:
        self._environment = environment
        self._topics = topics
        self._url = database_url
        self._engine: Engine | None = None
        self._reader: Reader | None = None
        self._partitions: dict[TopicPartition, int] = {}
        self._stored: dict[TopicPartition, int] = {}
        """The positions that the database held when this process last looked."""
        self._doubtful = False
        """What was polled last is perhaps not in the database: begin again from its positions."""
        self._turn = asyncio.Lock()
        self._applied = asyncio.Condition()

    @property
    def engine(self) -> Engine:
        """The database, for queries (see `queries`); `start` comes first."""
        assert self._engine is not None, "start() comes first"
        return self._engine

    async def start(self) -> None:
        """Open database and bus, restore positions.

        Raises:
            ConfigurationError: the database cannot be used.
            TopicMissing: there is no such namespace on the bus.
            BusUnavailable: the bus stays out of reach.
        """
        found = await self._followed_partitions()
        engine = self._engine = tables.open_database(self._url)
        source = f"{self._environment.bus.url} {self._topics.namespace}"
        await self._environment.run_blocking(lambda: tables.prepare_database(engine, source))
        if await self._is_another_bus(found):
            logger.warning("%s was begun anew: so is its projection", source)
            await self._environment.run_blocking(
                lambda: tables.prepare_database(engine, source, anew=True)
            )
        await self._take_up(found)

    async def close(self) -> None:
        """Let go of bus and database; never raises."""
        if self._reader is not None:
            await self._reader.close()
        if self._engine is not None:
            self._engine.dispose()

    async def follow(self) -> None:
        """Follow for ever; ends by cancellation, or by what ended the bus or the database."""
        while True:
            await self._step(POLL_S)

    async def catch_up(
        self, until: Mapping[TopicPartition, int] | None = None, timeout_s: float = 10.0
    ) -> bool:
        """Follow up to `until` (offsets next to be read), by default to the end as it is now.

        Returns False when that took longer than `timeout_s`. Not to be used beside `follow`.
        """
        goal = until or await self._environment.bus.end_offsets(list(self._partitions))
        deadline = asyncio.get_running_loop().time() + timeout_s
        while any(self._partitions.get(p, end) < end for p, end in goal.items()):
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0:
                return False
            await self._step(min(POLL_S, left_s))
        return True

    async def wait_for(self, cause: Position, timeout_s: float = CAUSE_WAIT_S) -> bool:
        """Return once the rows that `cause`, a record on `coordinator`, led to are there.

        False after `timeout_s`. Somebody else follows meanwhile (`follow` in another task).
        """
        query = (
            select(tables.history.c.offset)
            .where(
                tables.history.c.cause_partition == cause.partition,
                tables.history.c.cause_offset == cause.offset,
            )
            .limit(1)
        )

        def is_there(connection: Connection) -> bool:
            return connection.execute(query).first() is not None

        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    async with self._applied:
                        # Asked under the lock: a batch applied in between is not missed.
                        if await self.query(is_there):
                            return True
                        await self._applied.wait()
        except TimeoutError:
            return False

    async def query(self, read: Callable[[Connection], T]) -> T:
        """Run `read` in a transaction of its own, beside the event loop."""

        def run() -> T:
            with self.engine.connect() as connection, connection.begin():
                return read(connection)

        return await self._environment.run_blocking(run)

    # --- following -------------------------------------------------------------------------------

    async def _step(self, timeout_s: float) -> None:
        async with self._turn:
            if self._doubtful:
                await self._take_up(list(self._partitions))
            assert self._reader is not None, "start() comes first"
            try:
                records = await self._reader.poll(timeout_s, BATCH_RECORDS)
            except OffsetOutOfRange as error:
                logger.warning("%s: building the projection anew from the journal", error)
                await self._rebuild(list(self._partitions))
                self._doubtful = True
                return
            after = {p: self._reader.position(p) for p in self._partitions}
            # Without records a position still moves, past markers: kept in memory only.
            if records and not await self._apply(records, after):
                return
            self._partitions = after

    async def _apply(
        self, records: Sequence[Received], after: Mapping[TopicPartition, int]
    ) -> bool:
        moved = {p: offset for p, offset in after.items() if self._partitions[p] != offset}
        # Until it is written: the reader is past these records, and would not give them again.
        self._doubtful = True
        stored = await self._in_database(lambda connection: self._write(connection, records, moved))
        if stored is None:
            return False
        self._stored, self._doubtful = stored, False
        async with self._applied:
            self._applied.notify_all()
        return True

    def _write(
        self,
        connection: Connection,
        records: Sequence[Received],
        after: Mapping[TopicPartition, int],
    ) -> dict[TopicPartition, int] | None:
        """Return the positions as they are then; None, and nothing was written, where they went
        back: another process has begun the database anew, and what it lacks lies before."""
        known = _read_positions(connection, lock=True)
        if any(known.get(place, -1) < offset for place, offset in self._stored.items()):
            return None
        batch = Batch()
        newest: dict[TopicPartition, Received] = {}
        for received in records:
            place = TopicPartition(received.topic, received.partition)
            if received.offset >= known.get(place, 0):
                self._take(batch, received)
                newest[place] = received
        _write_batch(connection, batch)
        _write_positions(connection, after, newest)
        return {place: max(known[place], after.get(place, -1)) for place in self._stored}

    def _take(self, batch: Batch, received: Received) -> None:
        topics = self._topics
        try:
            if received.topic == topics.agents:
                key = received.key or b""
                value = received.value
                batch.add_manifest(key, None if value is None else decode(Manifest, value))
            elif received.value is None:
                logger.warning("%s: a record without a value is passed over", received.position)
            elif received.topic == topics.events:
                batch.add_event(received, decode(Event, received.value))
            else:
                batch.add_dead_letter(decode(DeadLetter, received.value))
        except HoldfastError as error:
            # One bad record must not hide all that come after it; the bus still has it.
            logger.warning("%s cannot be read and is passed over: %s", received.position, error)

    # --- building --------------------------------------------------------------------------------

    async def _followed_partitions(self) -> list[TopicPartition]:
        topics = self._topics
        wanted = [topics.events, topics.agents, topics.dead_letters]
        found = await self._environment.bus.describe_topics(wanted)
        missing = sorted(set(wanted) - found.keys())
        if missing:
            raise TopicMissing(
                f"topic {missing[0]} does not exist on {self._environment.bus.url}: start a "
                "coordinator, or create the topics with `holdfast topics create`"
            )
        return [
            TopicPartition(name, number)
            for name in wanted
            for number in range(found[name].partitions)
        ]

    async def _is_another_bus(self, partitions: Sequence[TopicPartition]) -> bool:
        """Whether what was followed is gone: the log is shorter, or holds another record there."""
        known = await self._in_database(_read_marks)
        ends = await self._environment.bus.end_offsets(partitions)
        newest: tuple[int, int, TopicPartition] | None = None
        for partition, (next_offset, last_offset, last_ms) in known.items():
            if next_offset > ends.get(partition, 0):
                return True
            if partition.topic == self._topics.events and last_ms is not None:
                newest = max(newest or (0, 0, partition), (last_ms, last_offset, partition))
        if newest is None:
            return False
        at_ms, offset, (topic, number) = newest
        async for records in self._environment.bus.read(topic, number, offset, offset + 1):
            return records[0].timestamp_ms != at_ms
        return False  # purged since: nothing tells them apart, and nothing speaks for another

    async def _rebuild(self, partitions: Sequence[TopicPartition]) -> None:
        """Take the journal to its end, then start each partition at its log's first offset.

        Where the journal was read before the events that it already reflects, those are older
        versions and skipped.
        """
        bus = self._environment.bus
        begins = await bus.begin_offsets(partitions)
        await self._in_database(_forget_waits)
        journal = self._topics.journal(COORDINATOR_GROUP)
        found = await bus.describe_topics([journal])
        count = found[journal].partitions if journal in found else 0
        for number in range(count):
            async for records in bus.read(journal, number):
                batch = Batch()
                for received in records:
                    self._take_journal(batch, received)
                await self._in_database(partial(_write_batch, batch=batch))
        await self._in_database(lambda connection: _write_positions(connection, begins))

    @staticmethod
    def _take_journal(batch: Batch, received: Received) -> None:
        key = (received.key or b"").decode("utf-8", "replace")
        if not key.startswith(("run/", "schedule/", AGENT_PREFIX)):
            return
        if received.value is None:
            batch.drop_journal(key)
            return
        try:
            batch.add_journal(key, decode(CoordinatorJournal, received.value))
        except HoldfastError as error:
            logger.warning("%s cannot be read and is passed over: %s", received.position, error)

    async def _take_up(self, partitions: Sequence[TopicPartition]) -> None:
        """Go on where the database is; build it where it is at no place yet."""
        known = await self._in_database(_read_positions)
        if not all(partition in known for partition in partitions):
            await self._rebuild(partitions)
            known = await self._in_database(_read_positions)
        self._partitions = {partition: known[partition] for partition in partitions}
        self._stored = dict(self._partitions)
        await self._open_reader()
        self._doubtful = False

    async def _open_reader(self) -> None:
        if self._reader is not None:
            await self._reader.close()
        self._reader = await self._environment.bus.open_reader(self._partitions)

    async def _in_database(self, work: Callable[[Connection], T]) -> T:
        engine = self.engine

        def run() -> T:
            with tables.transaction(engine) as connection:
                return work(connection)

        return await self._environment.run_blocking(run)


def _read_positions(connection: Connection, *, lock: bool = False) -> dict[TopicPartition, int]:
    query = select(tables.positions)
    if lock:  # SQLite has none, and needs none: the transaction began IMMEDIATE
        query = query.with_for_update()
    return {TopicPartition(row[0], row[1]): row[2] for row in connection.execute(query)}


def _read_marks(connection: Connection) -> dict[TopicPartition, tuple[int, int, int | None]]:
    rows = connection.execute(select(tables.positions))
    return {TopicPartition(row[0], row[1]): (row[2], row[3], row[4]) for row in rows}


def _write_positions(
    connection: Connection,
    after: Mapping[TopicPartition, int],
    newest: Mapping[TopicPartition, Received] | None = None,
) -> None:
    rows: list[dict[str, Any]] = []
    for partition, offset in after.items():
        last = (newest or {}).get(partition)
        rows.append(
            {
                "topic": partition.topic,
                "partition": partition.partition,
                "next_offset": offset,
                "last_offset": None if last is None else last.offset,
                "last_ms": None if last is None else last.timestamp_ms,
            }
        )
    tables.upsert(connection, tables.positions, rows, newer="next_offset")


def _forget_waits(connection: Connection) -> None:
    """Forget what was open when the database was left: the event of its end may be gone since.
    The journal, which is read next, tells what is open."""
    connection.execute(delete(tables.asks).where(tables.asks.c.state == AskState.OPEN.value))
    kept = tables.signals.c.state == SignalState.KEPT.value
    connection.execute(delete(tables.signals).where(kept))
    connection.execute(delete(tables.pauses))


def _write_batch(connection: Connection, batch: Batch) -> None:
    tables.upsert(connection, tables.runs, list(batch.runs.values()), newer="version")
    tables.upsert(connection, tables.tasks, list(batch.tasks.values()), newer="version")
    tables.upsert(connection, tables.plans, list(batch.plans.values()))
    for name in batch.recreated:
        connection.execute(delete(tables.schedules).where(tables.schedules.c.name == name))
    tables.upsert(connection, tables.schedules, list(batch.schedules.values()), newer="version")
    for run_id in batch.replanned:
        older = tables.plan_changes.c.run_id == run_id
        connection.execute(delete(tables.plan_changes).where(older))
    tables.upsert(connection, tables.plan_changes, list(batch.plan_changes.values()))
    asks = tables.asks.c
    for run_id, ask_id in batch.gone_asks:
        still_open = (
            asks.run_id == run_id,
            asks.ask_id == ask_id,
            asks.state == AskState.OPEN.value,
        )
        connection.execute(delete(tables.asks).where(*still_open))
    tables.upsert(connection, tables.asks, list(batch.asks.values()), newer="version")
    tables.upsert(connection, tables.signals, list(batch.signals.values()), newer="version")
    tables.insert_missing(connection, tables.history, batch.history)
    tables.insert_missing(connection, tables.dead_letters, list(batch.dead_letters.values()))
    _write_pauses(connection, batch)
    for key, row in batch.agents.items():
        if row is None:
            gone = tables.agents.c.record_key == key
            connection.execute(delete(tables.agents).where(gone))
    here = [row for row in batch.agents.values() if row is not None]
    # In the topic's order, which the positions keep: the clocks of instances need not agree.
    tables.upsert(connection, tables.agents, here)


def _write_pauses(connection: Connection, batch: Batch) -> None:
    pauses = tables.pauses.c
    for (agent, name), row in batch.pauses.items():
        if row is None:
            over = (pauses.agent == agent, pauses.name == name)
            connection.execute(delete(tables.pauses).where(*over))
    tables.upsert(connection, tables.pauses, [row for row in batch.pauses.values() if row])
