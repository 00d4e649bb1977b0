"""Readers that wait, and what wakes them: a commit of this process, or a byte from another one.

Subscribe, then read, then wait, at most half a second: a commit between the subscription and the
read is seen by the read, a later one wakes.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Collection
from functools import partial

from holdfast.bus.embedded.commit_thread import Transaction
from holdfast.bus.embedded.wake import Wake
from holdfast.bus.errors import BusUnavailable

__all__ = ["NewsDesk", "Waiter"]

WAIT_S_MAX = 0.5
"""A wake-up may be lost (a full queue, a new listener): everyone looks this often by himself."""


class Waiter:
    """One reader that can wait. `interests`: its streams (negative: the group of that number)."""

    def __init__(self, kind: Wake = Wake.RECORDS) -> None:
        self.kind = kind
        self.interests: frozenset[int] = frozenset()
        self._news = False
        self._future: asyncio.Future[None] | None = None

    def look(self) -> None:
        """The reader is about to read: news from now on is new."""
        self._news = False

    def wake(self) -> None:
        """There may be something to read."""
        self._news = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def wait(self, timeout_s: float) -> None:
        """Return when woken since `look`, or after the time-out, or after `WAIT_S_MAX`."""
        if self._news or timeout_s <= 0:
            return
        loop = asyncio.get_running_loop()
        self._future = loop.create_future()
        timer = loop.call_later(min(timeout_s, WAIT_S_MAX), self.wake)
        try:
            await self._future
        finally:
            timer.cancel()
            self._future = None


class NewsDesk:
    """All waiters of one bus, and what its socket is listed for in the file.

    Listing is a transaction; it is done behind: a reader reads at once, and is woken once listed.
    """

    def __init__(
        self, socket_name: str, transact: Callable[[Callable[[Transaction], None]], Awaitable[None]]
    ) -> None:
        self._socket_name = socket_name
        self._transact = transact
        self._waiters: set[Waiter] = set()
        self._wanted: Tally[int] = Tally()
        self._listed: frozenset[int] = frozenset()
        self._listing: asyncio.Task[None] | None = None

    def follow(self, waiter: Waiter, interests: Collection[int]) -> None:
        """Let `waiter` hear of these, and of nothing else, from now on."""
        self._waiters.add(waiter)
        self._wanted.subtract(waiter.interests)
        waiter.interests = frozenset(interests)
        self._wanted.update(waiter.interests)
        if self._listing is None or self._listing.done():
            self._listing = asyncio.create_task(self._list(), name="bus listeners")

    def leave(self, waiter: Waiter) -> None:
        """Hear of nothing any more."""
        self.follow(waiter, ())
        self._waiters.discard(waiter)

    def committed(self, interests: set[int]) -> None:
        """A commit of this process is visible."""
        for waiter in self._waiters:
            if not waiter.interests.isdisjoint(interests):
                waiter.wake()

    def woken(self, kinds: Collection[Wake]) -> None:
        """Another process has sent a byte: it does not say which reader it is for."""
        for waiter in self._waiters:
            if waiter.kind in kinds:
                waiter.wake()

    async def close(self) -> None:
        """Take the socket out of the list."""
        if self._listing is not None:
            self._listing.cancel()
            await asyncio.gather(self._listing, return_exceptions=True)
        await self._transact(lambda transaction: _enlist(transaction, self._socket_name, (), None))

    async def _list(self) -> None:
        while (wanted := self._interests()) != self._listed:
            more, less = wanted - self._listed, self._listed - wanted
            try:
                await self._transact(partial(_enlist, name=self._socket_name, more=more, less=less))
            except BusUnavailable:
                # Until then the waiters look by themselves, twice a second.
                await asyncio.sleep(WAIT_S_MAX)
                continue
            self._listed = wanted
            for waiter in self._waiters:
                waiter.wake()

    def _interests(self) -> frozenset[int]:
        return frozenset(interest for interest, count in self._wanted.items() if count > 0)


def _enlist(
    transaction: Transaction, name: str, more: Collection[int], less: Collection[int] | None
) -> None:
    """Add and remove interests of a socket; `less` None: all of them."""
    db = transaction.db
    if less is None:
        db.execute("DELETE FROM listeners WHERE socket = ?", (name,))
    for interest in less or ():
        db.execute("DELETE FROM listeners WHERE socket = ? AND interest = ?", (name, interest))
    for interest in more:
        db.execute("REPLACE INTO listeners VALUES (?, ?)", (name, interest))
    transaction.listeners_changed = True
