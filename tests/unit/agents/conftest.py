"""What most tests of a slot begin with; the event loop is each test's own (`workers.check`)."""

from __future__ import annotations

import pytest

from tests.unit.agents.fake_slot import FakeSlot
from tests.unit.agents.workers import World, worker


@pytest.fixture
def world() -> World:
    """What the handlers of the test did, and what holds them up."""
    return World()


@pytest.fixture
def slot(world: World) -> FakeSlot:
    """A slot of the agent `worker(world)`, not booted: that is done inside the event loop."""
    return FakeSlot(worker(world))
