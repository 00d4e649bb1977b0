"""Places: how many handlers run at once in this process, over all its slots.

Free places are offered to the slots in turn. A task that may have killed its process asks to
run alone: then nothing new starts until the process is empty. That wait is bounded, because the
others may run for hours: after `PATIENCE_S` they start again for `REST_S`, and so on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Claimant", "Places", "Seat"]

PATIENCE_S = 30.0
"""For so long nothing new starts while a task waits to run alone."""
REST_S = 30.0
"""For so long others start again when the process did not become empty."""


class Claimant(Protocol):
    """A slot that has tasks to start."""

    def take_place(self) -> bool:
        """Start one task, by `Places.sit`; False when there is none."""
        ...

    def take_alone(self) -> bool:
        """Start one task that must run alone; False when there is none."""
        ...

    def body_ended(self, task: str) -> None:
        """No body of `task` runs in this process any more."""
        ...


@dataclass(eq=False, slots=True)
class Seat:
    """One place that is taken."""

    task: str
    alone: bool
    stuck: bool = False


class Places:
    """All places of one process."""

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self._claimants: deque[Claimant] = deque()
        self.resting = 0
        """How many bodies only wait, without a place."""
        self._seats: dict[Seat, None] = {}
        self._tasks: dict[str, int] = {}
        self._alone: Seat | None = None
        self._alone_wanted: deque[Claimant] = deque()
        self._holding_back = False
        self._timer: asyncio.TimerHandle | None = None
        self._offering = False
        self._again = False

    @property
    def taken(self) -> int:
        """How many places are taken."""
        return len(self._seats)

    @property
    def stuck(self) -> int:
        """How many of them by bodies that outlive their attempts."""
        return sum(seat.stuck for seat in self._seats)

    def busy(self, task: str) -> bool:
        """Tell whether a body of `task` runs in this process."""
        return task in self._tasks

    def join(self, claimant: Claimant) -> None:
        """Let a slot take part."""
        self._claimants.append(claimant)

    def leave(self, claimant: Claimant) -> None:
        """A slot is given up; seats it still holds are freed by `stand_up` as their bodies end."""
        if claimant in self._claimants:
            self._claimants.remove(claimant)
        while claimant in self._alone_wanted:
            self._alone_wanted.remove(claimant)
        if not self._alone_wanted:
            self._stop_holding_back()
        self.offer()

    def sit(self, task: str, *, alone: bool = False) -> Seat:
        """Take a place; called by a claimant that was just offered one."""
        seat = Seat(task, alone)
        self._seats[seat] = None
        self._tasks[task] = self._tasks.get(task, 0) + 1
        if alone:
            self._alone = seat
        return seat

    def stand_up(self, seat: Seat) -> None:
        """Give a place back, once its body has really ended. May be repeated."""
        if seat not in self._seats:
            return
        del self._seats[seat]
        self._tasks[seat.task] -= 1
        if self._alone is seat:
            self._alone = None
        if not self._tasks[seat.task]:
            del self._tasks[seat.task]
            for claimant in self._claimants:
                claimant.body_ended(seat.task)
        self.offer()

    def rest(self, seat: Seat) -> None:
        """Give a place back whose body only waits: it is to `rise`, or to end (`rested`)."""
        self.resting += 1
        self.stand_up(seat)

    def rise(self, task: str) -> Seat:
        """Take a place for a body that rests; as `sit`."""
        self.resting -= 1
        return self.sit(task)

    def rested(self) -> None:
        """A body has ended while it rested."""
        self.resting -= 1

    def share(self, seat: Seat) -> None:
        """A task that ran alone has come further: others may start beside it."""
        if self._alone is seat:
            self._alone = None
            seat.alone = False
            self.offer()

    def want_alone(self, claimant: Claimant) -> None:
        """Let `claimant` start a task alone as soon as the process is empty. May be repeated."""
        if claimant not in self._alone_wanted:
            self._alone_wanted.append(claimant)
            if self._timer is None:
                self._hold_back()
        self.offer()

    def offer(self) -> None:
        """Offer what is free to the slots in turn, until none of them takes a place."""
        self._again = True
        if self._offering:
            return  # a claimant changed something while it was being offered a place
        self._offering = True
        try:
            while self._again:
                self._again = False
                while self._offer_alone() or self._offer_one():
                    pass
        finally:
            self._offering = False

    def _offer_alone(self) -> bool:
        if not self._alone_wanted or self._seats:
            return False
        claimant = self._alone_wanted.popleft()
        taken = claimant.take_alone()
        if not self._alone_wanted:
            self._stop_holding_back()
        return taken or bool(self._alone_wanted)

    def _offer_one(self) -> bool:
        if self._alone is not None or self._holding_back or len(self._seats) >= self.concurrency:
            return False
        for _ in range(len(self._claimants)):
            claimant = self._claimants[0]
            self._claimants.rotate(-1)
            if claimant.take_place():
                return True
        return False

    def _hold_back(self) -> None:
        self._holding_back = True
        self._timer = asyncio.get_running_loop().call_later(PATIENCE_S, self._rest)

    def _rest(self) -> None:
        self._holding_back = False
        self._timer = asyncio.get_running_loop().call_later(REST_S, self._hold_back)
        self.offer()

    def _stop_holding_back(self) -> None:
        self._holding_back = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
