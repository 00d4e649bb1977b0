"""The group commit of one slot: numbered, proven, and settled when its answer is lost.

1. Number the commit and add the slot's `offset` record, which carries that number.
2. Hand all of it to the writer: one transaction.
3. Acknowledged: apply each change, in order.
   Fenced: the slot is lost.
   Rejected: the culprit's change is replaced by what its `refuse` returns; go to 4.
   OutcomeUnknown, or the bus is away: go to 4.
4. The writer is dead. Wait for a heartbeat that was begun after the failure (a process that
   had been stopped wakes to time-outs and would else fence the true owners), open a new
   writer, and read the journal from the last record known:
   an `offset` record of another process: lost;
   our own with this number: it had committed, apply;
   anything else: it had not, and never will (the new writer fenced it); go to 2.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

from holdfast.bus import metrics
from holdfast.bus.errors import BusError, BusUnavailable, Fenced, OutcomeUnknown, Rejected
from holdfast.bus.port import Environment, Record, Slot, TopicPartition, Writer
from holdfast.bus.slot.journal import Journal, ProcessIdentity
from holdfast.bus.slot.machine import Change, Commit
from holdfast.schemas.records import SlotOffset

__all__ = ["GroupCommit", "Membership"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

REOPEN_PAUSE_S = 0.5
"""Between two tries while the bus is away; jittered, so that slots do not come back in step."""


FLOOR_EVERY = 256
"""So many commits from one look at the journal's end to the next."""


class Membership(Protocol):
    """What the group says of this process's right to a slot."""

    @property
    def session_timeout_s(self) -> float:
        """How long a silent member keeps its slots."""
        ...

    def owns(self, slot: Slot) -> bool:
        """Tell whether the newest assignment holds the slot."""
        ...

    async def confirmed_since(self, slot: Slot, moment: float) -> None:
        """Return once a heartbeat begun after `moment` was acknowledged and no assignment is under
        negotiation; `Fenced` if the slot is not owned."""
        ...

    def beat(self) -> None:
        """End the process if it had been stopped for too long to be trusted."""
        ...


