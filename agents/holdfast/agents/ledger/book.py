"""The tasks of a slot by name, and which of them may start next."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator

from holdfast.agents.ledger.entry import Entry, Phase
from holdfast.agents.ledger.order import NOT_OPEN, OrderKeys

__all__ = ["OPEN_BYTES_MAX", "OPEN_TASKS_MAX", "POLL_RECORDS", "Book"]

OPEN_TASKS_MAX = 1_000
"""No slot holds more open tasks than this."""
OPEN_BYTES_MAX = 64 * 1024 * 1024
"""... nor more bytes of their records, but for what one poll brings."""
POLL_RECORDS = 500
"""The largest batch that is read at once: reading pauses so far before the limit."""


class Book:
    """Entries by name; those that may start, by the offset of their record."""

    def __init__(self, busy: Callable[[str], bool]) -> None:
        self._busy = busy
        self._entries: dict[str, Entry] = {}
        self._startable: list[tuple[int, int, Entry]] = []
        self._pushes = 0
        self._suspects: deque[Entry] = deque()
        self._behind_body: dict[str, Entry] = {}
        self._open_bytes = 0
        self._open_tasks = 0
        self._asleep = 0
        self._asleep_bytes = 0
        self.order = OrderKeys()
        self.passed: Callable[[str], None] = _nobody_waits
        """Hears of each order key that a task has left, before the next one comes."""

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def open_tasks(self) -> int:
        """How many tasks are open: read or accepted, and not ended."""
        return self._open_tasks

    @property
    def asleep(self) -> int:
        """How many of them wait for an answer, without a body."""
        return self._asleep

    @property
    def asleep_bytes(self) -> int:
        """How many bytes their inputs and the results of their steps have: those stay in memory."""
        return self._asleep_bytes

    @property
    def open_bytes(self) -> int:
        """How many bytes the records of open tasks have; those who sleep do not count."""
        return self._open_bytes

    @property
    def lined_up(self) -> bool:
        """Whether a task may be startable."""
        return bool(self._startable or self._suspects)

    def get(self, name: str) -> Entry | None:
        """Return what is known of a task."""
        return self._entries.get(name)

    def open(self, entry: Entry) -> None:
        """Take in an attempt that waits for its turn."""
        self._entries[entry.name] = entry
        self._open_tasks += 1
        self._open_bytes += entry.size_bytes
        self.consider(entry)

    def sleep(self, entry: Entry) -> None:
        """It waits for an answer, without a body: it keeps no other from being read.

        There is no limit: what wakes it may be the end of a task that would not be read any more.
        """
        self._asleep += 1
        self._open_bytes -= entry.size_bytes
        entry.asleep_bytes = entry.size_bytes + entry.steps.size_bytes
        self._asleep_bytes += entry.asleep_bytes

    def wake(self, entry: Entry) -> None:
        """Its answer is there, or its end."""
        self._asleep -= 1
        self._open_bytes += entry.size_bytes
        self._asleep_bytes -= entry.asleep_bytes
        self.consider(entry)

    def hold(self, entry: Entry) -> None:
        """Take in a task of which only the end of an attempt is known."""
        self._entries[entry.name] = entry

    def close(self, entry: Entry) -> None:
        """Its attempt has ended: it counts no longer."""
        self._open_tasks -= 1
        self._open_bytes -= entry.size_bytes

    def forget(self, entry: Entry) -> None:
        """Nothing is known of it any more; whoever waited behind it may start."""
        del self._entries[entry.name]
        self.pass_order(entry)

    def pass_order(self, entry: Entry) -> None:
        """Let the next of its order key come."""
        following = self.order.remove(entry)
        if entry.order_key is not None:
            self.passed(entry.order_key)
        if following is not None:
            self.consider(following)

    def consider(self, entry: Entry) -> None:
        """Line `entry` up if nothing but a place is missing."""
        if entry.phase is Phase.WAITING and not entry.unsettled and self.order.open_for(entry):
            self._pushes += 1
            heapq.heappush(self._startable, (entry.input_offset, self._pushes, entry))

    def body_ended(self, name: str) -> None:
        """An older body of this task has ended at last."""
        entry = self._behind_body.pop(name, None)
        if entry is not None:
            self.consider(entry)

    def next_startable(self) -> Entry | None:
        """Return the next task that may run beside others, and strike it off the line."""
        while self._startable:
            offset, _, entry = heapq.heappop(self._startable)
            if not self._ready(entry) or entry.input_offset != offset:
                continue  # ended or superseded since it was lined up
            if self._busy(entry.name):
                self._behind_body[entry.name] = entry
            elif entry.suspect:
                self._suspects.append(entry)
            else:
                return entry
        return None

    def next_suspect(self) -> Entry | None:
        """Return the next task that must run alone, and strike it off the line."""
        while self._suspects:
            entry = self._suspects.popleft()
            if self._ready(entry):
                return entry
        return None

    def has_suspects(self) -> bool:
        """Tell whether a task waits for the process to be empty."""
        while self._suspects and not self._ready(self._suspects[0]):
            self._suspects.popleft()
        return bool(self._suspects)

    def full(self) -> bool:
        """Tell whether no more task records shall be read for now.

        Tasks that wait behind another one for its next attempt do not count: its record stands
        behind them, in the very partition that would pause. Nor do those behind one that is
        asleep: what wakes it may be the end of a task that stands there likewise.
        """
        tasks, size = self._open_tasks - self._asleep, self._open_bytes
        if tasks < OPEN_TASKS_MAX - POLL_RECORDS and size < OPEN_BYTES_MAX:
            return False
        for entry in self.order.behind_waiting():
            if entry.phase not in NOT_OPEN:
                tasks -= 1
                size -= entry.size_bytes
        return tasks >= OPEN_TASKS_MAX - POLL_RECORDS or size >= OPEN_BYTES_MAX

    def _ready(self, entry: Entry) -> bool:
        return (
            entry.phase is Phase.WAITING
            and not entry.unsettled  # it is lined up again once that is settled
            and self._entries.get(entry.name) is entry
            and self.order.open_for(entry)
        )


def _nobody_waits(order_key: str) -> None:
    """Nothing comes between two tasks of a key."""
