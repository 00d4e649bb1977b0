"""The broker of the simulated bus: logs, writers' epochs, transactions, groups.

It has the semantics of Kafka's exactly-once protocol (KIP-98, KIP-447, KIP-360) where our port can
see them: opening a writer fences and aborts what the older one had open; a transaction left open is
aborted after its time-out and its writer is dead from then on; consumed offsets move with it or not
at all. Everything it does happens at one moment; that requests and answers take time, and get lost,
is the network's part.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from holdfast.bus.errors import Fenced, Rejected, TopicMismatch, TopicMissing
from holdfast.bus.partition import partition_for
from holdfast.bus.port import (
    Cleanup,
    Position,
    Received,
    Record,
    Slot,
    TopicInfo,
    TopicPartition,
    TopicSpec,
)
from holdfast.testing.sim.group import Group
from holdfast.testing.sim.log import Log, Transaction, TransactionState
from holdfast.testing.sim.network import Network, Scheduler

__all__ = ["RECORD_BYTES_MAX", "SimBroker", "SimTiming"]

RECORD_BYTES_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class SimTiming:
    """How the simulated bus behaves in time; seconds. `delay_s`: the longest one way takes;
    `rebalance_s`: the longest until a member hears of a step of a rebalance."""

    delay_s: float = 0.004
    late_s: float = 8.0
    operation_timeout_s: float = 20.0
    connect_timeout_s: float = 15.0
    transaction_timeout_s: float = 5.0
    session_s: float = 6.0
    heartbeat_s: float = 0.5
    rebalance_s: float = 0.3
    compact_every_s: float = 5.0


@dataclass(eq=False)
class _Writer:
    epoch: int = 0
    open: Transaction | None = None


@dataclass(eq=False)
class SimBroker:
    """What all clients share. `scheduler`: the network's own time; `now`: in seconds; `now_ms`:
    the broker's wall clock."""

    scheduler: Callable[[], Scheduler]
    now: Callable[[], float]
    now_ms: Callable[[], int]
    random: random.Random = field(default_factory=random.Random)
    timing: SimTiming = field(default_factory=SimTiming)

    def __post_init__(self) -> None:
        self.topics: dict[str, TopicSpec] = {}
        self.logs: dict[TopicPartition, Log] = {}
        self.groups: dict[str, Group] = {}
        self.blobs: dict[str, tuple[bytes, int]] = {}
        self.commits: list[Transaction] = []
        """All that were committed, in that order."""
        self.refuse_topics: set[str] = set()
        """Topics that refuse every record, though they are described as taking it."""
        self.stale_offsets: Callable[[], bool] = lambda: False
        """Whether a group's offsets are answered as they were before its newest commit."""
        self.network = Network(self.scheduler, self._delay_s, self.timing.late_s)
        self._writers: dict[Slot, _Writer] = {}
        self._previous_offsets: dict[str, dict[TopicPartition, int]] = {}
        self._news: dict[Callable[[], None], frozenset[TopicPartition]] = {}
        self._expiring = False

    # --- topics --------------------------------------------------------------------------------

    def create_topics(self, specs: Collection[TopicSpec]) -> None:
        """See `Bus.create_topics`."""
        for spec in specs:
            known = self.topics.get(spec.name)
            if known is not None and known.partitions != spec.partitions:
                raise TopicMismatch(
                    f"topic {spec.name} has {known.partitions} partitions, not {spec.partitions}"
                )
        for spec in specs:
            if spec.name not in self.topics:
                self.topics[spec.name] = spec
                for number in range(spec.partitions):
                    self.logs[TopicPartition(spec.name, number)] = Log(spec.name, number)

    def describe_topics(self, names: Collection[str] | None) -> dict[str, TopicInfo]:
        """See `Bus.describe_topics`."""
        return {
            name: TopicInfo(name, spec.partitions, spec.cleanup, RECORD_BYTES_MAX)
            for name, spec in self.topics.items()
            if names is None or name in names
        }

    def log(self, partition: TopicPartition) -> Log:
        """Return the log; raises `TopicMissing`."""
        log = self.logs.get(partition)
        if log is None:
            raise TopicMissing(
                f"topic {partition.topic!r} has no partition {partition.partition}: create it with "
                "`holdfast topics create`"
            )
        return log

    def place(self, record: Record) -> TopicPartition:
        """Return where a record goes; raises `TopicMissing`, `Rejected`."""
        spec = self.topics.get(record.topic)
        if spec is None:
            raise TopicMissing(f"topic {record.topic!r} does not exist: create it first")
        if record.partition is not None:
            return TopicPartition(record.topic, record.partition)
        assert record.key is not None
        return TopicPartition(record.topic, partition_for(record.key, spec.partitions))

    # --- writing -------------------------------------------------------------------------------

    def open_writer(self, slot: Slot) -> int:
        """Fence every older writer of `slot`; return the new epoch."""
        writer = self._writers.setdefault(slot, _Writer())
        writer.epoch += 1
        self._end(writer, TransactionState.ABORTED)
        return writer.epoch

    def produce(
        self,
        slot: Slot,
        epoch: int,
        records: Sequence[tuple[Record, int]],
        offsets: Mapping[TopicPartition, int],
    ) -> Transaction:
        """Begin a transaction and write its records (each with its time); decided by `commit`."""
        writer = self._require(slot, epoch)
        for record, _ in records:
            if record.topic not in self.topics or record.topic in self.refuse_topics:
                raise Rejected(record, f"topic {record.topic!r} does not exist")
        transaction = writer.open = Transaction(slot, epoch, dict(offsets))
        for record, at_ms in records:
            where = self.place(record)
            transaction.partitions.add(where)
            offset = self.logs[where].append(_received(record, where, at_ms), transaction)
            transaction.written.append(Position(where.topic, where.partition, offset))
        self.scheduler().call_later(
            self.timing.transaction_timeout_s, self._time_out, writer, transaction
        )
        return transaction

    def commit(self, slot: Slot, epoch: int, transaction: Transaction) -> None:
        """Make all of it visible, and move the group's offsets, at once."""
        writer = self._require(slot, epoch)
        if writer.open is not transaction:
            raise Fenced(f"slot {slot.group}/{slot.partition}: the transaction was aborted")
        group = self.group(slot.group)
        self._previous_offsets[slot.group] = dict(group.offsets)
        group.offsets.update(transaction.offsets)
        self._end(writer, TransactionState.COMMITTED)
        self.commits.append(transaction)

    def publish(self, records: Sequence[tuple[Record, int]]) -> list[Position]:
        """Write records that belong to no transaction."""
        places = [(record, at_ms, self.place(record)) for record, at_ms in records]
        positions = []
        for record, at_ms, where in places:
            offset = self.logs[where].append(_received(record, where, at_ms), None)
            positions.append(Position(where.topic, where.partition, offset))
        self.tell_news({where for _, _, where in places})
        return positions

    def epoch(self, slot: Slot) -> int:
        """Return the epoch of the slot's newest writer; 0 where there never was one."""
        return self._writers[slot].epoch if slot in self._writers else 0

    def _require(self, slot: Slot, epoch: int) -> _Writer:
        writer = self._writers.setdefault(slot, _Writer())
        if writer.epoch != epoch:
            raise Fenced(f"slot {slot.group}/{slot.partition} has a newer writer")
        return writer

    def _time_out(self, writer: _Writer, transaction: Transaction) -> None:
        if writer.open is transaction:
            # As the transaction coordinator does: abort, and bump, so that its producer is dead.
            writer.epoch += 1
            self._end(writer, TransactionState.ABORTED)

    def _end(self, writer: _Writer, state: TransactionState) -> None:
        transaction, writer.open = writer.open, None
        if transaction is not None:
            transaction.state = state
            for where in sorted(transaction.partitions):
                self.logs[where].decided(transaction)
            self.tell_news(transaction.partitions)

    # --- reading -------------------------------------------------------------------------------

    def on_news(self, wanted: Collection[TopicPartition], wake: Callable[[], None]) -> None:
        """Call `wake` once, at the next record or marker of a wanted partition."""
        self._news[wake] = frozenset(wanted)

    def forget_news(self, wake: Callable[[], None]) -> None:
        """Do not call it any more."""
        self._news.pop(wake, None)

    def tell_news(self, partitions: Collection[TopicPartition]) -> None:
        """Wake everyone who waits for records of these."""
        told = [wake for wake, wanted in self._news.items() if not wanted.isdisjoint(partitions)]
        for wake in told:
            del self._news[wake]
            wake()

    def committed(
        self, group: str, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """See `Bus.committed`; may be stale for a moment after a takeover (see `bus-kafka`)."""
        offsets = self.group(group).offsets
        if self.stale_offsets():
            offsets = self._previous_offsets.get(group, {})
        return {p: offsets[p] for p in partitions if p in offsets}

    def lag(self, group: str, topics: Collection[str]) -> dict[TopicPartition, int]:
        """See `Bus.lag`."""
        offsets = self.group(group).offsets
        return {
            p: max(0, log.end - max(offsets.get(p, 0), log.begin))
            for p, log in self.logs.items()
            if p.topic in topics
        }

    def compact(self) -> None:
        """Compact every compacted topic, each up to a place drawn at random."""
        now_ms = self.now_ms()
        for log in self.logs.values():
            if self.topics[log.where.topic].cleanup is Cleanup.COMPACT:
                log.compact(self.random.randint(log.begin, log.end), now_ms)

    def history(self) -> dict[TopicPartition, list[Received]]:
        """Every record ever committed, per partition in offset order."""
        return {where: list(log.history()) for where, log in self.logs.items()}

    def open_transactions(self) -> list[Slot]:
        """Return whose transactions are not decided."""
        return [slot for slot, writer in self._writers.items() if writer.open is not None]

    # --- groups --------------------------------------------------------------------------------

    def group(self, name: str) -> Group:
        """Return the group, made when it is first named."""
        group = self.groups.get(name)
        if group is None:
            group = self.groups[name] = Group(
                name,
                lambda topic: self.topics[topic].partitions,
                lambda delay_s, action: self.scheduler().call_later(delay_s, action),
                # Most hear of it soon, and some when others have long gone on.
                lambda: self.random.random() ** 4 * self.timing.rebalance_s,
            )
        return group

    def watch_sessions(self) -> None:
        """Begin to take silent members out; called by the first who joins."""
        if not self._expiring:
            self._expiring = True
            self._expire()

    def away(self) -> None:
        """Answer nobody until `comes_back`."""
        self.network.away = True

    def comes_back(self) -> None:
        """Serve again. Sessions begin anew, as after a broker's restart."""
        for group in self.groups.values():
            for member in group.members.values():
                member.seen_at = self.now()
        self.network.comes_back()

    def _expire(self) -> None:
        for group in self.groups.values():
            if not self.network.away:
                group.expire(self.now())
        if any(group.members for group in self.groups.values()):
            self.scheduler().call_later(self.timing.heartbeat_s, self._expire)
        else:
            self._expiring = False

    def _delay_s(self) -> float:
        return self.random.random() * self.timing.delay_s


def _received(record: Record, where: TopicPartition, at_ms: int) -> Received:
    return Received(
        where.topic, where.partition, 0, record.key, record.value, tuple(record.headers), at_ms
    )
