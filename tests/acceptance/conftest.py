from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.deployment import Deployment, deployment


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.acceptance)


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deployment]:
    """A deployment on each bus, without services."""
    namespace = f"t{uuid.uuid4().hex[:8]}"
    if request.param == "kafka":
        bus = request.getfixturevalue("kafka_broker").url
    else:
        bus = f"sqlite:///{tmp_path / 'bus.db'}"
    with deployment(bus, tmp_path, namespace) as made:
        yield made
