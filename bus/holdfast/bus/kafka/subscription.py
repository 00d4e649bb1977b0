"""A member of a consumer group, on aiokafka's consumer.

The rules it keeps, each met as a trap: one assignor; paused in the first statement of an
assignment, synchronously; positions only by seek; `getmany` with a time-out and never cancelled;
heartbeats observed; a static member leaves the group when it is closed.
"""
# ruff: noqa: SLF001 - the insides of aiokafka that are used are held by tests/unit/kafka

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import aiokafka
from aiokafka import errors as kafka_errors
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.protocol.group import HeartbeatRequest, SyncGroupRequest
from aiokafka.structs import TopicPartition as KafkaPartition

from holdfast.bus.errors import BusUnavailable
from holdfast.bus.kafka.clients import (
    client_options,
    describe_error,
    drop,
    keep_asking,
    started,
)
from holdfast.bus.kafka.records import kafka_partitions, out_of_range, received
from holdfast.bus.port import AssignmentListener, Received, TopicPartition
from holdfast.bus.settings import KafkaSettings

__all__ = ["KafkaSubscription", "group_consumer"]

logger = logging.getLogger(__name__)

NOWHERE = 0
"""The position of a partition that was just assigned. It is paused: nothing is read from there; but
without any the client would look for committed offsets, and hold up all other partitions."""
TELL_EVERY_S = 10.0
"""How often an error that passes by itself is logged, if it does not."""
ERROR_PAUSE_S = 0.05
"""After an error of the client that passes by itself, so that a poll loop does not spin."""


def group_consumer(settings: KafkaSettings, group: str, member: str) -> Any:
    """Return the consumer (not started, not subscribed) of one member."""
    consumer = aiokafka.AIOKafkaConsumer(
        **client_options(settings),
        group_id=group,
        group_instance_id=member,
        isolation_level="read_committed",
        auto_offset_reset="none",
        enable_auto_commit=False,
        # Exactly this one: it keeps equal partition numbers together, and the sticky one is broken.
        partition_assignment_strategy=(RangePartitionAssignor,),
        session_timeout_ms=int(settings.session_timeout_s * 1000),
        heartbeat_interval_ms=int(settings.heartbeat_s * 1000),
        rebalance_timeout_ms=int(settings.rebalance_timeout_s * 1000),
        max_poll_interval_ms=int(settings.max_poll_interval_s * 1000),
        fetch_max_wait_ms=int(settings.fetch_max_wait_s * 1000),
        fetch_max_bytes=settings.fetch_max_bytes,
        max_partition_fetch_bytes=settings.fetch_partition_bytes,
        client_rack=settings.client_rack,
    )
    return keep_asking(consumer)


class _Fetched(NamedTuple):
    """Records, and how many changes of position or flow had been made when the client gave them."""

    records: list[Received]
    changes: int


_NOTHING = _Fetched([], 0)


