"""What the harness sees of a torture while it goes on, from the bus alone.

Which runs have ended, which process works in which slot, and when a slot that had lost its process
made progress again. Everything is fed in by `take`, record by record as it is read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from holdfast.bus.port import Bus, Received, TopicPartition
from holdfast.bus.topics import COORDINATOR_GROUP, Topics
from holdfast.schemas.codec import decode
from holdfast.schemas.errors import HoldfastError
from holdfast.schemas.records import Event, EventType, SlotOffset
from holdfast.testing import Recorder

__all__ = ["Recovery", "Slot", "ToldRecorder", "Watch"]

ENDS = frozenset(
    {
        EventType.RUN_SUCCEEDED,
        EventType.RUN_FAILED,
        EventType.RUN_CANCELLED,
        EventType.RUN_REFUSED,
    }
)
Slot = tuple[str, int]
"""Journal topic and partition."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who committed last in a slot."""

    instance: str
    process_id: str


@dataclass(eq=False)
class Recovery:
    """The slots that a fault has hit, until each has made progress.

    `waiting`: slot to the process whose commits do not count; "": everybody's do. `instance`:
    instead, the next commit of an instance, in whatever slot.
    """

    at: float
    waiting: dict[Slot, str]
    hit: int
    instance: str = ""
    recovered_at: float | None = None
    last_at: float | None = None
    """When the last slot so far made progress."""
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def committed(self, slot: Slot, owner: Owner, at: float) -> bool:
        """Hear of a commit; tell whether that was all."""
        if self.instance:
            return owner.instance == self.instance
        lost = self.waiting.get(slot)
        if lost is None or lost == owner.process_id:
            return False
        del self.waiting[slot]
        self.last_at = at
        return not self.waiting

    @property
    def seconds_so_far(self) -> float | None:
        """From the fault to the last progress so far; None without any."""
        return None if self.last_at is None else self.last_at - self.at

    @property
    def seconds(self) -> float | None:
        """From the fault to the last of its slots' first progress; None: nothing was hit, or it
        has not come yet."""
        if self.recovered_at is None or not self.hit:
            return None
        return self.recovered_at - self.at


class Watch:
    """Hears every record of the namespace in order, partition by partition."""

    def __init__(self, topics: Topics, clock: Callable[[], float] = time.monotonic) -> None:
        self._topics = topics
        self._clock = clock
        self._journals = topics.journal("x")[:-1]
        self._recoveries: list[Recovery] = []
        self._runs: dict[str, Recovery] = {}
        self._heads: dict[TopicPartition, int] = {}
        self._consumed: dict[TopicPartition, int] = {}
        self.owners: dict[Slot, Owner] = {}
        self.ended: dict[str, EventType] = {}
        self.succeeded_tasks = 0
        self.dead_letters = 0
        self.moved_at = clock()
        """When something was seen last."""
        self.news = asyncio.Event()
        """Set when a run has ended; whoever waits for it clears it."""

    def take(self, received: Received) -> None:
        """Hear of a record."""
        self.moved_at = self._clock()
        self._heads[TopicPartition(received.topic, received.partition)] = received.offset + 1
        if received.topic == self._topics.events:
            self._event(received)
        elif received.topic.startswith(self._journals) and received.key == b"offset":
            self._offset(received)
        elif received.topic == self._topics.dead_letters:
            self.dead_letters += 1

    def recovering(self, instance: str, at: float) -> Recovery:
        """Note that what `instance` owns right now lost its process at `at` (monotonic)."""
        waiting = {
            slot: owner.process_id
            for slot, owner in self.owners.items()
            if owner.instance == instance
        }
        return self._waiting(at, waiting)

    def progress(self, slots: Iterable[Slot], at: float) -> Recovery:
        """Wait for a commit in each of these slots, by whomever."""
        return self._waiting(at, dict.fromkeys(slots, ""))

    def return_of(self, instance: str, at: float) -> Recovery:
        """Wait for the next commit of an instance."""
        recovery = Recovery(at, {}, 1, instance)
        self._recoveries.append(recovery)
        return recovery

    def end_of(self, run_id: str, at: float) -> Recovery:
        """Wait for the end of a run."""
        recovery = Recovery(at, {}, 1)
        if run_id in self.ended:
            self._settle(recovery)
        else:
            self._runs[run_id] = recovery
        return recovery

    def _settle(self, recovery: Recovery) -> None:
        recovery.recovered_at = self._clock()
        recovery.done.set()

    def slots_of(self, group: str) -> list[Slot]:
        """Return the slots of a group (without the namespace) in which something was committed."""
        topic = self._topics.journal(group)
        return [slot for slot in self.owners if slot[0] == topic]

    def _waiting(self, at: float, waiting: dict[Slot, str]) -> Recovery:
        recovery = Recovery(at, waiting, len(waiting))
        if waiting:
            self._recoveries.append(recovery)
        else:
            recovery.recovered_at = at
            recovery.done.set()
        return recovery

    def give_up(self, recovery: Recovery) -> None:
        """Wait for it no longer."""
        if recovery in self._recoveries:
            self._recoveries.remove(recovery)

    def lagging(self, slots: Iterable[Slot]) -> list[Slot]:
        """Return those of `slots` that have a record to read. Not asked of the broker, whose lag
        counts the markers of transactions too."""
        return [slot for slot in slots if self._lags(*slot)]

    def _lags(self, journal: str, partition: int) -> bool:
        group = journal.removeprefix(self._journals)
        names = [self._topics.tasks(group), self._topics.control(group)]
        if group == COORDINATOR_GROUP:
            names = [self._topics.coordinator]
        places = [TopicPartition(name, partition) for name in names]
        return any(self._heads.get(at, 0) > self._consumed.get(at, 0) for at in places)

    def _event(self, received: Received) -> None:
        if received.value is None:
            return
        try:
            event = decode(Event, received.value)
        except HoldfastError:
            return  # the judge tells of it
        if event.type in ENDS and event.run_id not in self.ended:
            self.ended[event.run_id] = event.type
            self.news.set()
            if (recovery := self._runs.pop(event.run_id, None)) is not None:
                self._settle(recovery)
        elif event.type is EventType.TASK_SUCCEEDED:
            self.succeeded_tasks += 1

    def _offset(self, received: Received) -> None:
        if received.value is None:
            return
        slot = (received.topic, received.partition)
        entry = decode(SlotOffset, received.value)
        self.owners[slot] = Owner(entry.instance, entry.process_id)
        for consumed in entry.offsets:
            self._consumed[TopicPartition(consumed.topic, slot[1])] = consumed.offset
        for recovery in list(self._recoveries):
            if recovery.committed(slot, self.owners[slot], self._clock()):
                self._settle(recovery)
                self._recoveries.remove(recovery)


class ToldRecorder(Recorder):
    """A recorder that tells a `Watch` of each record, once, as it is read."""

    def __init__(self, bus: Bus, namespace: str, watch: Watch) -> None:
        super().__init__(bus, namespace)
        self._watch_of = watch
        self._told: dict[TopicPartition, int] = {}

    def take(self, batch: Iterable[Received]) -> None:
        """See `Recorder`."""
        records = list(batch)
        super().take(records)
        for received in records:
            partition = TopicPartition(received.topic, received.partition)
            if received.offset > self._told.get(partition, -1):
                self._told[partition] = received.offset
                self._watch_of.take(received)
