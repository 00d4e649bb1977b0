"""What only a real broker shows of the Kafka adapter, beyond the contract that all buses share."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.structs import TopicPartition as KafkaPartition

from deploy.kafka.broker import free_port
from holdfast.bus.errors import BusUnavailable, Fenced
from holdfast.bus.kafka import KafkaBus
from holdfast.bus.kafka import cluster as cluster_module
from holdfast.bus.kafka.clients import drop
from holdfast.bus.kafka.reader import plain_consumer
from holdfast.bus.port import Cleanup, Record, Slot, TopicPartition, TopicSpec
from holdfast.bus.settings import KafkaSettings, parse_bus_url
from tests.broker import TestBroker, local_broker
from tests.contract.kit import Listener, read_all, values
from tests.contract.kit_kafka import KafkaKit
from tests.waiting import until

pytestmark = pytest.mark.kafka


@pytest.fixture
def namespace() -> str:
    return f"t{uuid.uuid4().hex[:10]}"


@pytest.fixture
async def bus(kafka_broker: TestBroker) -> AsyncIterator[KafkaBus]:
    bus = KafkaBus(KafkaSettings((kafka_broker.bootstrap,)))
    await bus.start()
    yield bus
    await bus.close()


async def make_topic(bus: KafkaBus, name: str, partitions: int = 1) -> str:
    await bus.create_topics([TopicSpec(name, partitions)])
    return name


async def test_trap_13_consumed_offsets_are_never_stale_after_a_commit(
    bus: KafkaBus, namespace: str
) -> None:
    topic = await make_topic(bus, f"{namespace}.t")
    tp, group = TopicPartition(topic, 0), f"{namespace}.g"
    writer = await bus.open_writer(Slot(group, 0))
    await writer.prepare([topic])
    for n in range(1, 50):
        await writer.commit([Record(topic, b"k", b"v")], {tp: n})
        assert await bus.committed(group, [tp]) == {tp: n}


async def test_offsets_that_stay_unstable_are_told_as_they_were_before(
    bus: KafkaBus, kafka_broker: TestBroker, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "MAX_UNSTABLE_S", 1.0)
    topic = await make_topic(bus, f"{namespace}.t")
    tp, group = TopicPartition(topic, 0), f"{namespace}.g"
    writer = await bus.open_writer(Slot(group, 0))
    await writer.prepare([topic])
    await writer.commit([Record(topic, b"k", b"v")], {tp: 3})
    foreign = AIOKafkaProducer(
        bootstrap_servers=kafka_broker.bootstrap, transactional_id=f"{namespace}-foreign"
    )
    await foreign.start()
    await foreign.begin_transaction()
    await foreign.send_offsets_to_transaction({KafkaPartition(*tp): 7}, group)
    asking = asyncio.ensure_future(bus.committed(group, [tp]))
    done, _ = await asyncio.wait({asking}, timeout=0.5)
    assert not done, "it waits for the transaction"
    assert await asking == {tp: 3}, "but not for ever"
    await foreign.commit_transaction()
    assert await bus.committed(group, [tp]) == {tp: 7}
    await foreign.stop()


async def test_trap_11_and_17_an_open_transaction_hides_neither_the_end_nor_the_wait(
    bus: KafkaBus, kafka_broker: TestBroker, namespace: str
) -> None:
    topic = await make_topic(bus, f"{namespace}.t")
    tp = TopicPartition(topic, 0)
    foreign = AIOKafkaProducer(
        bootstrap_servers=kafka_broker.bootstrap, transactional_id=f"{namespace}-foreign"
    )
    await foreign.start()
    await bus.publish([Record(topic, b"k", b"before")])
    await foreign.begin_transaction()
    await foreign.send_and_wait(topic, b"open", b"k")

    assert await bus.end_offsets([tp]) == {tp: 2}  # the last stable offset is 1
    consumer = plain_consumer(bus.settings)
    await consumer.start()
    consumer.assign([KafkaPartition(*tp)])
    assert await consumer.end_offsets([KafkaPartition(*tp)]) == {KafkaPartition(*tp): 1}
    await consumer.stop()

    reading = asyncio.ensure_future(read_all(bus, topic))
    done, _ = await asyncio.wait({reading}, timeout=0.3)
    assert not done, "it waits for the transaction that is open below the end"
    await foreign.abort_transaction()
    assert values(await reading) == [b"before"]  # and ends behind markers, without a record there
    assert values(await read_all(bus, topic)) == [b"before"]
    await foreign.stop()


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
async def test_compressed_batches_are_read_by_a_foreign_client(
    bus: KafkaBus, kafka_broker: TestBroker, namespace: str, compression: Any
) -> None:
    from confluent_kafka import Consumer

    topic = await make_topic(bus, f"{namespace}.t", 2)
    settings = replace(bus.settings, compression=compression)
    other = KafkaBus(settings)
    await other.start()
    writer = await other.open_writer(Slot(f"{namespace}.g", 0))
    await writer.prepare([topic])
    large = [Record(topic, b"k%d" % n, b"x" * 500, (("h", b"1"),), 1) for n in range(1000)]
    await writer.commit(large, {})
    assert [r.key for r in await read_all(bus, topic, 1)] == [r.key for r in large]
    await other.close()

    def foreign() -> list[Any]:
        consumer = Consumer({
            "bootstrap.servers": kafka_broker.bootstrap, "group.id": f"{namespace}.foreign",
            "isolation.level": "read_committed", "auto.offset.reset": "earliest",
        })  # fmt: skip
        consumer.subscribe([topic])
        found: list[Any] = []
        deadline = time.monotonic() + 20
        while len(found) < len(large) and time.monotonic() < deadline:
            found += consumer.consume(1000, 0.5)
        consumer.close()
        return found

    found = await asyncio.to_thread(foreign)
    assert [(m.key(), m.headers()) for m in found] == [(r.key, [("h", b"1")]) for r in large]


async def test_topics_are_made_as_the_design_says(
    bus: KafkaBus, kafka_broker: TestBroker, namespace: str
) -> None:
    from confluent_kafka.admin import AdminClient, ConfigResource

    specs = [
        TopicSpec(f"{namespace}.journal", 2, Cleanup.COMPACT),
        TopicSpec(f"{namespace}.tasks", 2),
        TopicSpec(f"{namespace}.events", 2, Cleanup.RETAIN, 1000, 2000),
    ]
    await bus.create_topics(specs)
    await bus.create_topics(specs)

    def described() -> list[dict[str, str]]:
        admin = AdminClient({"bootstrap.servers": kafka_broker.bootstrap})
        resources = [ConfigResource(ConfigResource.Type.TOPIC, spec.name) for spec in specs]
        futures = admin.describe_configs(resources)
        configs = [futures[resource].result() for resource in resources]
        return [{name: entry.value for name, entry in config.items()} for config in configs]

    journal, tasks, events = await asyncio.to_thread(described)
    assert journal["cleanup.policy"] == "compact"
    assert journal["segment.bytes"] == str(16 * 1024 * 1024)
    assert journal["segment.ms"] == str(10 * 60 * 1000)
    assert float(journal["min.cleanable.dirty.ratio"]) == 0.1
    assert journal["delete.retention.ms"] == str(5 * 60 * 1000), "not a day of tombstones"
    assert (tasks["retention.ms"], tasks["retention.bytes"]) == ("-1", "-1")
    assert tasks["segment.bytes"] == str(16 * 1024 * 1024), "a purge frees whole segments only"
    assert tasks["segment.ms"] == str(10 * 60 * 1000)
    assert (events["retention.ms"], events["retention.bytes"]) == ("1000", "2000")
    infos = await bus.describe_topics([spec.name for spec in specs])
    assert [infos[spec.name].cleanup for spec in specs] == [spec.cleanup for spec in specs]


async def test_describing_never_makes_a_topic(bus: KafkaBus, namespace: str) -> None:
    assert await bus.describe_topics([f"{namespace}.none"]) == {}
    assert f"{namespace}.none" not in await bus.describe_topics()


async def test_a_restarted_static_member_has_its_partitions_at_once(
    bus: KafkaBus, namespace: str
) -> None:
    topic = await make_topic(bus, f"{namespace}.t", 4)
    first, second = Listener(), Listener()
    dead = await bus.subscribe(f"{namespace}.g", [topic], member="m", listener=first)
    await first.owns(range(4))
    await until(lambda: dead.heartbeat_at, "it is a member")
    await drop(dead._consumer)  # with its name, so without a good-bye: as a process that is killed
    began = time.monotonic()
    again = await bus.subscribe(f"{namespace}.g", [topic], member="m", listener=second)
    await second.owns(range(4))
    assert time.monotonic() - began < bus.settings.session_timeout_s / 2
    await again.close()


async def test_heartbeats_go_on_without_polling(bus: KafkaBus, namespace: str) -> None:
    topic = await make_topic(bus, f"{namespace}.t")
    listener = Listener()
    member = await bus.subscribe(f"{namespace}.g", [topic], member="m", listener=listener)
    await listener.owns([0])
    first = member.heartbeat_at
    await until(lambda: member.heartbeat_at > first + 0.4, "another heartbeat", 5)
    assert member.heartbeat_at <= time.monotonic()
    assert member.failure is None


async def test_a_revoked_slot_commits_on_while_the_group_rebalances(
    bus: KafkaBus, namespace: str
) -> None:
    topic = await make_topic(bus, f"{namespace}.t", 2)
    group, tp = f"{namespace}.g", TopicPartition(f"{namespace}.t", 0)
    listener, other = Listener(), Listener()
    await bus.subscribe(group, [topic], member="a", listener=listener)
    await listener.owns([0, 1])
    writer = await bus.open_writer(Slot(group, 0))
    await writer.prepare([topic])
    joining = await bus.subscribe(group, [topic], member="b", listener=other)
    commits = 0
    while not other.current:
        commits += 1
        await writer.commit([Record(topic, b"k", b"v", (), 0)], {tp: commits})
    await joining.close()
    await writer.commit([Record(topic, b"k", b"last", (), 0)], {tp: commits + 1})
    assert len(await read_all(bus, topic, 0)) == commits + 1


async def test_a_commit_outlives_a_broker_that_crashes(namespace: str) -> None:
    with local_broker() as broker:
        bus = KafkaBus(KafkaSettings((broker.bootstrap,)))
        await bus.start()
        topic = await make_topic(bus, f"{namespace}.t")
        writer = await bus.open_writer(Slot(f"{namespace}.g", 0))
        await writer.prepare([topic])
        await writer.commit([Record(topic, b"k", b"0")], {})
        await asyncio.to_thread(broker.kill)
        commit = asyncio.ensure_future(writer.commit([Record(topic, b"k", b"1")], {}))
        await asyncio.to_thread(broker.start)
        await commit
        assert values(await read_all(bus, topic)) == [b"0", b"1"]
        await bus.close()


async def test_a_transaction_that_took_too_long_is_told_beside_the_other_cause(
    kafka_broker: TestBroker, namespace: str
) -> None:
    bus = KafkaBus(KafkaSettings((kafka_broker.bootstrap,), transaction_timeout_s=1.0))
    await bus.start()
    topic = await make_topic(bus, f"{namespace}.t")
    writer = await bus.open_writer(Slot(f"{namespace}.g", 0))
    await writer.prepare([topic])
    async with KafkaKit.hold_commit(bus) as held:
        commit = asyncio.ensure_future(writer.commit([Record(topic, b"k", b"late")], {}))
        await held.reached()
        # A read to the end waits for what is open below it: until the broker has aborted it.
        assert values(await read_all(bus, topic)) == []
        held.release()
        with pytest.raises(Fenced, match="a newer writer, or its transaction timed out"):
            await commit
    assert values(await read_all(bus, topic)) == []
    again = await bus.open_writer(Slot(f"{namespace}.g", 0))
    await again.commit([Record(topic, b"k", b"again")], {})
    assert values(await read_all(bus, topic)) == [b"again"]
    await bus.close()


SASL_PORT = 0
USERS = {"me": "right-password"}


def sasl_properties(port: int) -> dict[str, str]:
    here = f"PLAINTEXT://127.0.0.1:{{port}},SASL://127.0.0.1:{port}"
    module = "org.apache.kafka.common.security"
    plain = " ".join(f'user_{name}="{password}"' for name, password in USERS.items())
    scram = f"{module}.scram.ScramLoginModule required;"
    return {
        "listeners": f"{here},CONTROLLER://127.0.0.1:{{controller_port}}",
        "advertised.listeners": f"{here},CONTROLLER://127.0.0.1:{{controller_port}}",
        "listener.security.protocol.map": (
            "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT"
        ),
        "listener.name.sasl.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
        "listener.name.sasl.plain.sasl.jaas.config": (
            f"{module}.plain.PlainLoginModule required {plain};"
        ),
        "listener.name.sasl.scram-sha-256.sasl.jaas.config": scram,
        "listener.name.sasl.scram-sha-512.sasl.jaas.config": scram,
    }


@pytest.fixture(scope="module")
def sasl_bootstrap() -> Any:
    port = free_port()
    with local_broker(properties=sasl_properties(port), scram=USERS):
        yield f"127.0.0.1:{port}"


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_sasl(sasl_bootstrap: str, namespace: str, mechanism: str) -> None:
    url = f"kafka://{sasl_bootstrap}?sasl_mechanism={mechanism}&connect_timeout_s=10"
    variables = {"HOLDFAST_KAFKA_USERNAME": "me", "HOLDFAST_KAFKA_PASSWORD": "right-password"}
    settings = parse_bus_url(url, variables)
    assert isinstance(settings, KafkaSettings)
    bus = KafkaBus(settings)
    await bus.start()
    topic = await make_topic(bus, f"{namespace}.t")
    writer = await bus.open_writer(Slot(f"{namespace}.g", 0))
    await writer.prepare([topic])
    await writer.commit([Record(topic, b"k", b"v")], {TopicPartition(topic, 0): 1})
    assert values(await read_all(bus, topic)) == [b"v"]
    await bus.close()

    wrong = KafkaBus(replace(settings, sasl_password="wrong-password"))
    began = time.monotonic()
    with pytest.raises(BusUnavailable, match="refuses our name or password") as refused:
        await wrong.start()
    assert time.monotonic() - began < 8, "it is told at once: trying again is vain"
    assert "wrong-password" not in str(refused.value)
    await wrong.close()
