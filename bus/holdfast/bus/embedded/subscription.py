"""A member of a group: its heartbeat, what it owns, and the records of what it owns (see ADR 2)."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_hex

from holdfast.bus.embedded.catalog import Catalog
from holdfast.bus.embedded.commit_thread import CommitThread, Transaction
from holdfast.bus.embedded.members import (
    Joining,
    View,
    evict,
    interest,
    join,
    release,
    seize,
    view,
)
from holdfast.bus.embedded.presence import Presence, boot_ns, read_beat, watch
from holdfast.bus.embedded.settings import EmbeddedSettings
from holdfast.bus.embedded.store import Counter, counter
from holdfast.bus.embedded.tail import LogReader, Tail
from holdfast.bus.embedded.waiting import NewsDesk, Waiter
from holdfast.bus.embedded.wake import Wake
from holdfast.bus.errors import BusError, BusUnavailable
from holdfast.bus.port import AssignmentListener, Received, Slot, TopicPartition

__all__ = ["EmbeddedSubscription", "Place"]

log = logging.getLogger("holdfast.bus.embedded")

LEAVE_S = 2.0
AWAKE_GAP_HEARTBEATS = 4
"""A gap this long between two of its own heartbeats means that this process stood still itself."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a subscription uses of its bus."""

    settings: EmbeddedSettings
    folder: Path
    thread: CommitThread
    db: sqlite3.Connection
    catalog: Catalog
    news: NewsDesk
    has_writer: Callable[[Slot], bool]
    closed: Callable[[EmbeddedSubscription], None]


