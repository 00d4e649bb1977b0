"""Which slots this member owns: what the group assigned, and what became of it.

Who holds the epoch is the owner; the group's assignment is load balancing only. Two members that
both believe they own a slot cost time, never correctness: opening fences.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from holdfast.bus.errors import Fenced
from holdfast.bus.port import Slot, Subscription, TopicPartition
from holdfast.bus.slot.slot import OwnedSlot, SlotContext
from holdfast.bus.slot.states import SlotState

__all__ = ["Ownership"]

logger = logging.getLogger(__name__)

HEARTBEAT_CHECK_S = 0.05
"""How often a slot that waits for an acknowledged heartbeat looks for it."""
STOP_S = 10.0
"""How long a stop waits for slots that are given up, each bounded by itself, to close."""
STOPPED_SHARE = 0.5
"""A loop gap longer than this share of the session time-out ends the process."""


class Ownership:
    """The slots of one member; hears assignments (`AssignmentListener`), answers `Membership`."""

    def __init__(
        self, group: str, context: SlotContext, on_failure: Callable[[BaseException], None]
    ) -> None:
        self._group = group
        self._context = context
        self._environment = context.environment
        self._on_failure = on_failure
        self._subscription: Subscription | None = None
        self._assigned: frozenset[int] = frozenset()
        self._slots: dict[int, OwnedSlot] = {}
        self._lives: dict[int, asyncio.Task[None]] = {}
        self._beat_at = self._environment.monotonic()
        self._draining = False
        self._stopping = False
        self._settled = asyncio.Event()  # cleared while the group negotiates who owns what
        self._settled.set()

    def attach(self, subscription: Subscription) -> None:
        """Start on what was assigned while `subscribe` was still under way."""
        self._subscription = subscription
        self._reconcile()

    # --- AssignmentListener --------------------------------------------------------------------

    def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """See `AssignmentListener`."""
        numbers: dict[int, set[str]] = {}
        for topic, partition in partitions:
            numbers.setdefault(partition, set()).add(topic)
        wanted = set(self._context.topics)
        torn = sorted(number for number, topics in numbers.items() if topics != wanted)
        if torn:
            # Equal partition counts and one assignor make this impossible; a foreign member of
            # the group with another subscription can still bring it about.
            self._on_failure(
                RuntimeError(
                    f"group {self._group}: partitions {torn} were assigned without all of "
                    f"{sorted(wanted)}: another program with another subscription uses this group"
                )
            )
            return
        self._assigned = frozenset(numbers)
        self._settled.set()
        self._reconcile()

    def revoked(self) -> None:
        """See `AssignmentListener`: slots work on until the next assignment tells.

        But they begin nothing. From now on another member may hear that a slot is its own before
        this one hears that it has lost it, and work all that lies there in between.
        """
        self._settled.clear()

    # --- Membership ----------------------------------------------------------------------------

    @property
    def session_timeout_s(self) -> float:
        """See `Membership`."""
        assert self._subscription is not None
        return self._subscription.session_timeout_s

    def owns(self, slot: Slot) -> bool:
        """See `Membership`."""
        return slot.partition in self._assigned and not self._stopping

    async def confirmed_since(self, slot: Slot, moment: float) -> None:
        """See `Membership`."""
        assert self._subscription is not None
        await self._settled.wait()
        while self.owns(slot) and self._subscription.heartbeat_at <= moment:
            await asyncio.sleep(HEARTBEAT_CHECK_S)
            await self._settled.wait()
        if not self.owns(slot):
            raise Fenced(f"slot {slot.group}/{slot.partition} is assigned elsewhere")

    def beat(self) -> None:
        """End the process if the loop stood still too long; called often, and before each commit.

        A process that was stopped (SIGSTOP, a suspended machine, a starved container) may have
        lost everything meanwhile without having heard of it. What it believes is worth nothing.
        """
        now = self._environment.monotonic()
        gap_s, self._beat_at = now - self._beat_at, now
        if self._subscription is None or self._stopping:
            return
        if gap_s > self._subscription.session_timeout_s * STOPPED_SHARE:
            self._environment.die(
                f"this process stood still for {gap_s:.1f} s, more than half of the session "
                f"time-out ({self._subscription.session_timeout_s:g} s): ending it, so that it "
                "starts again from the journal"
            )

    # --- for the host --------------------------------------------------------------------------

    @property
    def slots(self) -> Iterable[OwnedSlot]:
        """The slots that live in this process now."""
        return tuple(self._slots.values())

    def slot(self, partition: int) -> OwnedSlot | None:
        """Return the slot of this partition number, if it lives here."""
        return self._slots.get(partition)

    def quiesce(self) -> None:
        """A stop was asked for: no slot begins any more, those at work start nothing new."""
        self._draining = True
        for slot in self.slots:
            slot.quiesce()

    async def stop(self) -> None:
        """Give up every slot, each with a last commit where it is still possible; bounded."""
        self._draining = True
        for slot in self.slots:
            slot.leave()
        if self._lives:
            # They own their slots until they have closed: a last commit may have to be settled.
            _, late = await asyncio.wait(self._lives.values(), timeout=STOP_S)
            for life in late:
                life.cancel()
            if late:
                logger.warning("group %s: %d slots did not close in time", self._group, len(late))
                await asyncio.wait(late, timeout=STOP_S)
        self._stopping = True

    async def kill(self) -> None:
        """Drop everything without a word, as a crash would."""
        self._draining = self._stopping = True
        for life in self._lives.values():
            life.cancel()
        await asyncio.gather(*self._lives.values(), return_exceptions=True)

    def _reconcile(self) -> None:
        if self._subscription is None or self._stopping:
            return
        for number, slot in self._slots.items():
            if number in self._assigned:
                slot.keep()
            else:
                slot.leave()
        if self._draining:
            return
        for number in sorted(self._assigned - self._slots.keys()):
            self._begin(number)

    def _begin(self, number: int) -> None:
        assert self._subscription is not None
        slot = OwnedSlot(Slot(self._group, number), self._context, self._subscription, self)
        self._slots[number] = slot
        life = asyncio.create_task(slot.live(), name=f"slot {self._group}/{number}")
        self._lives[number] = life
        life.add_done_callback(lambda done: self._ended(number, done))

    def _ended(self, number: int, life: asyncio.Task[None]) -> None:
        del self._slots[number], self._lives[number]
        if not life.cancelled() and (error := life.exception()) is not None:
            self._on_failure(error)
        elif number in self._assigned and not self._draining:
            # Taken away and given back while the slot was leaving: begin anew.
            self._begin(number)

    def running(self) -> int:
        """Return how many slots are restored and at work."""
        return sum(slot.state is SlotState.RUNNING for slot in self._slots.values())
