"""Fixtures that all tests share: the Kafka broker of the session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.broker import TestBroker, session_broker


@pytest.fixture(scope="session")
def kafka_broker() -> Iterator[TestBroker]:
    """One real Kafka broker for the whole session; see `tests.broker` for how it is found."""
    with session_broker() as broker:
        yield broker
