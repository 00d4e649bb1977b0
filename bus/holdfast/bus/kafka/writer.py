"""The one writer of a slot: a transactional producer, used for one commit at a time.

A commit in steps, to be checked by eye:

1. begin; the records go out as batches, the consumed offsets beside them;
2. **every** future is awaited: the client would commit although a batch was lost;
3. EndTxn(commit); its answer is the commit's.

A commit whose requests met lost connections may be acknowledged all the same: the client sends
again. But the first copy may still be on its way, and would be taken for a request of the *next*
transaction, which has the same epoch: a late EndTxn ends it in its midst, a late TxnOffsetCommit
puts its offsets back (KAFKA-17754, the torn transaction of Jepsen's report on Bufstream; only
KIP-890's second part, which aiokafka does not speak, has an epoch for each transaction). So the
writer of such a commit is used for no other: the next one's InitProducerId fences the copy.

Whatever goes wrong, at whatever step, the producer is dropped and never used again. It is never
told to abort either: after an abortable error the client's abort reaches no broker, and the next
commit would publish the aborted records. The next writer's InitProducerId aborts what is left.
"""
# ruff: noqa: SLF001 - the insides of aiokafka that are used are held by tests/unit/kafka

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple

from aiokafka.structs import OffsetAndMetadata
from aiokafka.structs import TopicPartition as KafkaPartition

from holdfast.bus.errors import (
    BusError,
    BusUnavailable,
    Fenced,
    OutcomeUnknown,
    Rejected,
    TopicMissing,
)
from holdfast.bus.kafka.batches import Batch, check_record, gather_batches
from holdfast.bus.kafka.clients import (
    describe_error,
    drop,
    started,
    track_topics,
    transactional_producer,
)
from holdfast.bus.kafka.cluster import Cluster
from holdfast.bus.kafka.hanging import end_hanging, last_transaction
from holdfast.bus.kafka.verdict import BatchFailed, EndTap, verdict
from holdfast.bus.port import Record, Slot, TopicPartition
from holdfast.bus.settings import KafkaSettings

__all__ = ["KafkaWriter", "transactional_id"]

CLOSE_TIMEOUT_S = 5.0
MAX_RECORDS = 1_000_000_000
"""After 2^31 records of a partition aiokafka's sequence number wraps wrongly."""


def transactional_id(slot: Slot) -> str:
    """Return the name under which brokers know the writer of a slot."""
    return f"{slot.group}.{slot.partition}"


class _Sent(NamedTuple):
    """What is under way; the records it carries (none: the offsets)."""

    future: asyncio.Future[Any]
    records: Sequence[Record]


