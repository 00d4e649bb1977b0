"""A source in a slot: submissions of runs, in the commit that moves the offset past their records.

    topic   -> queue -> starter (one record at a time) -> settled -> collect -> Change -> apply
    control -> ended runs -------------------------------> settled

Implements `holdfast.bus.slot.SlotMachine`. How many of its runs have not ended is state of the
slot: it grows in the commit of a submission and falls in the one that passes the coordinator's word
of an end, so that it is exact over every crash.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.bus.errors import Rejected
from holdfast.bus.port import Received, Record
from holdfast.bus.slot.machine import Change, Commit, Opened, SlotControl
from holdfast.schemas.codec import decode, encode
from holdfast.schemas.errors import Undecodable
from holdfast.schemas.records import FailureKind, RunEnded, SourceJournal
from holdfast.sources.definition import Source
from holdfast.sources.metrics import Outcome, Pause, SourceMetrics
from holdfast.sources.starting import RunStarter, Settled, SourceTools
from holdfast.sources.wire import Refusal, SourceTopics, SourceWire

__all__ = ["SourceMachine", "SourceSetup"]

logger = logging.getLogger(__name__)

OPEN_KEY = "open"
QUEUE_RECORDS = 500
QUEUE_BYTES = 16 * 1024 * 1024
"""Records that were read and are not settled; beyond either the topic pauses."""
CHANGE_INPUTS = 400
"""Records that one change settles: it stands or falls as a whole, and holds at most 500."""
BREATH = 32
"""After so many records others get their turn on the event loop."""


@dataclass(frozen=True, slots=True)
class SourceSetup:
    """What all slots of one source process share. `max_open`: of runs, in one slot."""

    source: Source[Any]
    tools: SourceTools
    topics: SourceTopics
    wire: SourceWire
    metrics: SourceMetrics
    max_open: int


@dataclass(slots=True, eq=False)
class _Ended:
    """A run of this slot has ended; `records`: the dead letter of a word that cannot be read."""

    received: Received
    runs: int
    records: tuple[Record, ...] = ()


class SourceMachine:
    """One slot of a source; see `SlotMachine` for what each method promises."""

    def __init__(self, setup: SourceSetup, control: SlotControl) -> None:
        self._setup = setup
        self._control = control
        self._starter = RunStarter(setup.source, setup.tools, setup.wire, self, control.check)
        self._queue: deque[Received] = deque()
        self._queue_bytes = 0
        self._settled: deque[Settled | _Ended] = deque()
        self._submitted = 0
        """Submissions among what is settled, those of the commit under way too."""
        self._open = 0
        """Runs that have not ended, as the journal has it."""
        self._read: dict[str, int] = {}
        self._news = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._gauge = setup.metrics.open_runs(control.slot.partition)
        self._paused: Pause | None = None
        self._stopping = False

    @property
    def open_runs(self) -> int:
        """How many runs of this slot have not ended, as far as is committed."""
        return self._open

    # --- SlotMachine ---------------------------------------------------------------------------

    def restore(self, key: str, value: bytes | None) -> None:
        """See `SlotMachine`. Raises `Undecodable` for a journal that this build cannot read."""
        if key != OPEN_KEY:
            raise Undecodable(f"the journal of a source has no key {key!r}")
        self._open = 0 if value is None else decode(SourceJournal, value).open_runs

    def opened(self, opened: Opened) -> None:
        """See `SlotMachine`."""
        self._read = dict(opened.positions)
        self._gauge.set(self._open)
        self._worker = asyncio.create_task(self._work(), name=f"source slot {self._control.slot}")
        self._worker.add_done_callback(self._worker_ended)

    def receive(self, records: Sequence[Received]) -> None:
        """See `SlotMachine`. The topic is not ours: wherever a record stands, it stands right."""
        for received in records:
            if received.offset < self._read[received.topic]:
                continue  # read again after a rebalance
            self._read[received.topic] = received.offset + 1
            if received.topic == self._setup.topics.control:
                self._settled.append(self._ended(received))
            elif not self._stopping:
                self._setup.metrics.read.inc()
                self._queue.append(received)
                self._queue_bytes += len(received.value or b"")
        self._news.set()

    def due(self, now_ms: int) -> int | None:
        """See `SlotMachine`: a source acts on records alone."""
        del now_ms
        return None

    def collect(self, now_ms: int) -> Commit | None:
        """See `SlotMachine`."""
        del now_ms
        if not self._settled:
            return None
        taken = [self._settled.popleft() for _ in range(min(CHANGE_INPUTS, len(self._settled)))]
        offsets = {each.received.topic: each.received.offset + 1 for each in taken}
        return Commit([self._change(taken)], offsets)

    def congested(self) -> frozenset[str]:
        """See `SlotMachine`. Control is never paused: it is what makes room."""
        full = len(self._queue) >= QUEUE_RECORDS or self._queue_bytes >= QUEUE_BYTES
        return frozenset({self._setup.topics.topic}) if full else frozenset()

    def idle(self) -> bool:
        """See `SlotMachine`. What is not settled is read again by the next owner."""
        return not self._settled

    def quiesce(self) -> None:
        """See `SlotMachine`."""
        self._stopping = True
        if self._worker is not None:
            self._worker.cancel()
        self._queue.clear()
        self._queue_bytes = 0

    def abandon(self) -> None:
        """See `SlotMachine`."""
        self.quiesce()

    def lost(self) -> None:
        """See `SlotMachine`."""
        self.quiesce()
        self.go_on()
        self._settled.clear()
        self._gauge.set(0)

    # --- Pausing -------------------------------------------------------------------------------

    def pause(self, reason: Pause, told: str) -> None:
        """Note that the slot waits; said once for each reason."""
        if self._paused is reason or self._stopping:
            return
        self.go_on()
        self._paused = reason
        self._setup.metrics.paused[reason].inc()
        # Room comes and goes with each run that ends: only the metric tells of that.
        level = logging.DEBUG if reason is Pause.OPEN_RUNS else logging.WARNING
        logger.log(
            level,
            "source %s, partition %d takes no further record: %s",
            self._setup.source.name,
            self._control.slot.partition,
            told,
        )

    def go_on(self) -> None:
        """Note that the slot waits no more."""
        if self._paused is not None:
            self._setup.metrics.paused[self._paused].dec()
            self._paused = None

    # --- records -------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Settle what is read, in its order, one record at a time."""
        count = 0
        while True:
            await self._until(lambda: bool(self._queue))
            await self._until(self._has_room)
            settled = await self._starter.settle(self._queue[0])
            self._queue_bytes -= len(self._queue.popleft().value or b"")
            self._submitted += settled.outcome is Outcome.SUBMITTED
            self._settled.append(settled)
            self._control.wake()
            count += 1
            if count % BREATH == 0:
                await asyncio.sleep(0)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._news.clear()
            await self._news.wait()

    def _has_room(self) -> bool:
        if self._open + self._submitted < self._setup.max_open:
            if self._paused is Pause.OPEN_RUNS:
                self.go_on()
            return True
        self.pause(
            Pause.OPEN_RUNS,
            f"{self._setup.max_open} of its runs have not ended (a partition's share of max_open)",
        )
        return False

    def _ended(self, received: Received) -> _Ended:
        try:
            decode(RunEnded, received.value or b"")
        except Undecodable as error:
            # It stands for no run, as far as anybody can say: one that was not counted must not
            # make room for another.
            self._setup.metrics.unreadable.inc()
            refusal = Refusal(FailureKind.UNDECODABLE, f"no word of a coordinator: {error}")
            return _Ended(received, 0, self._starter.bury(received, refusal).records)
        return _Ended(received, 1)

    def _worker_ended(self, worker: asyncio.Task[None]) -> None:
        if self._stopping:
            return
        # Nothing else reads on: restart and restore is the one recovery path.
        error = asyncio.CancelledError() if worker.cancelled() else worker.exception()
        slot = self._control.slot
        logger.error("a source's slot cannot go on", exc_info=error)
        self._setup.tools.environment.die(
            f"slot {slot.group}/{slot.partition} cannot go on: {error!r}"
        )

    # --- commits -------------------------------------------------------------------------------

    def _change(self, taken: list[Settled | _Ended]) -> Change:
        """One change for all: the number of open runs that it journals is that of all of them."""
        records = [record for each in taken for record in each.records]
        submitted = sum(_is_submission(each) for each in taken)
        ended = sum(each.runs for each in taken if isinstance(each, _Ended))
        open_runs = max(0, self._open + submitted - ended)
        if open_runs != self._open:
            journal = encode(SourceJournal(open_runs))
            records.append(self._control.journal(OPEN_KEY, journal))

        def apply() -> None:
            self._open = open_runs
            self._submitted -= submitted
            self._applied(taken)

        return Change(records, apply, lambda error: self._replace(taken, error))

    def _replace(self, taken: list[Settled | _Ended], error: Rejected) -> Change:
        """The bus does not take a record after all: its dead letter instead, or a smaller one."""
        for index, each in enumerate(taken):
            if not any(record is error.record for record in each.records):
                continue
            kept = each.kept if isinstance(each, Settled) else None
            refusal = Refusal(FailureKind.TOO_LARGE, str(error))
            buried = self._starter.bury(each.received, refusal, kept)
            if isinstance(each, _Ended):
                taken[index] = _Ended(each.received, each.runs, buried.records)
            else:
                self._submitted -= _is_submission(each)
                taken[index] = buried
            return self._change(taken)
        raise error

    def _applied(self, taken: Sequence[Settled | _Ended]) -> None:
        self._gauge.set(self._open)
        for each in taken:
            if isinstance(each, Settled):
                self._setup.metrics.outcomes[each.outcome].inc()
        self._news.set()


def _is_submission(each: Settled | _Ended) -> bool:
    return isinstance(each, Settled) and each.outcome is Outcome.SUBMITTED
