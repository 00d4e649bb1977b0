"""The Kafka broker that tests use: one for the whole session, found or started.

In this order: the brokers in `HOLDFAST_TEST_BOOTSTRAP`; a container, where a Docker engine answers;
a local process, from Java 17 or newer and Maven (`deploy/kafka`). With none of them Kafka tests are
skipped with one line that says what to install; under `CI=true` they fail instead.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploy.kafka import broker as local_kafka

REPOSITORY = Path(__file__).resolve().parents[1]
CONTAINER_IMAGE = "confluentinc/cp-kafka:8.0.0"
"""Apache Kafka 4.0; only used where a Docker engine answers."""
CONTAINER_ENVIRONMENT = {
    "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
    "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    "KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
}
REMEDY = (
    "no Kafka for tests: set HOLDFAST_TEST_BOOTSTRAP=host:port, or run a Docker engine, or install "
    "Java 17 or newer and Maven (Debian: apt-get install default-jre-headless maven)"
)


@dataclass(frozen=True)
class TestBroker:
    """Where it is; and, if it is a process of ours, the process."""

    __test__ = False

    bootstrap: str
    local: Any = None

    @property
    def url(self) -> str:
        """What `HOLDFAST_BUS` would be."""
        return f"kafka://{self.bootstrap}"


@contextmanager
def session_broker() -> Iterator[TestBroker]:
    """Yield the broker of this session; skips, or fails in CI, where there is none."""
    if bootstrap := os.environ.get("HOLDFAST_TEST_BOOTSTRAP"):
        yield TestBroker(bootstrap)
        return
    if _docker_answers():
        with _container() as bootstrap:
            yield TestBroker(bootstrap)
        return
    with local_broker() as broker:
        yield TestBroker(broker.bootstrap, broker)


@contextmanager
def local_broker(**options: Any) -> Iterator[Any]:
    """Yield a `LocalBroker` of its own, started, in a folder that goes with it."""
    folder = Path(tempfile.mkdtemp(prefix="holdfast-kafka-"))
    broker = local_kafka.LocalBroker(folder, **options)
    try:
        try:
            broker.start()
        except local_kafka.NotInstalled as error:
            refuse(f"{REMEDY} ({error})")
        yield broker
    finally:
        broker.stop()
        shutil.rmtree(folder, ignore_errors=True)


def refuse(reason: str) -> None:
    """Skip the test that asked; in CI fail it: a Kafka test skipped there proves nothing."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _docker_answers() -> bool:
    if "DOCKER_HOST" not in os.environ and not Path("/var/run/docker.sock").exists():
        return False
    try:
        import docker

        docker.from_env(timeout=5).ping()
    except Exception:
        return False
    return True


@contextmanager
def _container() -> Iterator[str]:
    from testcontainers.kafka import KafkaContainer

    container = KafkaContainer(CONTAINER_IMAGE).with_kraft()
    for name, value in CONTAINER_ENVIRONMENT.items():
        container = container.with_env(name, value)
    with container as running:
        yield running.get_bootstrap_server()
