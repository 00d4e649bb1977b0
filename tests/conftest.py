"""What all tests share: the Kafka broker of the session, and how hypothesis draws."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.broker import TestBroker, session_broker

# A property does not fail because the machine is busy: no bound on an example's own seconds.
settings.register_profile(
    "patient",
    settings.default,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("patient")


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