class GroupCommit:
    """Owns the writer of one slot."""

    def __init__(
        self,
        environment: Environment,
        slot: Slot,
        journal: Journal,
        identity: ProcessIdentity,
        membership: Membership,
    ) -> None:
        self._environment = environment
        self._slot = slot
        self._journal = journal
        self._identity = identity
        self._membership = membership
        self._writer: Writer | None = None
        self._number = 0
        self._offsets: dict[str, int] = {}
        self._floor_ms = 0
        self._told_ms: int | None = None
        self._unsettled = False
        self._stated = False
        self.proven_at = float("-inf")
        """When the last acknowledged commit was begun (`Environment.monotonic`)."""

    def resume_from(self, newest: SlotOffset | None, offsets: Mapping[str, int]) -> None:
        """Take up the numbering, the time and the offsets where the journal left them."""
        self._number = newest.commit_number if newest else 0
        self._floor_ms, self._told_ms = newest.at_ms if newest else 0, None
        self._offsets = dict(offsets)
        self._unsettled = False

    def check(self, record: Record) -> None:
        """Raise `Rejected` if the bus would not take `record`."""
        if self._writer is not None:
            self._writer.check(record)

    async def open(self) -> None:
        """Become the slot's only writer; waits while the bus is away. Raises `Fenced`."""
        await self.close()
        bus = self._environment.bus
        self._stated = False
        self._writer = await self.patiently(lambda: bus.open_writer(self._slot))
        # Opening may have waited; the group may have decided otherwise meanwhile. Going on would
        # cost the new owner a restore, never correctness, so one check is enough.
        self._require_ownership()

    async def patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return what `call` returns, trying again while the bus is away and the slot is ours.

        A broker that restarts costs a pause, not the process. Raises `Fenced` once the slot is
        assigned elsewhere; whoever gives the slot up cancels it.
        """
        while True:
            self._require_ownership()
            try:
                return await call()
            except (BusUnavailable, OSError) as error:
                logger.warning("slot %s/%d: %s; trying again", *self._slot, error)
                await asyncio.sleep(REOPEN_PAUSE_S * (1 + self._environment.random.random()))

    async def newest_offset(self) -> SlotOffset | None:
        """See `Journal.newest_offset`; waits while the bus is away. Raises `Fenced`."""
        return await self.patiently(self._journal.newest_offset)

    async def write(self, commit: Commit, *, clean: bool = False) -> None:
        """Write `commit` and apply it. Raises `Fenced` when the slot is lost.

        One that was cancelled, or raised, may have happened: what its offsets have passed may
        stand nowhere. So nothing is written after it before the slot was restored.
        """
        if self._unsettled:
            raise Fenced(f"slot {self._slot.group}/{self._slot.partition} left a commit unsettled")
        self._unsettled = True
        changes = list(commit.changes)
        offsets = {**self._offsets, **commit.offsets}
        moved = offsets != self._offsets
        number = self._number + 1
        end = await self._end_before(number)
        while True:
            self._membership.beat()
            began = self._environment.monotonic()
            records = [record for change in changes for record in change.records]
            records.append(
                self._journal.offset_record(number, offsets, self._time_of(commit), clean=clean)
            )
            try:
                # The first commit of each writer states them anew: a broker whose memory of the
                # group is wrong, or gone, has them right again (ADR 8).
                await self._send(records, {} if self._stated and not moved else offsets)
                break
            except (OutcomeUnknown, BusUnavailable) as error:
                logger.warning("slot %s/%d: commit %d: %s", *self._slot, number, error)
            except Rejected as error:
                changes = self._replace_culprit(changes, error)
            if await self._settled(number):
                break
        self._number = number
        self._offsets, self._stated = offsets, True
        self.proven_at = began
        written = sum(1 for record in records if record.topic == self._journal.topic)
        self._journal.raise_floor_by(written)
        self._journal.raise_floor(end)
        for change in changes:
            change.apply()
        self._unsettled = False

    async def _end_before(self, number: int) -> int:
        """Return where the journal ended before this commit, now and then; 0 otherwise.

        Counting our own records leaves out the markers of a broker: in a million commits the floor
        would fall a million offsets behind. That all below this end is known is proven by the
        acknowledgement of the commit that follows: until then nobody else had opened the slot.
        """
        if number % FLOOR_EVERY:
            return 0
        try:
            return await self._journal.end()
        except (BusError, OSError):
            # The floor is a lower bound: it may wait. A broker that has just come back says that
            # it knows no such topic: no reason to end.
            return 0

    def _time_of(self, commit: Commit) -> int:
        """Return the time that the `offset` record carries; it never goes backwards.

        A machine that keeps its own time holds it where the wall clock jumps. So once it has told
        one, the slot's own commits repeat that rather than to look at the wall.
        """
        self._told_ms = self._told_ms if commit.told_ms is None else commit.told_ms
        if self._told_ms is not None:
            return self._told_ms
        return max(self._floor_ms, self._environment.now_ms())

    async def close(self) -> None:
        """Let the writer go."""
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.close()

    async def _send(self, records: list[Record], offsets: Mapping[str, int]) -> None:
        assert self._writer is not None
        group, partition = self._slot
        consumed = {TopicPartition(topic, partition): at for topic, at in offsets.items()}
        began = self._environment.monotonic()
        outcome = "unknown"
        try:
            await self._writer.commit(records, consumed)
            outcome = "committed"
        except Fenced:
            outcome = "fenced"
            raise
        except Rejected:
            outcome = "rejected"
            raise
        finally:
            metrics.COMMITS.labels(group, outcome).inc()
            metrics.COMMIT_SECONDS.labels(group).observe(self._environment.monotonic() - began)
            metrics.COMMIT_RECORDS.labels(group).observe(len(records))

    async def _settled(self, number: int) -> bool:
        """Open a new writer and tell whether commit `number` had happened."""
        failed_at = self._environment.monotonic()
        await self.close()
        await self._membership.confirmed_since(self._slot, failed_at)
        await self.open()
        newest = await self.newest_offset()
        if newest is None:
            return False
        if newest.process_id != self._identity.process_id:
            raise Fenced(
                f"slot {self._slot.group}/{self._slot.partition}: instance {newest.instance!r} "
                f"(process {newest.process_id}) has committed to it since"
            )
        return newest.commit_number == number

    def _require_ownership(self) -> None:
        if not self._membership.owns(self._slot):
            raise Fenced(f"slot {self._slot.group}/{self._slot.partition} is assigned elsewhere")

    def _replace_culprit(self, changes: list[Change], error: Rejected) -> list[Change]:
        logger.warning("slot %s/%d: %s", *self._slot, error)
        for index, change in enumerate(changes):
            if any(record is error.record for record in change.records):
                return [*changes[:index], change.refuse(error), *changes[index + 1 :]]
        # The slot's own record: nothing that could be left out. A bug or a misconfigured topic.
        raise error
