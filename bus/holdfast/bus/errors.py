"""What a bus may answer; foreign exceptions never pass an adapter.

BusError
├── Fenced              the slot has a newer writer: stop, nothing of this commit was written
├── OutcomeUnknown      the answer to a commit was lost: perhaps committed
├── Rejected            a record that the bus does not take: certainly nothing was written
├── BusUnavailable      the bus cannot be reached within the time given
├── TopicMissing        a topic that does not exist
├── TopicMismatch       a topic exists with another partition count or clean-up policy
└── OffsetOutOfRange    a start below the first offset that the log still holds
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.schemas.errors import HoldfastError

if TYPE_CHECKING:
    from holdfast.bus.port import Record

__all__ = [
    "BusError",
    "BusUnavailable",
    "Fenced",
    "OffsetOutOfRange",
    "OutcomeUnknown",
    "Rejected",
    "TopicMismatch",
    "TopicMissing",
]


class BusError(HoldfastError):
    """Something that the bus answered, or that it did not answer."""


class Fenced(BusError):
    """The slot has a newer writer; nothing of this commit was written, and this writer is dead."""


class OutcomeUnknown(BusError):
    """The answer to a commit was lost: it may or may not have happened; this writer is dead."""


class Rejected(BusError):
    """The bus does not take a record; nothing of its commit was written.

    Raised by `Writer.check` (the writer lives on) and by `Writer.commit` (the writer is dead).
    """

    def __init__(self, record: Record, reason: str) -> None:
        super().__init__(f"record for topic {record.topic!r} refused: {reason}")
        self.record = record
        self.reason = reason


class BusUnavailable(BusError):
    """The bus cannot be reached within the time given."""


class TopicMissing(BusError):
    """A topic does not exist; the message says how to create it."""


class TopicMismatch(BusError):
    """A topic exists with another number of partitions, or another clean-up policy, than asked."""


class OffsetOutOfRange(BusError):
    """A start below the first offset that the log still holds: reading on would skip records."""
