"""What can be set on the embedded bus, and its limits."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

__all__ = ["EmbeddedSettings", "Synchronous"]


class Synchronous(Enum):
    """When a commit counts as kept (SQLite's `PRAGMA synchronous`)."""

    FULL = "FULL"
    """Synced to the disk: survives a power cut."""
    NORMAL = "NORMAL"
    """Survives the death of any process; the last commits may be lost to a power cut."""


@dataclass(frozen=True, slots=True)
class EmbeddedSettings:
    """Settings of one `EmbeddedBus`.

    `path`: the database; the folder `<path>.d` beside it holds locks and sockets.
    """

    path: Path
    connect_timeout_s: float = 15.0
    """How long `start` waits for its turn at the file."""
    operation_timeout_s: float = 60.0
    """The bound of every commit and every other change."""
    session_timeout_s: float = 6.0
    """How long a process that stands still keeps its partitions."""
    heartbeat_s: float = 0.5
    hand_over_s: float = 2.0
    """How long an owner may take for its last commit before the heir takes the slot."""
    max_record_bytes: int = 1_048_576
    """The largest record: key, value and headers together."""
    synchronous: Synchronous = Synchronous.FULL
    upkeep_s: float = 5.0
    """How often one of the processes purges by age, compacts and sweeps."""
    tombstone_grace_s: float = 60.0
    """How long a tombstone stays readable once what it removed is not: whoever is reading the topic
    (a slot that is restored) and has seen that must come to the tombstone in this time. Not longer:
    until then each finished run is read again by whoever restores its slot."""