class KafkaWriter:
    """See `holdfast.bus.port.Writer`."""

    def __init__(
        self,
        slot: Slot,
        cluster: Cluster,
        settings: KafkaSettings,
        make_producer: Callable[[KafkaSettings, str], Any] = transactional_producer,
    ) -> None:
        self._slot = slot
        self._cluster = cluster
        self._settings = settings
        self._make_producer = make_producer
        self._producer: Any = None
        self._tap = EndTap()
        self._written = 0
        self._stray = False
        self._ended: str | None = None
        self._background: set[asyncio.Task[None]] = set()

    @property
    def slot(self) -> Slot:
        """Whose writer this is."""
        return self._slot

    @property
    def closed(self) -> bool:
        """Whether nothing of it is left."""
        return self._producer is None and not self._background

    async def open(self) -> None:
        """Fence all older writers of the slot; raises `BusUnavailable`.

        InitProducerId is answered only after what an older one had begun is committed or aborted;
        where a broker has lost the markers of that, they are written now (see `hanging`).
        """
        name = transactional_id(self._slot)
        last = await last_transaction(self._cluster, name)

        async def start(producer: Any) -> None:
            self._tap = EndTap()
            self._tap.put_on(producer.client)
            await producer.start()

        self._producer = await started(
            self._settings,
            lambda: self._make_producer(self._settings, name),
            start,
            within_s=self._settings.operation_timeout_s,
        )
        try:
            epoch = self._producer._txn_manager.producer_epoch
            await end_hanging(self._cluster, name, last, epoch)
        except BaseException:
            await self.close()
            raise

    def check(self, record: Record) -> None:
        """Raise `Rejected` if the bus would not take `record`."""
        check_record(record, self._cluster.known.get(record.topic))

    async def prepare(self, topics: Collection[str]) -> None:
        """Learn about `topics`: their limits here, their leaders in the producer."""
        await self._cluster.require(topics)
        if self._producer is None:
            return
        client = self._producer.client
        try:
            async with asyncio.timeout(self._settings.operation_timeout_s):
                for topic in topics:
                    await client._wait_on_metadata(topic)
        except Exception as error:
            raise BusUnavailable(
                f"learning where {sorted(topics)} are: {describe_error(error)}"
            ) from error

    async def commit(
        self, records: Sequence[Record], offsets: Mapping[TopicPartition, int]
    ) -> None:
        """Write all, or nothing. See the port for what it raises."""
        if not records:
            raise ValueError("a commit needs at least one record: an empty one proves nothing")
        if self._ended is not None:
            raise Fenced(f"this writer of {self._slot} is dead ({self._ended}): open a new one")
        # Shielded: a cancelled commit would go on in the client all the same, unseen.
        task = asyncio.ensure_future(self._settle(records, offsets))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            self._die("its commit was cancelled")
            self._keep(self._after(task))
            raise

    async def close(self) -> None:
        """Let go, bounded in time; never raises."""
        self._ended = self._ended or "closed"
        producer, self._producer = self._producer, None
        if producer is not None:
            await _drop(producer)
        if self._background:
            await asyncio.wait(self._background, timeout=CLOSE_TIMEOUT_S)

    # -- a commit --------------------------------------------------------------------------------

    async def _settle(
        self, records: Sequence[Record], offsets: Mapping[TopicPartition, int]
    ) -> None:
        self._tap.reset()
        try:
            if self._written > MAX_RECORDS:
                # A new producer made here could fence the slot's newer owner: whether it may be
                # opened again is for the slot to judge.
                raise OutcomeUnknown(f"the writer of {self._slot} wrote all it may: reopen it")
            if self._stray:
                raise OutcomeUnknown(
                    f"a commit of {self._slot} was not begun: a request of the last one may still "
                    "be on its way and would end up in it: reopen the writer"
                )
            async with asyncio.timeout(self._settings.commit_timeout_s):
                await self._refuse_unfit(records, offsets)
                await self._write(records, offsets)
                await self._end()
        except asyncio.CancelledError:
            self._give_up("it was cancelled")
            raise
        except Exception as error:
            answer = error if isinstance(error, BusError) else verdict(error, self._slot, self._tap)
            if isinstance(answer, OutcomeUnknown):
                self._cluster.doubted.update(record.topic for record in records)
            self._give_up(describe_error(answer))
            if answer is error:
                raise
            raise answer from error
        self._written += len(records)
        self._stray = self._tap.strays > 0

    async def _refuse_unfit(
        self, records: Sequence[Record], offsets: Mapping[TopicPartition, int]
    ) -> None:
        known, doubted = self._cluster.known, self._cluster.doubted
        for record in records:
            if record.topic not in known or (doubted and record.topic in doubted):
                await self._require(record.topic, record)
            check_record(record, known[record.topic])
        for topic, partition in offsets:
            # The client would try for ever to commit offsets of a topic that is not there.
            if topic not in known:
                await self._require(topic, records[0], "consumed offsets beside it: ")
            if not 0 <= partition < known[topic].partitions:
                raise Rejected(
                    records[0],
                    f"consumed offsets beside it: {topic!r} has "
                    f"{known[topic].partitions} partitions, there is no {partition}",
                )

    async def _require(self, topic: str, record: Record, why: str = "") -> None:
        try:
            await self._cluster.require({topic})
        except TopicMissing as error:
            raise Rejected(record, f"{why}{error}") from error
        except BusUnavailable as error:
            # Nothing was written; but a writer has no other word for a bus that is away.
            raise OutcomeUnknown(f"a commit of {self._slot} was not begun: {error}") from error

    async def _write(
        self, records: Sequence[Record], offsets: Mapping[TopicPartition, int]
    ) -> None:
        rounds = gather_batches(
            records,
            self._cluster.known,
            compression=self._settings.compression,
            compress_from_bytes=self._settings.compress_from_bytes,
        )
        track_topics(self._producer.client, {record.topic for record in records})
        await self._producer.begin_transaction()
        sent: list[_Sent] = []
        try:
            # The first round is queued before the offsets: one AddPartitions names all of it.
            await self._send(rounds[0], sent)
            if offsets:
                sent.append(_Sent(asyncio.ensure_future(self._send_offsets(offsets)), ()))
            for round_ in rounds[1:]:
                await self._send(round_, sent)
            await asyncio.wait([s.future for s in sent], return_when=asyncio.FIRST_EXCEPTION)
            for future, batch in sent:
                if future.done():
                    _take(future, batch)
        finally:
            for future, _ in sent:
                if isinstance(future, asyncio.Task):
                    future.cancel()  # the offsets, if they still wait; batches see to themselves
                future.add_done_callback(_consume)

    async def _send(self, batches: Sequence[Batch], sent: list[_Sent]) -> None:
        for batch in batches:
            topic, partition = batch.partition
            try:
                future = await self._producer.send_batch(batch.builder, topic, partition=partition)
            except Exception as error:
                raise BatchFailed(batch.records) from error
            sent.append(_Sent(future, batch.records))

    async def _send_offsets(self, offsets: Mapping[TopicPartition, int]) -> None:
        consumed = {
            KafkaPartition(topic, partition): OffsetAndMetadata(offset, "")
            for (topic, partition), offset in offsets.items()
        }
        await self._producer.send_offsets_to_transaction(consumed, self._slot.group)

    async def _end(self) -> None:
        await self._producer.commit_transaction()

    async def _after(self, task: asyncio.Future[None]) -> None:
        """See a cancelled commit to its end, then drop its producer: its outcome is unknown."""
        await asyncio.wait({task})
        _consume(task)
        producer, self._producer = self._producer, None
        if producer is not None:
            await _drop(producer)

    def _give_up(self, why: str) -> None:
        self._die(why)
        producer, self._producer = self._producer, None
        if producer is not None:
            self._keep(_drop(producer))

    def _die(self, why: str) -> None:
        self._ended = self._ended or why

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _take(future: asyncio.Future[Any], records: Sequence[Record]) -> None:
    try:
        future.result()
    except Exception as error:
        raise BatchFailed(records) from error


def _consume(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()  # seen: else it is logged as never retrieved


async def _drop(producer: Any) -> None:
    """Stop it, and see the errors it left in futures that nobody waits for."""
    await drop(producer)
    left = [producer._txn_manager._transaction_waiter]
    for batches in producer._message_accumulator._batches.values():
        left += [batch._drain_waiter for batch in batches]
    for future in left:
        if future is not None:
            future.add_done_callback(_consume)