class EmbeddedSubscription:
    """See `holdfast.bus.port.Subscription`."""

    def __init__(
        self, place: Place, joining: Joining, topics: Sequence[str], listener: AssignmentListener
    ) -> None:
        self.session_timeout_s = joining.session_s
        self._place = place
        self._joining = joining
        self._topics = tuple(topics)
        self._listener = listener
        self._tail = Tail(LogReader(place.db), place.catalog)
        self._records = Waiter()
        self._changes = Waiter(Wake.GROUP)
        self._assigned: frozenset[TopicPartition] = frozenset()
        self._resumed: set[TopicPartition] = set()
        self._group = 0
        self._view: View | None = None
        self._out = False
        self._presence: Presence | None = None
        self._watched: set[str] = set()
        self._gone: set[str] = set()
        self._heartbeat_at = 0.0
        self._beat_due = 0.0
        self._beat_ns = 0
        self._awake_since_ns = 0
        self._failure: BaseException | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    # -- the port --------------------------------------------------------------------------------

    @property
    def heartbeat_at(self) -> float:
        """When the last heartbeat that found this member in its group had been begun."""
        return self._heartbeat_at

    @property
    def failure(self) -> BaseException | None:
        """Why it can never go on, if so."""
        return self._failure or self._place.thread.failure

    async def start(self) -> None:
        """Join. The first assignment is heard of after this has returned."""
        await self._join()
        self._keeper = asyncio.create_task(self._keep(), name=f"member {self._joining.member}")
        self._keeper.add_done_callback(self._keeper_ended)

    async def poll(self, timeout_s: float, max_records: int = 500) -> list[Received]:
        """Return records of resumed partitions; [] when none came in time."""
        deadline = self._loop.time() + timeout_s
        if self._loop.time() - self._heartbeat_at > self.session_timeout_s / 2:
            self._look_again()
        # With a backlog nothing below ever waits: others must get their turn all the same. It comes
        # first, because nothing may come between taking records and handing them out: a seek or
        # a pause in between would leave a gap that no one sees.
        await asyncio.sleep(0)
        while True:
            self._records.look()
            records = self._tail.take(self._resumed, max_records)
            if records:
                return records
            remaining_s = deadline - self._loop.time()
            if remaining_s <= 0:
                return []
            await self._records.wait(remaining_s)

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Hand out nothing of these until resumed."""
        self._resumed.difference_update(partitions)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Hand them out again."""
        self._resumed.update(self._assigned.intersection(partitions))
        self._records.wake()

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Go on at `offset`."""
        if partition in self._assigned:
            self._tail.seek(partition, offset)
            self._records.wake()

    async def close(self) -> None:
        """Leave the group at once."""
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._keeper
        incarnation, group = self._joining.incarnation, self._group
        with suppress(BusError, TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await self._place.thread.transact(
                    lambda transaction: evict(transaction, group, incarnation, boot_ns())
                )
        self._place.news.leave(self._changes)
        self._place.news.leave(self._records)
        if self._presence is not None:
            self._presence.close()
        self._resumed.clear()
        self._place.closed(self)

    def writer_closed(self) -> None:
        """A writer of this bus was closed: what is to be handed over may be free now."""
        if self._view is not None and self._view.leaving:
            self._changes.wake()

    # -- membership ------------------------------------------------------------------------------

    async def _join(self) -> None:
        """Enter (again) as a new incarnation."""
        joining = replace(self._joining, incarnation=token_hex(8))
        presence = Presence(self._place.folder / "members", joining.incarnation)
        begun = self._loop.time()
        try:
            self._group = await self._place.thread.transact(
                lambda transaction: join(transaction, joining, boot_ns())
            )
        except BaseException:
            presence.close()
            raise
        if self._presence is not None:
            self._presence.close()
        self._joining, self._presence = joining, presence
        self._view, self._out = None, False
        self._heartbeat_at = begun
        self._awake_since_ns = self._beat_ns = boot_ns()
        self._place.news.follow(self._changes, {interest(self._group)})

    async def _keep(self) -> None:
        heartbeat_s = self._place.settings.heartbeat_s
        while self._failure is None:
            self._changes.look()
            try:
                self._heartbeat()
                await self._follow_up()
            except (BusUnavailable, sqlite3.Error, OSError) as error:
                # A full disk too: no sign of life is given, and the group draws its conclusions.
                log.warning("member %s: no heartbeat: %s", self._joining.member, error)
            await self._changes.wait(heartbeat_s)

    def _keeper_ended(self, keeper: asyncio.Task[None]) -> None:
        if not keeper.cancelled() and keeper.exception() is not None:
            self._failure = keeper.exception()

    def _look_again(self) -> None:
        """The last heartbeat is old: this process may have stood still for longer than it may."""
        with suppress(sqlite3.Error, OSError):
            self._heartbeat()
        self._changes.wake()

    def _heartbeat(self) -> None:
        """Say that it lives, then ask whether it is still a member: in this order (see ADR 2)."""
        begun = self._loop.time()
        if self._out or self._presence is None:
            return
        if begun >= self._beat_due:
            self._beat()
            self._beat_due = begun + self._place.settings.heartbeat_s / 2
        elif self._view is not None and not self._generation_moved(self._view.generation):
            return
        if self._view is None or self._generation_moved(self._view.generation):
            self._apply(view(self._place.db, self._group, self._joining.member))
        if not self._out:
            self._heartbeat_at = begun

    def _beat(self) -> None:
        assert self._presence is not None
        now_ns = boot_ns()
        gap_s = self._place.settings.heartbeat_s * AWAKE_GAP_HEARTBEATS
        if now_ns - self._beat_ns > gap_s * 1e9:
            self._awake_since_ns = now_ns
        self._beat_ns = now_ns
        self._presence.beat()

    def _generation_moved(self, seen: int) -> bool:
        row_id = counter(Counter.GENERATION, self._group)
        return LogReader(self._place.db).counters([row_id]).get(row_id, 0) != seen

    def _apply(self, seen: View) -> None:
        first = self._view is None
        self._view = seen
        if seen.incarnation != self._joining.incarnation:
            self._leave_behind(seen.incarnation)
            return
        for incarnation, _ in seen.peers.values():
            self._watch(incarnation)
        owned = frozenset(
            TopicPartition(topic, partition) for topic in self._topics for partition in seen.owned
        )
        if first or owned != self._assigned:
            self._assign(owned)

    def _leave_behind(self, successor: str | None) -> None:
        """This member is out: it stood still too long, or another process took its name."""
        self._out = True
        self._assign(frozenset())
        name, group = self._joining.member, self._joining.group
        if successor is None:
            log.warning("member %s of %s was away for too long: it joins again", name, group)
            return
        self._failure = BusUnavailable(
            f"another process has joined {group!r} as {name!r}; two instances of one name cannot "
            "run at once: stop one, or give it another --instance"
        )

    def _assign(self, owned: frozenset[TopicPartition]) -> None:
        self._assigned = owned
        self._tail.clear()
        self._resumed.clear()
        self._listener.assigned(owned)

    def _watch(self, incarnation: str) -> None:
        if incarnation in self._watched:
            return
        self._watched.add(incarnation)

        def gone() -> None:
            # In the watching thread; the loop may have ended long before that member.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._peer_gone, incarnation)

        watch(self._place.folder / "members", incarnation, gone)

    def _peer_gone(self, incarnation: str) -> None:
        self._watched.discard(incarnation)
        self._gone.add(incarnation)
        self._changes.wake()

    # -- what follows from a look: transactions --------------------------------------------------

    async def _follow_up(self) -> None:
        if self._out:
            if self._failure is None:
                await self._join()
                self._heartbeat()
            return
        await self._bury()
        await self._hand_over()
        streams = {self._place.catalog.stream(partition) for partition in self._assigned}
        if streams != self._records.interests:
            self._place.news.follow(self._records, streams)

    async def _bury(self) -> None:
        """Take out who is dead, and who stands still for longer than its session time-out."""
        if self._view is None:
            return
        gone, self._gone = self._gone, set()
        for incarnation, session_s in self._view.peers.values():
            if incarnation in gone:
                await self._evict(incarnation, None)
            elif self._stands_still(incarnation, session_s):
                await self._evict(incarnation, session_s)

    def _stands_still(self, incarnation: str, session_s: float) -> bool:
        beat_ns = read_beat(self._place.folder / "members", incarnation)
        # After the machine has slept all clocks are old: count from when this process woke.
        since_ns = max(beat_ns or 0, self._awake_since_ns)
        return boot_ns() - since_ns >= session_s * 1e9

    async def _evict(self, incarnation: str, session_s: float | None) -> None:
        def run(transaction: Transaction) -> bool:
            # Once more inside the transaction: a beat since the first look proves it alive.
            if session_s is not None and not self._stands_still(incarnation, session_s):
                return False
            return evict(transaction, self._group, incarnation, boot_ns())

        if await self._place.thread.transact(run):
            log.info("member %s of %s is gone", incarnation, self._joining.group)

    async def _hand_over(self) -> None:
        seen = self._view
        if seen is None:
            return
        group, member, thread = self._group, self._joining.member, self._place.thread
        free = frozenset(
            partition
            for partition in seen.leaving
            if not self._place.has_writer(Slot(self._joining.group, partition))
        )
        if free:
            await thread.transact(lambda transaction: release(transaction, group, member, free))
        before_ns = boot_ns() - int(self._place.settings.hand_over_s * 1e9)
        if any(since_ns < before_ns for since_ns in seen.coming.values()):
            await thread.transact(lambda transaction: seize(transaction, group, member, before_ns))
