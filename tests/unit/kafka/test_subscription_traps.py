"""The traps of aiokafka's consumer and group coordinator, on a consumer that is a stand-in."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import errors as kafka_errors
from aiokafka.consumer.group_coordinator import CoordinatorGroupRebalance, GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest, SyncGroupRequest
from aiokafka.structs import TopicPartition as KafkaPartition

from holdfast.bus.errors import BusUnavailable, OffsetOutOfRange
from holdfast.bus.kafka import subscription
from holdfast.bus.kafka.reader import plain_consumer
from holdfast.bus.kafka.subscription import KafkaSubscription, group_consumer
from holdfast.bus.port import AssignmentListener, TopicPartition
from holdfast.bus.settings import KafkaSettings
from tests.waiting import until

SETTINGS = KafkaSettings(("nowhere:1",))
TOPIC = "tasks"


def partitions(*numbers: int) -> list[KafkaPartition]:
    return [KafkaPartition(TOPIC, number) for number in numbers]


def ours(*numbers: int) -> list[TopicPartition]:
    return [TopicPartition(TOPIC, number) for number in numbers]


def fetched(number: int, *offsets: int) -> dict[KafkaPartition, list[Any]]:
    records = [
        SimpleNamespace(
            topic=TOPIC, partition=number, offset=at, key=b"k", value=b"v", headers=(), timestamp=9
        )
        for at in offsets
    ]
    return {KafkaPartition(TOPIC, number): records}


class Consumer:
    """What the subscription uses of aiokafka's consumer; its state is aiokafka's own."""

    def __init__(self, calls: list[Any]) -> None:
        self.calls = calls
        self._subscription = SubscriptionState()
        self._coordinator: Any = SimpleNamespace(
            _do_heartbeat=self._beat,
            _do_rejoin_group=self._rejoin,
            _send_req=self._ask,
            _rejoin_needed_fut=asyncio.get_running_loop().create_future(),
            _coordination_task=None,
            _group_instance_id="m",
        )
        self._fetcher = SimpleNamespace(error_future=None)
        self._client = SimpleNamespace(_sync_task=None)
        self.answers: list[Any] = []
        self.beats: list[Any] = []
        self.cancelled = False

    async def start(self) -> None:
        self.calls.append("start")

    async def stop(self) -> None:
        self.calls.append(("stop", self._coordinator._group_instance_id))

    async def _beat(self) -> Any:
        return await self._coordinator._send_req(HeartbeatRequest("g", 1, "m"))

    async def _rejoin(self, subscription: Any) -> Any:
        await self._coordinator._send_req(
            JoinGroupRequest("g", 6000, 6000, "m", "m", "consumer", [])
        )
        return await self._coordinator._send_req(SyncGroupRequest("g", 1, "m", "m", []))

    async def _ask(self, request: Any) -> Any:
        answer = self.beats.pop(0)
        return await answer if inspect.isawaitable(answer) else answer

    def subscribe(self, topics: Iterable[str], listener: Any) -> None:
        self._subscription.subscribe(set(topics), listener)

    def assign(self, *numbers: int) -> None:
        """Do what the coordinator does when a join is complete."""
        self._subscription.assign_from_subscribed(set(partitions(*numbers)))
        listener = self._subscription.listener
        assert listener.on_partitions_assigned(set(partitions(*numbers))) is None

    def pause(self, *tps: KafkaPartition) -> None:
        self.calls.append(("pause", sorted(tp.partition for tp in tps)))
        for tp in tps:
            self._subscription.pause(tp)

    def resume(self, *tps: KafkaPartition) -> None:
        for tp in tps:
            self._subscription.resume(tp)

    def seek(self, tp: KafkaPartition, offset: int) -> None:
        self._subscription.seek(tp, offset)

    def paused(self) -> set[int]:
        return {tp.partition for tp in self._subscription.paused_partitions()}

    def position(self, number: int) -> int:
        state = self._subscription._assigned_state(KafkaPartition(TOPIC, number))
        assert state.has_valid_position
        position: int = state.position
        return position

    async def getmany(self, *, timeout_ms: int, max_records: int) -> Any:
        try:
            with self._subscription.fetch_context():
                answer = self.answers.pop(0) if self.answers else {}
                if isinstance(answer, BaseException):
                    raise answer
                if isinstance(answer, asyncio.Event):
                    await answer.wait()
                    return self.answers.pop(0) if self.answers else {}
                return answer
        except asyncio.CancelledError:
            self.cancelled = True
            raise


class Listener(AssignmentListener):
    def __init__(self, calls: list[Any]) -> None:
        self._calls = calls

    def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        self._calls.append(("assigned", sorted(tp.partition for tp in partitions)))

    def revoked(self) -> None:
        self._calls.append("revoked")


@pytest.fixture
def calls() -> list[Any]:
    return []


@pytest.fixture
async def consumer(calls: list[Any]) -> Consumer:
    return Consumer(calls)


@pytest.fixture
async def member(consumer: Consumer, calls: list[Any]) -> KafkaSubscription:
    made = KafkaSubscription(SETTINGS, Listener(calls))
    await made.join("ns.group", [TOPIC], "m", make=lambda *_: consumer)
    return made


async def test_trap_4_an_assignment_is_paused_first_and_synchronously(
    consumer: Consumer, member: KafkaSubscription, calls: list[Any]
) -> None:
    consumer.assign(0, 1)
    assert calls == ["start", ("pause", [0, 1]), ("assigned", [0, 1])]
    assert not inspect.iscoroutinefunction(KafkaSubscription.on_partitions_assigned)
    first = inspect.getsource(KafkaSubscription.on_partitions_assigned).split('"""')[2].strip()
    assert first.startswith("self._consumer.pause(*assigned)")


