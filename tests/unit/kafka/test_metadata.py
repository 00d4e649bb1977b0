"""A client whose question for metadata met a broken connection asks again soon, and not when its
metadata are too old; one that knows no broker waits. On aiokafka's own client, without a broker."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka import errors as kafka_errors
from aiokafka.client import AIOKafkaClient, CoordinationType

from holdfast.bus.kafka import clients
from holdfast.bus.kafka.publisher import idempotent_producer
from holdfast.bus.kafka.reader import plain_consumer
from holdfast.bus.kafka.subscription import group_consumer
from holdfast.bus.settings import KafkaSettings
from tests.waiting import until

SETTINGS = KafkaSettings(("127.0.0.1:1",))
MAKERS = {
    "shared": lambda: clients.shared_client(SETTINGS),
    "transactional": lambda: clients.transactional_producer(SETTINGS, "id"),
    "idempotent": lambda: idempotent_producer(SETTINGS),
    "reader": lambda: plain_consumer(SETTINGS),
    "member": lambda: group_consumer(SETTINGS, "group", "m1"),
}


def make(kind: str) -> tuple[Any, Any]:
    """Return a client that was not started, and what it sends over."""
    made: Any = MAKERS[kind]()
    return made, getattr(made, "client", None) or getattr(made, "_client", None) or made


@pytest.mark.parametrize("kind", MAKERS)
async def test_a_failed_update_is_tried_again_soon(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [False, False, True]
    asked: list[bool] = []

    async def update(client: AIOKafkaClient, cluster: Any, topics: Any) -> bool:
        asked.append(answers[len(asked)])
        return asked[-1]

    monkeypatch.setattr(AIOKafkaClient, "_metadata_update", update)
    monkeypatch.setattr(clients, "METADATA_RETRY_S", 0.01)
    made, client = make(kind)
    client._sync_task = asyncio.ensure_future(client._md_synchronizer())
    client.force_metadata_update()
    await until(lambda: len(asked) == 3, "it asks until it is answered", 2.0)
    assert asked == answers
    client._sync_task.cancel()
    await asyncio.wait({client._sync_task})
    made._closed = True


@pytest.mark.parametrize("kind", MAKERS)
async def test_a_cluster_that_names_no_broker_is_asked_again(kind: str) -> None:
    """aiokafka's own look-up asserts that it knows one, which would end the process."""
    made, client = make(kind)
    with pytest.raises(kafka_errors.NodeNotReadyError, match="names no broker") as raised:
        await client.coordinator_lookup(CoordinationType.GROUP, "group")
    assert raised.value.retriable
    made._closed = True
