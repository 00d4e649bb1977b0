"""The machine in a coordinator's slot: hosts the entities, runs the engine, commits what follows.

    receive -> lanes -> collect: a batch of inputs on an overlay -> one commit -> apply -> lanes ...

Commit precedes apply: the next batch starts when this one's commit is acknowledged. Timers, and
work that did not fit into one event, come back as inputs of the same lanes.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence

from holdfast.bus.errors import Rejected
from holdfast.bus.port import Received, Record
from holdfast.bus.slot.intake import Intake
from holdfast.bus.slot.machine import Change, Commit, Opened, SlotControl
from holdfast.coordinator import metrics
from holdfast.coordinator.batch import Batch, Pending, Slotted
from holdfast.coordinator.clock import SteadyClock
from holdfast.coordinator.engine import (
    CLOSED_KIND,
    Arrival,
    Broken,
    Continuation,
    Effect,
    Engine,
    Eviction,
    Overlay,
    Report,
    State,
    Values,
    eviction_due_ms,
)
from holdfast.coordinator.lanes import Lanes
from holdfast.coordinator.lookup import Lookup
from holdfast.coordinator.needs import Needs
from holdfast.coordinator.observing import SlotGauges, observe
from holdfast.coordinator.ports import CoordinatorContext
from holdfast.coordinator.reading import Unreadable, read
from holdfast.coordinator.restoring import PARKED_PREFIX, Restoring
from holdfast.coordinator.timers import Timers
from holdfast.coordinator.writing import Writing
from holdfast.schemas.documents import DocumentCodec
from holdfast.schemas.records import RunEntry

__all__ = ["CoordinatorMachine"]

logger = logging.getLogger(__name__)

VISITS = 128
"""Restored entities looked at in one batch: some milliseconds, so that the loop stays alive."""
UNFOLDED_RECORDS = 1_000
"""And of their records, by those visits and by the inputs of one batch: once so many were decoded
the rest waits. Runs may have thousands of tasks each, and a loop that stands still for seconds ends
the process, and the next one, for ever."""
OWN_LANE = "\0closed"
"""The lane of what belongs to no record key."""


class CoordinatorMachine:
    """Implements `holdfast.bus.slot.SlotMachine`."""

    def __init__(self, control: SlotControl, context: CoordinatorContext) -> None:
        self._control = control
        self._context = context
        self._settings = context.settings
        self._limits = context.settings.limits()
        self._partition = control.slot.partition
        self._topic = context.topics.coordinator
        self._writing = Writing(context.topics, self._partition)
        self._slotted = Slotted(control.check, control.journal)
        self._values = Values(DocumentCodec(context.schemas.known))
        self._engine = Engine(self._limits, self._values, context.graphs)
        self._needs = Needs(
            context.environment,
            self._values,
            context.blobs,
            context.schemas,
            self._settings.schema_wait_s,
            self._ready,
        )
        self._lookup = Lookup(context.agents, context.schemas, self._settings.schema_wait_s)
        self._restoring = Restoring(context.graphs)
        self._state = self._restoring.state
        self._timers = Timers()
        self._lanes = Lanes()
        self._gauges = SlotGauges(self._partition)
        self._continuing: set[str] = set()
        self._unvisited: deque[str] = deque()
        """Restored entities that may have been left with work; looked at a few at a time."""
        self._clock: SteadyClock | None = None
        self._intake: Intake | None = None
        self._stopping = False
        self.owned = False
        """Whether the slot is restored and this machine works in it."""

    @property
    def state(self) -> State:
        """What is committed; not to be changed."""
        return self._state

    # --- SlotMachine: restoring ----------------------------------------------------------------

    def restore(self, key: str, value: bytes | None) -> None:
        """See `SlotMachine`."""
        self._restoring.take(key, value)

    def opened(self, opened: Opened) -> None:
        """Look after every entity, a few at a time: what was left undone is in its state."""
        environment = self._context.environment
        self._clock = SteadyClock(environment.now_ms, environment.monotonic, opened.told_ms)
        self._intake = Intake({self._topic: opened.positions[self._topic]})
        for entity in self._state.entities:
            self._unvisited.append(entity)
        self._arm_eviction()
        self._measure()
        self._take_up_parked()
        self.owned = True

    def _take_up_parked(self) -> None:
        """What waited when the slot was lost waits again, before all that is read anew."""
        for offset, parked in self._restoring.parked():
            headers = tuple((header.name, header.value) for header in parked.headers)
            received = Received(
                self._topic,
                self._partition,
                offset,
                parked.key,
                parked.value,
                headers,
                parked.timestamp_ms,
            )
            pending = self._pending(received)
            self._unpark_with(pending, f"{PARKED_PREFIX}{offset}")
            self._lanes.append(pending)

    # --- SlotMachine: working ------------------------------------------------------------------

    def receive(self, records: Sequence[Received]) -> None:
        """See `SlotMachine`."""
        assert self._intake is not None, "opened() comes first"
        for received in records:
            if self._intake.read(received.topic, received.offset):
                self._lanes.append(self._pending(received))

    def due(self, now_ms: int) -> int | None:
        """See `SlotMachine`; the time of the slot is this machine's own, see `SteadyClock`."""
        del now_ms
        clock = self._time()
        for due in self._timers.pop_due(clock.now_ms()):
            if due.entity == f"{CLOSED_KIND}/":
                self._lanes.append(Pending(OWN_LANE, Eviction()))
            else:
                self._lanes.append(Pending(self._lane_of(due.entity), due))
        # To come back at once, by way of the event loop: others get their turn in between.
        next_ms = clock.now_ms() if self._unvisited else self._timers.next_ms()
        return None if next_ms is None else clock.wall_of(next_ms)

    def collect(self, now_ms: int) -> Commit | None:
        """See `SlotMachine`."""
        del now_ms
        while (batch := self._batch()).taken:
            moved = [p.offset for p in batch.taken if p.offset is not None]
            batch.finish(self._park_before(max(moved)) if moved else ())
            if batch.records or moved:
                return Commit([self._change(batch)], self._offsets(moved), batch.now_ms)
            # Timers and continuations that found nothing to do: no need to write that down.
            self._apply(batch)
            if self._unvisited:
                break
        return None

    def _visit(self, entity: str) -> None:
        """Arm the timers of a restored entity, and go on with what it was about."""
        for name, value in self._state.entity(entity).records.items():
            self._timers.set(entity, name, getattr(value, "timer_ms", None))
        self._continue(entity)

    def _batch(self) -> Batch:
        unfolded_max = self._state.unfolded + UNFOLDED_RECORDS
        for _ in range(min(VISITS, len(self._unvisited))):
            self._visit(self._unvisited.popleft())
            if self._state.unfolded >= unfolded_max:
                break
        now_ms = self._time().now_ms()
        batch = Batch(self._engine, self._state, self._writing, self._slotted, now_ms)
        settings, tried = self._settings, False
        while (
            len(batch.taken) < settings.batch_inputs
            and len(batch.records) < settings.batch_records
            # One always, lest inputs wait until all was visited.
            and (self._state.unfolded < unfolded_max or not tried)
            and (pending := self._lanes.pop()) is not None
        ):
            tried = True
            if pending.doubtful:
                self._look_again(pending)
                continue
            if isinstance(pending.input, Continuation):
                self._continuing.discard(pending.input.entity)
            if needs := batch.take(pending):
                self._lanes.block(pending)
                self._needs.meet(pending, needs)
        return batch

    def congested(self) -> frozenset[str]:
        """See `SlotMachine`."""
        waiting = len(self._lanes) + self._lanes.parked()
        return frozenset({self._topic}) if waiting > self._settings.queue_inputs else frozenset()

    def idle(self) -> bool:
        """See `SlotMachine`. What waits for a store is read again by the next owner."""
        return len(self._lanes) == 0

    def quiesce(self) -> None:
        """See `SlotMachine`. Work that is cut into events goes on at the next owner."""
        self._stopping = True

    def abandon(self) -> None:
        """See `SlotMachine`."""
        self._stopping = True
        self._needs.cancel()

    def lost(self) -> None:
        """See `SlotMachine`."""
        self.owned = False
        self._needs.cancel()
        self._gauges.clear()

    # --- inputs --------------------------------------------------------------------------------

    def _time(self) -> SteadyClock:
        assert self._clock is not None, "opened() comes first"
        return self._clock

    def _pending(self, received: Received) -> Pending:
        offset = received.offset
        forwarded = self._control.misplaced(received)
        if forwarded is not None:
            return Pending(OWN_LANE, None, offset, (forwarded,))
        found = read(received, self._context.events.lower_bound(self._partition))
        if isinstance(found, Arrival):
            found = self._lookup.at_once(found)
            doubtful = found.problem is not None
            return Pending(found.record_key, found, offset, (), received, doubtful)
        return self._unreadable(found, received)

    def _look_again(self, pending: Pending) -> None:
        """An agent that was just started may be known to the client, and not yet here."""
        pending.doubtful = False
        self._lanes.block(pending)

        async def check() -> None:
            if isinstance(pending.input, Arrival):
                pending.input = await self._lookup.again(pending.input)

        self._needs.recheck(pending, check)

    def _unreadable(self, found: Unreadable, received: Received) -> Pending:
        logger.error("%s cannot be read; it goes to the dead letters", received.position)
        metrics.DEAD_LETTERS.labels(found.letter.letter.reason).inc()
        record = self._writing.dead_letter(found.letter)
        try:
            self._control.check(record)
        except Rejected:
            # It was as large as the bus takes, and is larger in its envelope: its place and hash.
            source = found.letter.letter.source
            assert source is not None, "it came from a record"
            source.key = source.value = None
            source.headers = []
            record = self._writing.dead_letter(found.letter)
        arrival = found.arrival
        lane = OWN_LANE if arrival is None else arrival.record_key
        reports = tuple(each for each in found.answers if isinstance(each, Report))
        others = [each for each in found.answers if not isinstance(each, Report)]
        records = (record, *self._sendable(others))
        return Pending(lane, arrival, received.offset, records, received, reports=reports)

    def _sendable(self, effects: Sequence[Effect]) -> list[Record]:
        """Return the records of answers; what the bus does not take is left out: what they say is
        made of headers that anybody can write."""
        records = []
        for effect in effects:
            record = self._writing.effect(effect)
            try:
                self._control.check(record)
            except Rejected as error:
                logger.warning("an answer is left out: %s", error)
                continue
            records.append(record)
        return records

    def _lane_of(self, entity: str) -> str:
        entry = self._state.entity(entity).get("")
        return entry.reply_key if isinstance(entry, RunEntry) else entity

    def _continue(self, entity: str) -> None:
        if entity not in self._continuing and not self._stopping:
            self._continuing.add(entity)
            self._lanes.append(Pending(self._lane_of(entity), Continuation(entity)))

    def _ready(self, pending: Pending, reason: str | None) -> None:
        if reason is not None and pending.input is not None:
            arrival = pending.input if isinstance(pending.input, Arrival) else None
            pending.input = Broken(pending.input.entity, arrival, reason)
        self._lanes.free(pending.lane)
        self._control.wake()

    # --- commits -------------------------------------------------------------------------------

    def _offsets(self, moved: Sequence[int]) -> dict[str, int]:
        assert self._intake is not None, "opened() comes first"
        for offset in moved:
            self._intake.finish(self._topic, offset)
        return self._intake.advance()

    def _park_before(self, offset: int) -> list[Record]:
        """Journal the records before `offset` that have to wait, so that the offset can pass them.

        Else a crash would bring back, with them, all that was done with since.
        """
        assert self._intake is not None, "opened() comes first"
        records = []
        for pending in self._lanes.waiting():
            if pending.offset is None or pending.offset > offset or pending.received is None:
                continue
            key = f"{PARKED_PREFIX}{pending.offset}"
            record = self._control.journal(key, self._writing.parked(pending.received))
            try:
                self._control.check(record)
            except Rejected:
                # As large as a record can be: the offset waits with it.
                continue
            records.append(record)
            self._intake.finish(self._topic, pending.offset)
            self._unpark_with(pending, key)
        return records

    def _unpark_with(self, pending: Pending, key: str) -> None:
        pending.offset = None
        pending.records = (*pending.records, self._control.journal(key, None))

    def _change(self, batch: Batch) -> Change:
        return Change(
            batch.records, lambda: self._apply(batch), lambda error: self._refused(batch, error)
        )

    def _refused(self, batch: Batch, error: Rejected) -> Change:
        batch.refuse(error)
        return self._change(batch)

    def _apply(self, batch: Batch) -> None:
        batch.view.apply()
        for entity, overlay in batch.view.overlays.items():
            self._arm(entity, overlay)
            if entity not in self._state.entities:
                self._continuing.discard(entity)
        for entity in batch.unfinished:
            if entity == f"{CLOSED_KIND}/":
                self._lanes.append(Pending(OWN_LANE, Eviction()))
            else:
                self._continue(entity)
        for pending in batch.taken:
            self._needs.forget(pending)
        if batch.view.markers:
            self._arm_eviction()
        observe(batch)
        self._measure()

    def _arm(self, entity: str, overlay: Overlay) -> None:
        for name, value in overlay.changes.items():
            self._timers.set(entity, name, getattr(value, "timer_ms", None))

    def _arm_eviction(self) -> None:
        at_ms = eviction_due_ms(self._state.closed, self._limits)
        self._timers.set(f"{CLOSED_KIND}/", "", at_ms)

    def _measure(self) -> None:
        self._gauges.measure(self._state, len(self._timers), self._lanes.parked())
