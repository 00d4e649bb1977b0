"""Where a torture happens: a bus of one kind, and folders beside it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.broker import local_broker

__all__ = ["Stage", "open_stage"]


@dataclass(frozen=True, slots=True)
class Stage:
    """`bootstrap`: of the Kafka broker; "" on SQLite, where each arena has a file of its own."""

    folder: Path
    bootstrap: str = ""
    broker: Any = None

    def place(self) -> tuple[str, Path, str]:
        """Return bus URL, folder and namespace of a new arena."""
        namespace = f"t{uuid.uuid4().hex[:8]}"
        folder = self.folder / namespace
        folder.mkdir(parents=True)
        if self.bootstrap:
            return f"kafka://{self.bootstrap}", folder, namespace
        return f"sqlite:///{folder / 'bus.db'}", folder, namespace


@contextmanager
def open_stage(bus: str, folder: Path) -> Iterator[Stage]:
    """Yield a stage; a Kafka broker is found in `HOLDFAST_TEST_BOOTSTRAP`, or started."""
    if bus == "sqlite":
        yield Stage(folder)
    elif bootstrap := os.environ.get("HOLDFAST_TEST_BOOTSTRAP"):
        yield Stage(folder, bootstrap)
    else:
        with local_broker() as broker:
            yield Stage(folder, broker.bootstrap, broker)
