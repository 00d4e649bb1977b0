"""The port of the bus: what every adapter must do, and the one primitive everything rests on.

    writer = await bus.open_writer(slot)      # fences every older writer of the slot
    await writer.commit(records, offsets)     # all records and the consumed offsets: all or nothing

Nothing else of transactions leaks out of an adapter. Readers see committed records only. The
contract of each operation is in its docstring and held, for every adapter, by `tests/contract/`.

Uses: nothing but the standard library. Must never: know what an agent, a task or a run is.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
import uuid
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, NoReturn, Protocol, TypeVar

__all__ = [
    "EXIT_RESTART",
    "AssignmentListener",
    "Bus",
    "Cleanup",
    "Environment",
    "Headers",
    "Position",
    "Reader",
    "Received",
    "Record",
    "Slot",
    "Subscription",
    "TopicInfo",
    "TopicPartition",
    "TopicSpec",
    "Writer",
]

T = TypeVar("T")

logger = logging.getLogger(__name__)

EXIT_RESTART = 75
"""Exit code of a process that ended itself so that its supervisor starts it again (EX_TEMPFAIL)."""

Headers = Sequence[tuple[str, bytes]]


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


class Position(NamedTuple):
    """The place of one record."""

    topic: str
    partition: int
    offset: int


class Slot(NamedTuple):
    """One partition number of one consumer group: the unit of ownership, state and commit.

    `group` is the whole name (`<namespace>.<group>`), as the broker sees it.
    """

    group: str
    partition: int


class Record(NamedTuple):
    """A record to be written. A `value` of None is a tombstone; `partition` None: by the key."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None


class Received(NamedTuple):
    """A committed record as it was read. `timestamp_ms` is wall time, from the writer."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int

    @property
    def position(self) -> Position:
        """Where the record stands."""
        return Position(self.topic, self.partition, self.offset)


class Cleanup(Enum):
    """How a topic forgets."""

    CONSUMED = "consumed"
    """Kept until purged, whatever its age."""
    COMPACT = "compact"
    """The newest record of each key is kept; tombstones remove keys."""
    RETAIN = "retain"
    """Kept for `retention_ms` or `retention_bytes`."""


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as it should be."""

    name: str
    partitions: int
    cleanup: Cleanup = Cleanup.CONSUMED
    retention_ms: int = -1
    retention_bytes: int = -1


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic as it is. `max_record_bytes` is the largest record (key, value, headers) it takes."""

    name: str
    partitions: int
    cleanup: Cleanup
    max_record_bytes: int


class Writer(Protocol):
    """The one writer of a slot. Used by one task at a time; dead after any error of `commit`."""

    @property
    def slot(self) -> Slot:
        """Whose writer this is."""
        ...

    def check(self, record: Record) -> None:
        """Raise `Rejected` if the bus would not take `record` (size, topic, partition, types).

        No I/O: topics not known yet pass here and are settled by `prepare`.
        """
        ...

    async def prepare(self, topics: Collection[str]) -> None:
        """Learn about `topics` so that `check` knows them.

        Raises `TopicMissing`, `BusUnavailable`.
        """
        ...

    async def commit(
        self, records: Sequence[Record], offsets: Mapping[TopicPartition, int]
    ) -> None:
        """Write all `records` and the group's consumed `offsets` (next to be read): all or nothing.

        Returns once readers can see all of it. A cancelled call may still commit. At least one
        record must be given: an empty transaction proves nothing.

        Raises:
            Fenced: a newer writer of this slot exists; nothing was written.
            OutcomeUnknown: perhaps committed; the slot's journal, read by a new writer, tells.
            Rejected: certainly nothing was written.
        """
        ...

    async def close(self) -> None:
        """Let go, bounded in time; never raises; without a commit under way."""
        ...


class Reader(Protocol):
    """Follows partitions that were named, outside any group. Used by one task at a time."""

    async def poll(self, timeout_s: float, max_records: int = 500) -> list[Received]:
        """Return committed records, each partition's in order; [] when none came in time.

        Returns as soon as there is at least one. Raises `OffsetOutOfRange` when a position has
        fallen below the start of the log, `BusUnavailable` when the bus stays away.
        """
        ...

    def position(self, partition: TopicPartition) -> int:
        """Return the offset to be read next, past markers and gaps already skipped."""
        ...

    async def close(self) -> None:
        """Let go; never raises."""
        ...


class AssignmentListener(Protocol):
    """Hears what a subscription's member owns. Called on the event loop, synchronously."""

    def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """`partitions` is the whole assignment from now on.

        All of it is paused and without position until the listener seeks and resumes each one:
        no record of any of them is handed out before. What was held and is not in it is lost.
        """
        ...

    def revoked(self) -> None:
        """Everything is under negotiation; what runs goes on, `assigned` will tell.

        Heard before any other member can be given what this one held, unless this one was silent
        for the session time-out.
        """
        ...


