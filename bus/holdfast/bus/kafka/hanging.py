"""Transactions that a broker has ended without saying so where their records stand.

A broker that comes back may find the end of a transaction decided (`PrepareCommit`) and have its
marker to write into partitions that have no leader yet. Kafka 4.0 to 4.3 takes these for deleted,
writes nothing, and calls the transaction complete (KAFKA-20734). Nobody can read past it then, for
ever: readers of committed records stand still, the group's offset stays unstable. The broker that
was the only one for its partitions is killed inside a commit: 1 in some 50 times on a busy machine.

The writer of a slot mends what its forerunner left, when it is opened:

1. Before it fences: ask the coordinator how the last transaction of this id stands. (One that is
   still open is aborted by the fencing: the epochs tell.)
2. Fence (InitProducerId). From here on nothing of an older epoch is at work any more.
3. Ask the leaders which transactions of this producer id are still open in their partitions.
   If 1. said that the last one is complete, these hang; they end as it did: the missing marker is
   written, as the coordinator should have (WriteTxnMarkers; `kafka-transactions.sh abort` does the
   same, but can only abort: that would tear what was committed).

A commit whose answer we had is followed by others under the same epoch; none of them was aborted,
since an abort ends a writer: so all that hangs under a completed epoch ends as its last one.

The answer of 1. is good for one opening: InitProducerId makes the id look as if nothing had been.
Whoever opens again, because the broker went away in between, goes by what it had heard before: the
coordinator says `Empty` then, which nothing but further openings can lead to.

What cannot be told (a process opened and died in between) or may not be done stops the opening, and
is told with the remedy. To go on would decide it by accident: the marker of the next transaction
ends what hangs before it too, and an abort would take away what was committed.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from aiokafka import errors as kafka_errors
from aiokafka.client import CoordinationType

from holdfast.bus import metrics
from holdfast.bus.errors import BusUnavailable
from holdfast.bus.kafka.cluster import Cluster
from holdfast.bus.kafka.hanging_protocol import (
    DescribeProducersRequest,
    DescribeTransactionsRequest,
    Marker,
    WriteTxnMarkers,
)
from holdfast.bus.port import TopicPartition

__all__ = ["Ended", "Hanging", "end_hanging", "last_transaction"]

logger = logging.getLogger(__name__)

OFFSETS_TOPIC = "__consumer_offsets"
DECIDED = {
    "PrepareCommit": True,
    "CompleteCommit": True,
    "PrepareAbort": False,
    "CompleteAbort": False,
}
EMPTY = "Empty"
NO_SUCH_ID = 105
UNSPOKEN = (RuntimeError, kafka_errors.IncompatibleBrokerVersion)
"""What aiokafka raises for a request that a broker has no common version of; the first one is the
nearest base of a class that says "not implemented"."""
FORBIDDEN = (
    kafka_errors.ClusterAuthorizationFailedError.errno,
    kafka_errors.TransactionalIdAuthorizationFailed.errno,
    kafka_errors.UnsupportedVersionError.errno,
)


class Ended(NamedTuple):
    """How the last transaction of an id stood. `committed` None: it was not decided; `empty`:
    there was none since the last opening."""

    producer_id: int
    producer_epoch: int
    committed: bool | None
    empty: bool = False


class Hanging(NamedTuple):
    """A transaction that is open in a partition although it has ended."""

    partition: TopicPartition
    producer_epoch: int
    coordinator_epoch: int
    start_offset: int


async def last_transaction(cluster: Cluster, transactional_id: str) -> Ended | None:
    """Return how the last transaction of an id stands; None: there was none, or nobody may ask.

    Raises `BusUnavailable`.
    """

    async def ask() -> Ended | None:
        node = await cluster.client.coordinator_lookup(
            CoordinationType.TRANSACTION, transactional_id
        )
        try:
            response = await cluster.send(node, DescribeTransactionsRequest(transactional_id))
        except UNSPOKEN:
            return None
        (state,) = response.states
        code, _, name, _, _, producer_id, epoch, *_ = state
        if code == NO_SUCH_ID or code in FORBIDDEN:
            return None
        if code:
            raise kafka_errors.for_code(code)(transactional_id)
        return Ended(producer_id, epoch, DECIDED.get(name), name == EMPTY)

    last = await cluster.call(f"asking how {transactional_id} stands", ask)
    if last is None:
        return None
    heard: Ended | None = cluster.left_by.get(transactional_id)
    if last.empty and heard is not None and heard.producer_id == last.producer_id:
        last = decided(heard, last.producer_epoch)
    if not last.empty:
        cluster.left_by[transactional_id] = last
    return last


def decided(last: Ended, epoch: int) -> Ended:
    """Return how the last transaction stands now that `epoch` was opened.

    One that was open is aborted by the opening, and that takes an epoch of its own: with the next
    one at once, it had been committed just before.
    """
    if last.committed is None and not last.empty:
        return last._replace(committed=epoch == last.producer_epoch + 1)
    return last


async def end_hanging(
    cluster: Cluster, transactional_id: str, last: Ended | None, epoch: int
) -> None:
    """End what hangs of the writers before the one that has opened `epoch`, and forget them.

    `last`: what `last_transaction` said before. Raises `BusUnavailable`, also where something hangs
    that cannot be ended from here; what was heard of it is kept then for the next opening.
    """
    if last is not None:
        last = decided(last, epoch)
        if not last.empty:
            cluster.left_by[transactional_id] = last
        await _end_open(cluster, transactional_id, last)
    cluster.left_by.pop(transactional_id, None)


async def _end_open(cluster: Cluster, transactional_id: str, last: Ended) -> None:
    what = f"looking for what {transactional_id} left open"
    found = await cluster.call(what, lambda: _open_of(cluster, last.producer_id))
    for hanging in found:
        if hanging.producer_epoch > last.producer_epoch:
            continue  # somebody has fenced this writer already, and is at work
        committed = _outcome(hanging, last)
        if committed is None:
            raise _stuck(transactional_id, hanging, "its outcome is not known any more")
        epochs = hanging.producer_epoch, max(0, hanging.coordinator_epoch)
        marker = Marker(last.producer_id, *epochs, committed)
        problem = await cluster.call(what, lambda m=marker, h=hanging: _write(cluster, m, h))  # type: ignore[misc]
        if problem is not None:
            raise _stuck(transactional_id, hanging, problem)
        metrics.MARKERS_WRITTEN.inc()
        logger.warning(
            "%s: a broker lost the end of a transaction in %s-%d (from offset %d): it was %s, and "
            "is so there too now",
            transactional_id,
            *hanging.partition,
            hanging.start_offset,
            "committed" if committed else "aborted",
        )


def _outcome(hanging: Hanging, last: Ended) -> bool | None:
    """Return whether it was committed; None where that cannot be told."""
    if hanging.producer_epoch == last.producer_epoch:
        return last.committed
    # A coordinator that aborts by itself, after the time-out, raises the epoch with it.
    if hanging.producer_epoch == last.producer_epoch - 1 and last.committed is False:
        return False
    return None


def _stuck(transactional_id: str, hanging: Hanging, problem: str) -> BusUnavailable:
    topic, partition = hanging.partition
    return BusUnavailable(
        f"{transactional_id}: a transaction of an older writer hangs in {topic}-{partition} (from "
        f"offset {hanging.start_offset}), nobody reads past it, and it cannot be ended from here: "
        f"{problem}. See docs/howto/recover.md on hanging transactions"
    )


async def _open_of(cluster: Cluster, producer_id: int) -> list[Hanging]:
    found: list[Hanging] = []
    for node, topics in (await _partitions(cluster)).items():
        try:
            response = await cluster.send(node, DescribeProducersRequest(topics))
        except UNSPOKEN:
            return []
        found += _open_in(response, producer_id)
    return found


def _open_in(response: Any, producer_id: int) -> Iterator[Hanging]:
    for topic, partitions, _ in response.topics:
        for partition, code, _, producers, _ in partitions:
            if code in (kafka_errors.TopicAuthorizationFailedError.errno, 3):
                continue
            if code:
                raise kafka_errors.for_code(code)(f"{topic}-{partition}")
            for producer, epoch, _, _, coordinator_epoch, start, _ in producers:
                if producer == producer_id and start >= 0:
                    where = TopicPartition(topic, partition)
                    yield Hanging(where, epoch, coordinator_epoch, start)


async def _partitions(cluster: Cluster) -> dict[int, dict[str, list[int]]]:
    """Return all partitions by leader; the topic of the groups' offsets is one that counts."""
    topics = await cluster.all_leaders(also=(OFFSETS_TOPIC,))
    nodes: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for topic, leaders in topics.items():
        for partition, leader in leaders.items():
            if leader >= 0:
                nodes[leader][topic].append(partition)
    return nodes


async def _write(cluster: Cluster, marker: Marker, hanging: Hanging) -> str | None:
    """Write a marker; return why it may not be written."""
    topic, partition = hanging.partition
    leader = (await cluster.all_leaders(also=(OFFSETS_TOPIC,)))[topic].get(partition, -1)
    if leader < 0:
        raise kafka_errors.LeaderNotAvailableError(f"{topic}-{partition}")
    try:
        response = await cluster.send(leader, WriteTxnMarkers(marker, topic, partition))
    except UNSPOKEN as error:
        return str(error)
    for _, topics, _ in response.markers:
        for _, partitions, _ in topics:
            for _, code, _ in partitions:
                if code in FORBIDDEN:
                    name = kafka_errors.for_code(code).__name__
                    return f"{name}: it takes the right to act for the cluster"
                if code:
                    raise kafka_errors.for_code(code)(f"{topic}-{partition}")
    return None
