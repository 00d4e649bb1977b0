"""Fixtures that all tests share: the Kafka broker of the session."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.broker import TestBroker, session_broker


def pytest_configure() -> None:
    """Let processes that tests start die of a Ctrl-C, also when the suite runs in the background.

    A shell starts a background job with SIGINT ignored, and what is ignored is inherited.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def kafka_broker() -> Iterator[TestBroker]:
    """One real Kafka broker for the whole session; see `tests.broker` for how it is found."""
    with session_broker() as broker:
        yield broker
