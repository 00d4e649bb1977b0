"""A client of another make, reading committed, sees one accepted result per run and task."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from holdfast.bus.topics import Topics
from holdfast.client import Client
from holdfast.schemas.codec import decode
from holdfast.schemas.records import Event, EventType
from tests.acceptance.deployment import deployment
from tests.acceptance.test_chain import chain
from tests.broker import TestBroker

RUNS = 60


def read_all(bootstrap: str, topic: str) -> list[Event]:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": uuid.uuid4().hex,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "enable.auto.commit": False,
        }
    )
    try:
        partitions = consumer.list_topics(topic, 10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
        events: list[Event] = []
        ended = 0
        while ended < len(partitions):
            message = consumer.poll(10)
            assert message is not None, "the broker says nothing"
            if message.error() is not None:
                ended += 1
            else:
                events.append(decode(Event, message.value() or b""))
        return events
    finally:
        consumer.close()


@pytest.mark.kafka
async def test_one_accepted_result_per_run_and_task(
    kafka_broker: TestBroker, tmp_path: Path
) -> None:
    with deployment(kafka_broker.url, tmp_path, f"t{uuid.uuid4().hex[:8]}") as place:
        place.coordinator("c1")
        for agent in ("first", "second", "third"):
            place.agent(agent)
        await asyncio.to_thread(place.wait_ready)
        async with Client(url=place.bus, namespace=place.namespace) as client:
            runs = [
                await client.submit(chain(), {"text": str(n)}, run_id=f"run-{n}")
                for n in range(RUNS)
            ]
            place.kill("second-1")
            place.again("second-1")
            place.kill("c1")
            place.again("c1")
            await asyncio.wait_for(asyncio.gather(*(run.result() for run in runs)), 90)
        topic = Topics(place.namespace).events
        events = await asyncio.to_thread(read_all, kafka_broker.bootstrap, topic)
    accepted = Counter(
        (e.run_id, e.task.task_id) for e in events if e.type is EventType.TASK_SUCCEEDED and e.task
    )
    assert len(accepted) == RUNS * 3
    assert set(accepted.values()) == {1}