async def test_nothing_is_handed_out_before_it_was_sought_and_resumed(
    consumer: Consumer, member: KafkaSubscription
) -> None:
    consumer.assign(0, 1)
    member.resume(ours(0, 1))
    assert consumer.paused() == {0, 1}
    member.seek(ours(0)[0], 42)
    member.resume(ours(0, 1))
    assert consumer.paused() == {1}
    assert consumer.position(0) == 42


async def test_each_assignment_begins_anew(consumer: Consumer, member: KafkaSubscription) -> None:
    consumer.assign(0)
    member.seek(ours(0)[0], 42)
    member.resume(ours(0))
    consumer.assign(0)
    member.resume(ours(0))  # late, of a slot that has not heard of the new one yet
    assert consumer.paused() == {0}


async def test_trap_18_a_partition_without_position_never_looks_for_committed_offsets(
    consumer: Consumer, member: KafkaSubscription
) -> None:
    consumer.assign(0, 1)
    assert consumer.position(0) == consumer.position(1) == subscription.NOWHERE


async def test_what_is_not_assigned_is_ignored(
    consumer: Consumer, member: KafkaSubscription
) -> None:
    consumer.assign(0)
    member.seek(ours(7)[0], 1)
    member.pause(ours(7))
    member.resume(ours(7))
    consumer._subscription.begin_reassignment()
    member.pause(ours(0))  # under negotiation


async def test_trap_5_a_poll_that_times_out_leaves_getmany_alone(
    consumer: Consumer, member: KafkaSubscription
) -> None:
    going_on = asyncio.Event()
    consumer.answers = [going_on]
    assert await member.poll(0.01) == []
    assert await member.poll(0.01) == []
    assert not consumer.cancelled
    going_on.set()
    assert await member.poll(0.1) == []  # the end of the first one
    consumer.answers = [fetched(0, 5)]
    assert [r.offset for r in await member.poll(0.1)] == [5]


async def late(consumer: Consumer, member: KafkaSubscription, *offsets: int) -> None:
    """Let the client give records of partition 0 after the poll that asked has ended."""
    consumer.assign(0)
    member.seek(ours(0)[0], offsets[0])
    member.resume(ours(0))
    gate = asyncio.Event()
    consumer.answers = [gate, fetched(0, *offsets)]
    assert await member.poll(0.0) == []
    gate.set()
    assert member._getting is not None
    await asyncio.wait({member._getting})


async def test_records_that_came_late_are_handed_out(
    consumer: Consumer, member: KafkaSubscription
) -> None:
    await late(consumer, member, 5, 6)
    assert [record.offset for record in await member.poll(0.0)] == [5, 6]