class KafkaSubscription(ConsumerRebalanceListener):  # type: ignore[misc]
    """See `holdfast.bus.port.Subscription`. `heartbeat_at` is 0 until the group was joined."""

    def __init__(
        self,
        settings: KafkaSettings,
        listener: AssignmentListener,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.session_timeout_s = settings.session_timeout_s
        self._settings = settings
        self._listener = listener
        self._clock = clock
        self._consumer: Any = None
        self._heartbeat_at = 0.0
        self._owned: frozenset[TopicPartition] = frozenset()
        self._placed: set[TopicPartition] = set()
        self._getting: asyncio.Task[_Fetched] | None = None
        # Records come out of the client at one moment and out of `poll` at a later one. What was
        # assigned, sought or paused in between must hold for them too: see `_admit`. Else records
        # from before a seek would be handed out behind it, and leave a gap.
        self._flowing: set[TopicPartition] = set()
        self._changes = 0
        self._moved: dict[TopicPartition, int] = {}
        self._parked: dict[TopicPartition, list[Received]] = {}
        self._broken: BaseException | None = None
        self._told_at = float("-inf")
        self._closed = False

    async def join(
        self,
        group: str,
        topics: Sequence[str],
        member: str,
        make: Callable[..., Any] = group_consumer,
    ) -> None:
        """Join the group; the listener hears the assignment later. Raises `BusUnavailable`."""
        self._consumer = await started(
            self._settings,
            lambda: make(self._settings, group, member),
            lambda consumer: consumer.start(),
            within_s=self._settings.operation_timeout_s,
        )
        # Before the topics are named, so that no heartbeat is missed.
        self._observe(self._consumer._coordinator)
        self._consumer.subscribe(list(topics), listener=self)

    def _observe(self, coordinator: Any) -> None:
        """Note when each heartbeat, or join, that the group acknowledges was begun.

        Of a join its last request counts, the SyncGroup: the one before it waits until all members
        have come back. A heartbeat that asks for a rejoin acknowledges nothing: the client calls it
        a success, but from then on the group does without whoever does not come.
        """
        asked_at = 0.0
        ask = coordinator._send_req

        async def asking(request: Any) -> Any:
            nonlocal asked_at
            if isinstance(request, (HeartbeatRequest, SyncGroupRequest)):
                asked_at = self._clock()
            return await ask(request)

        def noting(call: Callable[..., Any]) -> Callable[..., Any]:
            async def observed(*arguments: Any) -> Any:
                acknowledged = await call(*arguments)
                if acknowledged and not coordinator._rejoin_needed_fut.done():
                    self._heartbeat_at = max(self._heartbeat_at, asked_at)
                return acknowledged

            return observed

        coordinator._send_req = asking
        for name in ("_do_heartbeat", "_do_rejoin_group"):
            setattr(coordinator, name, noting(getattr(coordinator, name)))

    # -- what aiokafka calls ---------------------------------------------------------------------

    def on_partitions_assigned(self, assigned: Iterable[KafkaPartition]) -> None:
        """Pause all of it, at once and first: its records would leak out before it is restored."""
        self._consumer.pause(*assigned)
        for partition in assigned:
            self._consumer.seek(partition, NOWHERE)
        self._owned = frozenset(TopicPartition(tp.topic, tp.partition) for tp in assigned)
        self._placed.clear()
        self._flowing.clear()
        self._parked.clear()
        self._changes += 1
        self._moved = dict.fromkeys(self._owned, self._changes)
        try:
            self._listener.assigned(self._owned)
        except BaseException as error:
            # The client would log it and go on, with partitions that nobody works on.
            self._broken = error
            raise

    def on_partitions_revoked(self, revoked: Iterable[KafkaPartition]) -> None:  # noqa: ARG002
        """Everything is under negotiation."""
        self._listener.revoked()

    # -- the port --------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether nothing of it is left."""
        return self._closed

    @property
    def heartbeat_at(self) -> float:
        """When the last acknowledged heartbeat was begun."""
        return self._heartbeat_at

    @property
    def failure(self) -> BaseException | None:
        """Why it can never go on: a task of the client has ended, or the listener failed."""
        if self._closed or self._consumer is None:
            return None
        if self._broken is not None:
            return self._broken
        consumer = self._consumer
        tasks = {
            "group coordination": consumer._coordinator._coordination_task,
            "fetching": consumer._fetcher.error_future,
            "metadata": consumer._client._sync_task,
        }
        for name, task in tasks.items():
            if task is not None and task.done():
                error = None if task.cancelled() else task.exception()
                return BusUnavailable(
                    f"the Kafka client's task for {name} has ended "
                    f"({describe_error(error) if error else 'without an error'})"
                )
        return None

    async def poll(self, timeout_s: float, max_records: int = 500) -> list[Received]:
        """Return records of resumed partitions; raises `OffsetOutOfRange`, and once closed
        `BusUnavailable`."""
        if self._closed:
            raise BusUnavailable("this subscription was closed")
        if unparked := self._unpark():
            return unparked
        if self._getting is None:
            # A task of its own: during a rebalance `getmany` outlasts its time-out, and one that is
            # cancelled disables `max_poll_interval` for good.
            self._getting = asyncio.ensure_future(self._get(timeout_s, max_records))
        done, _ = await asyncio.wait({self._getting}, timeout=timeout_s)
        if not done:
            return []
        task, self._getting = self._getting, None
        return self._admit(task.result())

    def _admit(self, fetched: _Fetched) -> list[Received]:
        """Return the records that may still be handed out; keep those that were paused since."""
        if fetched.changes == self._changes:
            return fetched.records
        admitted = []
        for record in fetched.records:
            tp = TopicPartition(record.topic, record.partition)
            if self._moved.get(tp, self._changes) > fetched.changes:
                continue  # sought or assigned anew since: its position is another one
            if tp in self._flowing:
                admitted.append(record)
            else:
                self._parked.setdefault(tp, []).append(record)
        return admitted

    def _unpark(self) -> list[Received]:
        ready = [tp for tp in self._parked if tp in self._flowing]
        return [record for tp in ready for record in self._parked.pop(tp)]

    async def _get(self, timeout_s: float, max_records: int) -> _Fetched:
        consumer = self._consumer
        try:
            batches = await consumer.getmany(
                timeout_ms=max(0, int(timeout_s * 1000)), max_records=max_records
            )
            return _Fetched(received(batches), self._changes)
        except kafka_errors.ConsumerStoppedError:
            if self._closed:
                return _NOTHING
            raise BusUnavailable("the Kafka consumer was stopped") from None
        except kafka_errors.OffsetOutOfRangeError as error:
            raise out_of_range(error) from error
        except kafka_errors.NoOffsetForPartitionError:
            # Of a paused partition that is not restored yet: its slot will seek.
            return _NOTHING
        except kafka_errors.KafkaError as error:
            # The client goes on by itself; if a task of it has ended, `failure` says so. But a
            # partition that it cannot read (damaged, or forbidden) holds up all others: say it.
            self._tell(error)
            await asyncio.sleep(ERROR_PAUSE_S)
            return _NOTHING
        finally:
            # An error inside `getmany` leaves its count of callers raised, which, like a
            # cancellation, would disable `max_poll_interval`. We are the only caller.
            consumer._subscription._fetch_count = 0
            consumer._subscription._last_fetch_ended = time.monotonic()

    def _tell(self, error: BaseException) -> None:
        now = self._clock()
        if now - self._told_at >= TELL_EVERY_S:
            self._told_at = now
            logger.warning("reading for the group, trying again: %s", describe_error(error))

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Hand out nothing of these until resumed."""
        held = self._assigned(partitions)
        self._consumer.pause(*kafka_partitions(held))
        self._flowing.difference_update(held)
        self._changes += 1

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Hand them out again; those without a seek since their assignment stay paused."""
        ready = [tp for tp in self._assigned(partitions) if tp in self._placed]
        self._consumer.resume(*kafka_partitions(ready))
        self._flowing.update(ready)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Go on at `offset`."""
        for tp in self._assigned([partition]):
            self._consumer.seek(KafkaPartition(*tp), offset)
            self._placed.add(tp)
            self._parked.pop(tp, None)
            self._changes += 1
            self._moved[tp] = self._changes

    def _assigned(self, partitions: Iterable[TopicPartition]) -> list[TopicPartition]:
        """Those the *client* holds now: while a rebalance is under way it holds none."""
        held = self._consumer._subscription
        return [
            tp for tp in partitions if tp in self._owned and held.is_assigned(KafkaPartition(*tp))
        ]

    async def close(self) -> None:
        """Leave the group at once; never raises."""
        if self._closed:
            return
        self._closed = True
        if self._consumer is None:
            return
        # The client lets a static member stay in the group until its session ends; without the
        # name it says good-bye, and others take over within a heartbeat.
        coordinator = self._consumer._coordinator
        coordinator._group_instance_id = None
        await drop(self._consumer)
        if self._getting is not None:
            self._getting.cancel()  # the consumer is gone: nothing is left to disable
            with contextlib.suppress(BaseException):
                await self._getting
