"""Which of the records that a slot has read are dealt with, and so how far its offsets may pass.

What is dealt with stands in the commit that is being collected, or in one before it.
"""

from __future__ import annotations

from collections.abc import Mapping

from holdfast.agents.ledger.entry import Entry, StepWrite
from holdfast.bus.slot.intake import Intake

__all__ = ["Inbox"]


class Inbox:
    """The records of one slot; `topic` is its task topic."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._intake = Intake({})
        self._by_offset: dict[int, Entry] = {}
        self._passed = -1
        self.moved = False
        """Whether something has been dealt with since the last commit began."""

    def opened(self, positions: Mapping[str, int]) -> None:
        """Begin at `positions`."""
        self._intake = Intake(positions)

    def read(self, topic: str, offset: int) -> None:
        """A record was read."""
        self._intake.read(topic, offset)

    def hold(self, entry: Entry) -> None:
        """The record of an attempt stays open, until `finish`."""
        self._by_offset[entry.input_offset] = entry

    def skip(self, topic: str, offset: int) -> None:
        """A record was read of which nothing is to be kept."""
        self.read(topic, offset)
        if topic == self._topic:
            self.pass_task(offset)
        else:
            self._intake.finish(topic, offset)
            self.moved = True

    def pass_task(self, offset: int) -> None:
        """Nothing is to be kept of a task record."""
        self._intake.finish(self._topic, offset)
        self._passed = max(self._passed, offset)
        self.moved = True

    def finish(self, entry: Entry) -> int:
        """Let the offset pass the record of `entry`; return its offset, -1 if it was passed."""
        if entry.consumed:
            return -1
        entry.consumed = True
        del self._by_offset[entry.input_offset]
        self._intake.finish(self._topic, entry.input_offset)
        return entry.input_offset

    def finish_controls(self, entry: Entry) -> None:
        """The end of an attempt answers the cancels that asked for it."""
        for topic, offset in entry.controls:
            self._intake.finish(topic, offset)
            self.moved = True
        entry.controls.clear()

    def deal(self, write: StepWrite) -> None:
        """Let the offset pass the answer that a step holds, if it does. May be repeated."""
        if write.control is not None and not write.dealt:
            write.dealt = True
            self._intake.finish(*write.control)
            self.moved = True

    def horizon(self) -> int:
        """Return the highest offset of a task of which nothing was kept since the last call."""
        passed, self._passed = self._passed, -1
        return passed

    def open_before(self, offset: int) -> list[Entry]:
        """Return the tasks whose records are open, and lie before `offset`.

        Not a task that waits for the apply of the commit under way to become known.
        """
        found = self._intake.open_before(self._topic, offset)
        return [entry for each in found if (entry := self._by_offset.get(each)) is not None]

    def offsets(self) -> dict[str, int]:
        """Return topic to the next offset that is not dealt with."""
        return self._intake.advance()