class Subscription(Protocol):
    """A member of a consumer group. Topics of one subscription have equal partition counts, and a
    member always gets the same partition number of all of them together."""

    session_timeout_s: float
    """How long a silent member keeps its partitions."""

    @property
    def heartbeat_at(self) -> float:
        """When the last acknowledged heartbeat had been *begun* (`Environment.monotonic`)."""
        ...

    @property
    def failure(self) -> BaseException | None:
        """Why the client behind it can never go on, if so; the watchdog ends the process."""
        ...

    async def poll(self, timeout_s: float, max_records: int = 500) -> list[Received]:
        """Return records of resumed partitions, each partition's in order; [] when none in time.

        Never to be cancelled: bound it by `timeout_s`.
        """
        ...

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Hand out nothing of these until resumed; their positions stay. Unknown ones: ignored."""
        ...

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Hand them out again. Those not assigned are ignored."""
        ...

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Go on at `offset`. Not assigned: ignored. Below the log's start, `poll` raises."""
        ...

    async def close(self) -> None:
        """Leave the group at once (others take over within a heartbeat); never raises."""
        ...


class Bus(Protocol):
    """A connection to a bus. All methods raise `BusUnavailable` when it stays out of reach."""

    @property
    def url(self) -> str:
        """Where it is, without secrets."""
        ...

    async def start(self) -> None:
        """Connect, within the connection's time-out."""
        ...

    async def close(self) -> None:
        """Close what is still open; never raises."""
        ...

    async def open_writer(self, slot: Slot) -> Writer:
        """Become the slot's only writer: when this returns, every older one is fenced, and what an
        older one had begun is either visible or will never be."""
        ...

    async def publish(self, records: Sequence[Record]) -> list[Position]:
        """Write for those who own no slot: idempotent, not atomic, in order per partition.

        Raises `Rejected` before anything is written if a record is too large, `TopicMissing`.
        """
        ...

    async def subscribe(
        self, group: str, topics: Sequence[str], *, member: str, listener: AssignmentListener
    ) -> Subscription:
        """Join `group` under the static name `member`; raises `TopicMissing`, `TopicMismatch`."""
        ...

    async def open_reader(self, starts: Mapping[TopicPartition, int]) -> Reader:
        """Follow partitions from the offsets given, without end."""
        ...

    def read(
        self, topic: str, partition: int, start: int = 0, end: int | None = None
    ) -> AsyncIterator[list[Received]]:
        """Yield batches from `start` (or the log's first offset, if later) to before `end`.

        `end` None: the high watermark at the time of the call. Ends even where compaction, purges
        or markers left no record before `end`; waits for a transaction still open below it.
        """
        ...

    async def create_topics(self, specs: Collection[TopicSpec]) -> None:
        """Create those that are missing; raises `TopicMismatch` where one exists with another
        partition count, before any is created."""
        ...

    async def describe_topics(self, names: Collection[str] | None = None) -> dict[str, TopicInfo]:
        """Return those of `names` that exist, or all."""
        ...

    async def begin_offsets(
        self, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Return the first offset that each log still holds."""
        ...

    async def end_offsets(
        self, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Return the high watermarks (not the last stable offset); raises `TopicMissing`."""
        ...

    async def committed(
        self, group: str, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Return the group's consumed offsets; partitions without one are left out."""
        ...

    async def lag(self, group: str, topics: Collection[str]) -> dict[TopicPartition, int]:
        """Return, per partition, how many offsets lie between the group and the end."""
        ...

    async def purge(self, before: Mapping[TopicPartition, int]) -> None:
        """Forget all records below these offsets."""
        ...


async def _in_thread(call: Callable[[], T]) -> T:
    return await asyncio.to_thread(call)


def _die(reason: str) -> NoReturn:
    logger.critical("%s", reason)
    logging.shutdown()
    os._exit(EXIT_RESTART)


class RunBlocking(Protocol):
    """Runs a blocking call beside the event loop."""

    def __call__(self, call: Callable[[], T], /) -> Awaitable[T]:
        """Return what `call` returns."""
        ...


@dataclass(frozen=True, slots=True)
class Environment:
    """Everything that is not deterministic comes in by here, so that a simulation can replace it.

    Waiting is done by asyncio alone, whose loop brings its own clock (`loop.time`).
    """

    bus: Bus
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    """Wall time."""
    monotonic: Callable[[], float] = time.monotonic
    """Seconds; never jumps; the same clock as the event loop's."""
    random: random.Random = field(default_factory=random.Random)
    new_id: Callable[[], str] = lambda: uuid.uuid4().hex
    run_blocking: RunBlocking = _in_thread
    die: Callable[[str], NoReturn] = _die
    """End this process now, without cleaning up: restart and restore is the one recovery path."""