async def test_but_not_after_a_new_assignment(
    consumer: Consumer, member: KafkaSubscription
) -> None:
    await late(consumer, member, 5, 6)
    consumer.assign(0)
    assert await member.poll(0.0) == []
    assert member._parked == {}
    member.seek(ours(0)[0], 5)
    member.resume(ours(0))
    assert await member.poll(0.0) == []


async def test_nor_after_a_seek(consumer: Consumer, member: KafkaSubscription) -> None:
    await late(consumer, member, 5, 6)
    member.seek(ours(0)[0], 2)
    assert await member.poll(0.0) == []


async def test_and_are_kept_while_their_partition_is_paused(
    consumer: Consumer, member: KafkaSubscription
) -> None:
    await late(consumer, member, 5, 6)
    member.pause(ours(0))
    assert await member.poll(0.0) == []
    member.resume(ours(0))
    assert [record.offset for record in await member.poll(0.0)] == [5, 6]
    assert await member.poll(0.0) == []


async def test_trap_5_errors_do_not_disable_the_poll_interval(
    consumer: Consumer, member: KafkaSubscription
) -> None:
    consumer.answers = [kafka_errors.NoOffsetForPartitionError("tasks-0")]
    await member.poll(0.01)
    assert consumer._subscription._fetch_count == 0
    assert consumer._subscription.fetcher_idle_time > 0


async def test_trap_6_the_settings_of_a_member() -> None:
    made = group_consumer(SETTINGS, "ns.group", "m")
    assert made._partition_assignment_strategy == (RangePartitionAssignor,)
    assert made._auto_offset_reset == "none"
    assert made._request_timeout_ms >= made._rebalance_timeout_ms + 10_000
    assert made._isolation_level == "read_committed"
    assert not made._enable_auto_commit
    assert made._group_instance_id == "m"
    assert made._heartbeat_interval_ms == 500
    assert made._session_timeout_ms == 6_000
    assert made._retry_backoff_ms == 100
    reader = plain_consumer(SETTINGS)
    assert reader._isolation_level == "read_committed"
    assert reader._auto_offset_reset == "none"
    await made.stop()
    await reader.stop()


@pytest.mark.parametrize(
    "error",
    [
        kafka_errors.NoOffsetForPartitionError("tasks-0"),
        kafka_errors.UnknownError("82"),
        kafka_errors.KafkaError("passing"),
    ],
)
async def test_trap_18_polling_survives_what_passes(
    consumer: Consumer, member: KafkaSubscription, error: Exception, monkeypatch: Any
) -> None:
    monkeypatch.setattr(subscription, "ERROR_PAUSE_S", 0.0)
    consumer.answers = [error]
    assert await member.poll(0.2) == []
    assert await member.poll(0.2) == []


