"""One slot in one process: opened, restored, run, given up. See `states` for the drawing.

Everything that happens to a slot happens in its one task, `live`; the poll loop and the group's
assignments only leave it word (`receive`, `keep`, `leave`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.bus import metrics
from holdfast.bus.errors import BusError, Fenced
from holdfast.bus.partition import partition_for
from holdfast.bus.port import (
    Environment,
    Received,
    Record,
    Slot,
    Subscription,
    TopicPartition,
)
from holdfast.bus.slot.commit import GroupCommit, Membership
from holdfast.bus.slot.journal import OFFSET_KEY, Journal, ProcessIdentity
from holdfast.bus.slot.machine import Commit, MachineFactory, Opened, SlotMachine
from holdfast.bus.slot.positions import start_positions
from holdfast.bus.slot.states import TRANSITIONS, SlotState
from holdfast.schemas.codec import decode
from holdfast.schemas.errors import HoldfastError
from holdfast.schemas.records import SlotOffset

__all__ = ["DuplicateInstance", "OwnedSlot", "SlotContext"]

logger = logging.getLogger(__name__)

HAND_OVER_S = 0.5
"""How long the owner of before has for its last commit, before a slot is taken from it."""
HAND_OVER_CHECK_S = 0.02
LEAVE_S = 2.0
"""How long a slot that was taken away waits for what it cancelled, before its last commit."""
LAST_COMMIT_S = 5.0
"""How much longer its commits may take; without a last one the next owner counts an unclean end."""


class DuplicateInstance(HoldfastError):
    """Two live processes use one instance name; they would take slots from each other for ever."""


@dataclass(frozen=True, slots=True)
class SlotContext:
    """What all slots of one member share. `partitions`: topic to its partition count."""

    environment: Environment
    identity: ProcessIdentity
    topics: tuple[str, ...]
    journal_topic: str
    partitions: int
    factory: MachineFactory
    from_end: frozenset[str] = frozenset()


class OwnedSlot:
    """A slot that the group assigned to this process; implements `SlotControl`."""

    def __init__(
        self,
        slot: Slot,
        context: SlotContext,
        subscription: Subscription,
        membership: Membership,
    ) -> None:
        self._context = context
        self._environment = context.environment
        self._subscription = subscription
        self._membership = membership
        self._state = SlotState.OPENING
        self._machine: SlotMachine | None = None
        self._journal = Journal(
            self._environment.bus, slot, context.journal_topic, context.identity
        )
        self._commits = GroupCommit(
            self._environment, slot, self._journal, context.identity, membership
        )
        self._next: dict[str, int] = {}
        self._paused: frozenset[str] = frozenset()
        self._woken = asyncio.Event()
        self._leaving = asyncio.Event()
        self._proofs: list[asyncio.Future[None]] = []
        self._alarm: asyncio.TimerHandle | None = None
        self._bound = asyncio.timeout(None)
        self._kept_at = float("-inf")
        self._living = False
        self._marked = False
        self._quiesced = False
        self.slot = slot

    # --- SlotControl ---------------------------------------------------------------------------

    def wake(self) -> None:
        """See `SlotControl`."""
        self._woken.set()

    def journal(self, key: str, value: bytes | None) -> Record:
        """See `SlotControl`."""
        return self._journal.record(key, value)

    def check(self, record: Record) -> None:
        """See `SlotControl`."""
        self._commits.check(record)

    def owns(self, key: bytes) -> bool:
        """See `SlotControl`."""
        return partition_for(key, self._context.partitions) == self.slot.partition

    def misplaced(self, received: Received) -> Record | None:
        """See `SlotControl`."""
        if received.key is None or self.owns(received.key):
            return None
        metrics.FORWARDED.labels(self.slot.group).inc()
        return Record(received.topic, received.key, received.value, received.headers)

    async def confirm(self) -> None:
        """See `SlotControl`."""
        await self._certain(float("-inf"))

    async def prove(self) -> None:
        """See `SlotControl`."""
        await self._certain(self._half_a_session_ago())

    async def _certain(self, since: float) -> None:
        """Return once the group speaks for this owner, and a commit begun since then too.

        Or since the slot was kept in a rebalance: this member may have missed an assignment in
        between that gave it to another one, which has worked, and left again.
        """
        while True:
            if self._state is not SlotState.RUNNING:
                raise Fenced(f"slot {self.slot.group}/{self.slot.partition} is given up")
            await self._membership.confirmed_since(self.slot, self._half_a_session_ago())
            if self._commits.proven_at >= max(since, self._kept_at):
                return
            proof: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._proofs.append(proof)
            self.wake()
            await proof  # which may take long: the group is asked again

    def _half_a_session_ago(self) -> float:
        return self._environment.monotonic() - self._membership.session_timeout_s / 2

    # --- word from outside ---------------------------------------------------------------------

    @property
    def state(self) -> SlotState:
        """Where the slot stands."""
        return self._state

    def receive(self, records: Sequence[Received]) -> None:
        """Hand over what was read for this slot, in order per topic."""
        if self._state is not SlotState.RUNNING or self._machine is None or self._leaving.is_set():
            return  # handed out before a revocation; whoever owns the slot reads it again
        fresh = [record for record in records if record.offset >= self._next[record.topic]]
        for record in fresh:
            self._next[record.topic] = record.offset + 1
        if fresh:
            self._machine.receive(fresh)
            self._throttle()
            self.wake()

    def keep(self) -> None:
        """The group assigned the slot again: go on as if nothing had been.

        Not where it was taken away in between. While a last commit hangs somebody else may own the
        slot, and all of it be worked by now: it is given up to its end, and opened anew.
        """
        if self._state is SlotState.RUNNING and not self._leaving.is_set():
            self._kept_at = self._environment.monotonic()
            self._read_on()

    def _read_on(self) -> None:
        self._paused = frozenset(self._context.topics)
        for topic, offset in self._next.items():
            self._subscription.seek(TopicPartition(topic, self.slot.partition), offset)
        self._throttle()

    def leave(self) -> None:
        """The group took the slot away, or the process stops: give it up.

        Bounded, whatever it is doing: a bus that is away must hold up neither a stop nor the next
        assignment. Where nothing runs and nothing was written, nothing is waited for.
        """
        if self._leaving.is_set():
            return
        self._leaving.set()
        if self._machine is not None:
            self._machine.quiesce()
        self.wake()
        if self._living:
            owes_commit = self._state is SlotState.RUNNING or self._marked
            bound_s = LEAVE_S + LAST_COMMIT_S if owes_commit else 0.0
            self._bound.reschedule(asyncio.get_running_loop().time() + bound_s)

    def quiesce(self) -> None:
        """A stop was asked for: start nothing new; a slot that is not at work is given up now."""
        self._quiesced = True
        if self._machine is not None:
            self._machine.quiesce()
        else:
            self.leave()

    def idle(self) -> bool:
        """True when nothing runs and nothing waits to be written."""
        return self._machine is None or self._machine.idle()

    # --- the slot's own task -------------------------------------------------------------------

    async def live(self) -> None:
        """Own the slot until it is taken away. Raises what no restart of the slot can mend."""
        try:
            async with self._bound:
                self._living = True
                while not self._leaving.is_set():
                    await self._own()
        except TimeoutError:
            if not self._bound.expired():
                raise
            # Where it was at work the next owner counts an unclean end, nothing worse.
            logger.info("slot %s/%d: given up while %s", *self.slot, self._state.value)
        finally:
            self._living = False
            self._forget()
            await self._commits.close()
            self._move(SlotState.CLOSED)

    async def _own(self) -> None:
        """Open the slot, work in it, and give it up; or lose it, and wait for another turn."""
        try:
            await self._let_go_by_its_owner()
            await self._commits.patiently(self._open)
            await self._work()
            await self._give_up()
        except Fenced as error:
            await self._after_fencing(error)

    async def _let_go_by_its_owner(self) -> None:
        """Leave the owner of before a moment to write its last commit, if there is one.

        In a rebalance both hear of it at once, and opening a writer takes as long as that commit:
        without this the slot would be fenced under one that gives it up, and be found unclean. Its
        tasks would be taken for what kills processes, though none has died. Bounded, since the
        owner may be dead: then this is what a takeover waits.
        """
        try:
            async with asyncio.timeout(HAND_OVER_S):
                while await self._held_by_another():
                    await asyncio.sleep(HAND_OVER_CHECK_S)
        except (TimeoutError, BusError, OSError):
            return  # whoever opens next says what is wrong

    async def _held_by_another(self) -> bool:
        last, own = await self._journal.last_offset(), self._context.identity.instance
        return last is not None and not last.clean and last.instance != own

    async def _open(self) -> None:
        """Open the writer first: what is read after that is all there will ever be.

        Raises `Fenced`; `BusUnavailable` when the bus goes away meanwhile, and may be called again.
        """
        began = self._environment.monotonic()
        await self._commits.open()
        machine = self._context.factory(self)
        try:
            newest, count = await self._restore(machine)
            positions = await start_positions(
                self._environment.bus,
                self.slot,
                self._context.topics,
                newest,
                from_end=self._context.from_end,
            )
            self._commits.resume_from(newest, positions)
            await self._mark(newest)
        except BaseException:
            machine.lost()
            raise
        identity = self._context.identity
        clean = newest is None or newest.clean or newest.process_id == identity.process_id
        told_ms = newest.at_ms if newest else 0
        self._begin(machine, Opened(positions, clean, self._environment.now_ms(), told_ms))
        group = self.slot.group
        metrics.RESTORE_SECONDS.labels(group).observe(self._environment.monotonic() - began)
        metrics.RESTORED_RECORDS.labels(group).inc(count)
        logger.info("slot %s/%d: open at %s, %d records restored", *self.slot, positions, count)

    async def _mark(self, newest: SlotOffset | None) -> None:
        """Have the journal say that the slot is in use, unless it says so already.

        Before anything runs: what kills this process at once must be found as an unclean end by
        whoever opens the slot next, or it would kill process after process for ever.
        """
        if not self._membership.owns(self.slot):
            raise Fenced(f"slot {self.slot} was assigned elsewhere while it was restored")
        if newest is None or newest.clean:
            self._marked = True
            await self._commits.write(Commit(()))

    def _begin(self, machine: SlotMachine, opened: Opened) -> None:
        """Let the machine work; without an await, so that nothing comes in between."""
        self._next = dict(opened.positions)
        self._machine = machine
        self._move(SlotState.RUNNING)
        metrics.SLOTS_OWNED.labels(self.slot.group).inc()
        if self._leaving.is_set():
            machine.quiesce()  # it is here only for the last commit, which takes the mark back
        machine.opened(opened)
        if not self._leaving.is_set():
            self._read_on()
        self.wake()

    async def _restore(self, machine: SlotMachine) -> tuple[SlotOffset | None, int]:
        newest: bytes | None = None
        count = 0
        partition = self._journal.partition
        end = await self._journal.end()
        async for batch in self._environment.bus.read(*partition, 0, end):
            count += len(batch)
            for received in batch:
                if received.key == OFFSET_KEY:
                    newest = received.value
                elif received.key is not None:
                    machine.restore(received.key.decode(), received.value)
            # However fast they come: heartbeats and the watchdog get their turn in between.
            await asyncio.sleep(0)
        self._journal.raise_floor(end)
        return (None if newest is None else decode(SlotOffset, newest)), count

    async def _work(self) -> None:
        machine = self._machine
        assert machine is not None
        while not self._leaving.is_set():
            await self._woken.wait()
            self._woken.clear()
            self._arm(machine.due(self._environment.now_ms()))
            while (commit := machine.collect(self._environment.now_ms())) or self._proofs:
                await self._commit(commit or Commit(()))
                self._arm(machine.due(self._environment.now_ms()))
                if self._leaving.is_set():
                    return

    async def _commit(self, commit: Commit) -> None:
        proofs, self._proofs = self._proofs, []
        try:
            await self._commits.write(commit)
        except BaseException:
            self._proofs += proofs  # settled when the slot is forgotten
            raise
        for proof in proofs:
            if not proof.done():
                proof.set_result(None)
        self._throttle()

    async def _give_up(self) -> None:
        """Cancel what runs, wait for it, and mark the journal clean where that is still possible.

        Clean says that no process has died: this one gave the slot up itself. A body that does not
        end when it is told to (a thread in a system call) is left behind and does not change that:
        else a slow neighbour would be counted as a killer at every rolling restart.
        """
        self._move(SlotState.LEAVING)
        machine = self._machine
        assert machine is not None
        machine.abandon()
        until = self._environment.monotonic() + LEAVE_S
        try:
            while not machine.idle():
                if commit := machine.collect(self._environment.now_ms()):
                    await self._commits.write(commit)
                elif not await self._woken_before(until):
                    logger.warning("slot %s/%d: handlers still run; left behind", *self.slot)
                    break
                self._woken.clear()
            last = machine.collect(self._environment.now_ms())
            await self._commits.write(last or Commit(()), clean=True)
        except HoldfastError as error:
            # Somebody else owns it already: the next owner counts an unclean end.
            logger.info("slot %s/%d: given up without a last commit: %s", *self.slot, error)

    async def _woken_before(self, moment: float) -> bool:
        """Wait for `wake`. Only here may time run out: a commit that is cut off is never settled,
        and what its offsets have passed would be lost with the next one."""
        try:
            async with asyncio.timeout(max(0.0, moment - self._environment.monotonic())):
                await self._woken.wait()
        except TimeoutError:
            return False
        return True

    async def _after_fencing(self, error: Fenced) -> None:
        """Forget the slot; come back for it only if the group still gives it to this member.

        Without the second part a stray opener would orphan a slot for ever. The jitter keeps two
        processes that fence each other from doing it in step.
        """
        fenced_at = self._environment.monotonic()
        logger.warning("slot %s/%d: lost: %s", *self.slot, error)
        metrics.FENCINGS.labels(self.slot.group).inc()
        self._forget()
        await self._commits.close()
        self._move(SlotState.FENCED)
        if self._quiesced:
            self._leaving.set()
        if self._leaving.is_set():
            return
        try:
            await self._require_sole_instance()
            await asyncio.sleep(
                self._membership.session_timeout_s * (0.75 + self._environment.random.random() / 2)
            )
            await self._membership.confirmed_since(self.slot, fenced_at)
        except Fenced:
            self._leaving.set()
            return
        self._move(SlotState.OPENING)

    async def _require_sole_instance(self) -> None:
        newest = await self._commits.newest_offset()
        identity = self._context.identity
        if newest is None or newest.instance != identity.instance:
            return
        if newest.process_id != identity.process_id:
            raise DuplicateInstance(
                f"another live process uses the instance name {identity.instance!r} (process id "
                f"{newest.process_id}) and has taken slot {self.slot.group}/{self.slot.partition}: "
                "give each process its own --instance"
            )

    def _forget(self) -> None:
        self._arm(None)
        self._marked = False
        machine, self._machine = self._machine, None
        if machine is not None:
            partition = self.slot.partition
            self._subscription.pause(TopicPartition(t, partition) for t in self._context.topics)
            metrics.SLOTS_OWNED.labels(self.slot.group).dec()
            machine.lost()
        for proof in self._proofs:
            if not proof.done():
                proof.set_exception(Fenced(f"slot {self.slot.group}/{self.slot.partition} is lost"))
                proof.exception()  # whoever waited for it has been cancelled
        self._proofs.clear()

    def _arm(self, due_ms: int | None) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if due_ms is not None:
            delay_s = max(0.0, (due_ms - self._environment.now_ms()) / 1000)
            self._alarm = asyncio.get_running_loop().call_later(delay_s, self.wake)

    def _throttle(self) -> None:
        """Pause the topics that the machine wants no more of, resume the others."""
        if self._machine is None:
            return
        wanted = self._machine.congested()
        if wanted == self._paused:
            return
        partition = self.slot.partition
        self._subscription.pause(TopicPartition(t, partition) for t in wanted - self._paused)
        self._subscription.resume(TopicPartition(t, partition) for t in self._paused - wanted)
        self._paused = wanted

    def _move(self, state: SlotState) -> None:
        if state is not self._state:
            assert state in TRANSITIONS[self._state], f"{self._state} -> {state}"
            self._state = state
