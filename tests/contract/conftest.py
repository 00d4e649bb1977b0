"""One fixture, `kit`: the same test runs on every bus."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from holdfast.bus.port import Bus
from tests.contract.kit import BusKit
from tests.contract.kits import kit_class


@pytest.fixture(params=["sim", "sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def closed_kit(request: pytest.FixtureRequest, tmp_path: Path) -> BusKit:
    """The kit before its event loop runs: session fixtures are reached from here."""
    return kit_class(request.param).create(request, tmp_path)


@pytest.fixture
async def kit(closed_kit: BusKit) -> AsyncIterator[BusKit]:
    """One place, empty, with all that the test opened closed behind it."""
    await closed_kit.open()
    try:
        yield closed_kit
    finally:
        await closed_kit.close()


@pytest.fixture
async def bus(kit: BusKit) -> Bus:
    """A started bus of the kit."""
    return await kit.connect()
