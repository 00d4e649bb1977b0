"""What runs in a slot, as the slot sees it: a machine that is restored, fed and collected from.

    restore(key, value) ...     each record of the slot's journal, in order
    opened(...)                 all of it was read; from here on the slot is owned
    receive(records)            what was read of the group's topics, in order per topic
    due(now_ms)                 time has come
    collect(now_ms)             what shall be in the next commit; called when none is under way
        Change.apply()          ... is acknowledged: readers can see it
        Change.refuse(error)    ... the bus does not take one of its records: nothing was written,
                                and what it returns takes its place in the same commit
    lost()                      the slot belongs to somebody else: stop at once, write nothing

All of these are called on the event loop, never re-entered, and must return at once: handlers and
I/O run in tasks of the machine's own, which call `SlotControl.wake` when there is something to
collect. Commit precedes apply: a machine changes what it promises only in `apply`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from holdfast.bus.errors import Rejected
from holdfast.bus.port import Received, Record, Slot

__all__ = ["Change", "Commit", "MachineFactory", "Opened", "SlotControl", "SlotMachine"]

CHANGE_RECORDS_MAX = 500
"""No change holds more records than this, so that a group commit stays bounded."""
COMMIT_RECORDS_MAX = 5_000
"""A machine collects no further changes beyond this many records."""


@dataclass(slots=True)
class Change:
    """Records that stand or fall together, and what follows from each answer.

    `refuse` returns the change to be written instead. It must settle the same inputs, because the
    offsets of the commit stay as they were collected: a task whose result the bus does not take
    is closed as failed. `records` may be empty.
    """

    records: Sequence[Record]
    apply: Callable[[], None]
    refuse: Callable[[Rejected], Change]


@dataclass(slots=True)
class Commit:
    """What the next commit shall hold. `offsets`: topic to the next offset to be read, or {}.

    `told_ms`: the time that a machine of its own time acted at; `Opened.told_ms` gives it back.
    """

    changes: Sequence[Change]
    offsets: Mapping[str, int] = field(default_factory=dict)
    told_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """What the slot knows when its journal has been read.

    `positions`: topic to the next offset that will be received. `clean`: no process has died with
    this slot: the last owner gave it up itself, or is this very process, or there was none. It may
    have left bodies behind that did not end when they were told to. `told_ms`: the newest time
    that was committed, see `Commit`.
    """

    positions: Mapping[str, int]
    clean: bool
    now_ms: int
    told_ms: int = 0


class SlotControl(Protocol):
    """What a machine may ask of its slot."""

    @property
    def slot(self) -> Slot:
        """Which slot it is."""
        ...

    def wake(self) -> None:
        """Something waits to be collected, or an earlier time is due. Cheap; may be repeated."""
        ...

    def journal(self, key: str, value: bytes | None) -> Record:
        """Return the record that sets `key` in the slot's journal, or removes it (None)."""
        ...

    def check(self, record: Record) -> None:
        """Raise `Rejected` if the bus would not take `record`. No I/O."""
        ...

    def owns(self, key: bytes) -> bool:
        """Tell whether records of this key belong to the slot's partition."""
        ...

    def misplaced(self, received: Received) -> Record | None:
        """Return the record that forwards `received` to the partition its key belongs to.

        None where it stands right. Foreign producers may hash keys otherwise; a machine that gets
        a record here puts it into its next commit, counts the input as finished, and does no more.
        """
        ...

    async def confirm(self) -> None:
        """Return once the group cannot have given the slot to anybody else.

        No assignment is under negotiation, and a heartbeat that was begun less than half a session
        time-out ago was acknowledged. A slot that was kept in a rebalance has written a commit
        since. Raises `Fenced` when the slot is lost (the caller is about to be cancelled anyway).
        """
        ...

    async def prove(self) -> None:
        """Return once that is so (`confirm`), and the bus has taken a commit of this owner less
        than half a session time-out ago.

        Commits the `offset` record first if the last acknowledged commit is older. Raises
        `Fenced` as `confirm` does.
        """
        ...


class SlotMachine(Protocol):
    """See the module's docstring."""

    def restore(self, key: str, value: bytes | None) -> None:
        """Take one record of the journal; `value` None removes the key."""
        ...

    def opened(self, opened: Opened) -> None:
        """All of the journal was read. Never called twice; never followed by `restore`."""
        ...

    def receive(self, records: Sequence[Received]) -> None:
        """Take records of the slot's topics; each topic's in order, without gaps that matter."""
        ...

    def due(self, now_ms: int) -> int | None:
        """Do what is due; return when to be called next (wall time), or None."""
        ...

    def collect(self, now_ms: int) -> Commit | None:
        """Return what shall be committed next, or None. The next call comes after its answer."""
        ...

    def congested(self) -> frozenset[str]:
        """Topics that shall hand out nothing for now. Asked after each receive and each commit."""
        ...

    def idle(self) -> bool:
        """True when nothing runs and nothing waits to be collected: a stop may go on."""
        ...

    def quiesce(self) -> None:
        """A stop was asked for: start nothing new; what runs may finish."""
        ...

    def abandon(self) -> None:
        """Cancel what runs; what was closed may still be collected in one last commit."""
        ...

    def lost(self) -> None:
        """Stop at once; nothing of this machine will be written any more. Called last, always."""
        ...


class MachineFactory(Protocol):
    """Makes the machine of a slot that is about to be opened."""

    def __call__(self, control: SlotControl) -> SlotMachine:
        """Return a new machine, empty."""
        ...
