"""`holdfast dev --fresh`: an empty bus, and never one that is taken from under somebody."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.bus.embedded import EmbeddedBus, EmbeddedSettings
from holdfast.cli.dev import remove_bus
from holdfast.cli.failures import BadInput
from holdfast.cli.settings import load_settings


async def test_a_bus_that_a_process_uses_is_not_removed(home: Path) -> None:
    settings = load_settings()
    path = settings.bus_file
    assert path is not None
    path.parent.mkdir(exist_ok=True)
    bus = EmbeddedBus(EmbeddedSettings(path))
    await bus.start()
    try:
        with pytest.raises(BadInput, match=f"would remove .*{path.name}, which another process"):
            remove_bus(settings)
        assert path.exists()
    finally:
        await bus.close()
    remove_bus(settings)
    assert not path.exists()
