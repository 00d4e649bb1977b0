"""The kits by name, each imported only when asked for: one bus needs nothing of another."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from tests.contract.kit import BusKit

KITS = {
    "sim": ("tests.contract.kit_sim", "SimKit"),
    "sqlite": ("tests.contract.kit_sqlite", "SqliteKit"),
    "kafka": ("tests.contract.kit_kafka", "KafkaKit"),
}


def kit_class(name: str) -> type[BusKit]:
    """Return the kit's class."""
    module, attribute = KITS[name]
    return cast("type[BusKit]", getattr(import_module(module), attribute))