async def test_an_error_that_does_not_pass_is_told(
    consumer: Consumer,
    member: KafkaSubscription,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A partition that the client cannot read holds up all others, without a word of its own."""
    monkeypatch.setattr(subscription, "ERROR_PAUSE_S", 0.0)
    consumer.answers = [kafka_errors.CorruptRecordException("tasks-0") for _ in range(20)]
    for _ in range(20):
        assert await member.poll(0.2) == []
    (line,) = [r.getMessage() for r in caplog.records if r.name.startswith("holdfast")]
    assert "tasks-0" in line


async def test_a_listener_that_fails_ends_the_member(
    consumer: Consumer, member: KafkaSubscription, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client would only log it: partitions would be assigned, and nobody work on them."""

    def assigned(partitions: frozenset[TopicPartition]) -> None:
        raise RuntimeError("no slot was begun")

    monkeypatch.setattr(member._listener, "assigned", assigned)
    with pytest.raises(RuntimeError):
        consumer.assign(0)
    assert "no slot was begun" in str(member.failure)


async def test_trap_18_and_ends_when_the_consumer_was_stopped(
    consumer: Consumer, member: KafkaSubscription
) -> None:
    consumer.answers = [kafka_errors.ConsumerStoppedError()]
    with pytest.raises(BusUnavailable):
        await member.poll(0.2)


async def test_a_position_below_the_log_is_never_skipped(
    consumer: Consumer, member: KafkaSubscription
) -> None:
    consumer.answers = [kafka_errors.OffsetOutOfRangeError({KafkaPartition(TOPIC, 2): 17})]
    with pytest.raises(OffsetOutOfRange, match="offset 17 of tasks-2"):
        await member.poll(0.2)


def test_the_names_hooked_for_heartbeats_are_there() -> None:
    routine = inspect.getsource(GroupCoordinator._heartbeat_routine)
    assert "success = await self._do_heartbeat()" in routine
    joining = inspect.getsource(GroupCoordinator.ensure_active_group)
    assert "success = await self._do_rejoin_group(subscription)" in joining
    leaving = inspect.getsource(GroupCoordinator._maybe_leave_group)
    assert "self._group_instance_id is None" in leaving
    assert "self._rejoin_needed_fut.set_result" in inspect.getsource(
        GroupCoordinator.request_rejoin
    )
    for asks, request in (
        (GroupCoordinator._do_heartbeat, "await self._send_req(request)"),
        (CoordinatorGroupRebalance._send_sync_group_request, "_coordinator._send_req(request)"),
    ):
        assert request in inspect.getsource(asks)


async def test_a_heartbeat_counts_from_when_it_was_begun_and_only_if_acknowledged(
    consumer: Consumer, member: KafkaSubscription
) -> None:
    coordinator = consumer._coordinator
    assert member.heartbeat_at == 0.0
    consumer.beats = [False]
    await coordinator._do_heartbeat()
    assert member.heartbeat_at == 0.0

    answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    consumer.beats = [answered]
    before = time.monotonic()
    beating = asyncio.ensure_future(coordinator._do_heartbeat())
    await until(lambda: not consumer.beats, "it was begun")
    begun = time.monotonic()
    assert member.heartbeat_at == 0.0
    await until(lambda: time.monotonic() > begun, "time goes on")
    answered.set_result(True)
    await beating
    assert before <= member.heartbeat_at <= begun


async def test_a_join_that_the_group_acknowledged_counts_from_when_all_had_come_back(
    consumer: Consumer, member: KafkaSubscription
) -> None:
    all_back: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    consumer.beats = [all_back, True]
    joining = asyncio.ensure_future(consumer._coordinator._do_rejoin_group(None))
    await until(lambda: len(consumer.beats) == 1, "it has asked to join")
    back_at = time.monotonic()
    await until(lambda: time.monotonic() > back_at, "time goes on")
    all_back.set_result(True)
    await joining
    assert member.heartbeat_at > back_at


async def test_a_heartbeat_that_asks_for_a_rejoin_acknowledges_nothing(
    consumer: Consumer, member: KafkaSubscription
) -> None:
    consumer.beats = [True]
    consumer._coordinator._rejoin_needed_fut.set_result(None)
    await consumer._coordinator._do_heartbeat()
    assert member.heartbeat_at == 0.0


async def test_a_static_member_says_good_bye(consumer: Consumer, member: KafkaSubscription) -> None:
    await member.close()
    assert consumer.calls[-1] == ("stop", None)
    with pytest.raises(BusUnavailable):
        await member.poll(0.0)


async def test_close_does_not_wait_for_a_poll_that_hangs(
    consumer: Consumer, member: KafkaSubscription
) -> None:
    consumer.answers = [asyncio.Event()]
    await member.poll(0.0)
    async with asyncio.timeout(2):
        await member.close()


async def test_revoked_is_only_told(
    consumer: Consumer, member: KafkaSubscription, calls: list[Any]
) -> None:
    consumer.assign(0)
    calls.clear()
    member.on_partitions_revoked(set(partitions(0)))
    assert calls == ["revoked"]


@pytest.mark.parametrize("which", ["coordination", "fetching", "metadata"])
async def test_a_client_task_that_died_is_told(
    consumer: Consumer, member: KafkaSubscription, which: str
) -> None:
    assert member.failure is None
    dead: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    dead.set_exception(kafka_errors.KafkaError("broken"))
    if which == "coordination":
        consumer._coordinator._coordination_task = dead
    elif which == "fetching":
        consumer._fetcher.error_future = dead
    else:
        consumer._client._sync_task = dead
    assert isinstance(member.failure, BusUnavailable)
    assert which in str(member.failure)
    assert "broken" in str(member.failure)
