"""What one run may ask of its slot: its steps, and the answers it waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import AbstractContextManager
from typing import Protocol

from holdfast.agents.breaker import Breaker
from holdfast.agents.circuits import Circuits, Outage, Passage
from holdfast.agents.ledger import STATE_SLOT_BYTES_MAX, KeyedState
from holdfast.agents.resting import Resting
from holdfast.agents.runs import Run
from holdfast.schemas.records import AskBody, StepEntry, StepKind

__all__ = ["RunJournal", "RunKeeper", "RunState"]


class RunKeeper(Protocol):
    """The slot, as a run sees it."""

    resting: Resting

    @property
    def circuits(self) -> Circuits:
        """The circuit breakers of the process."""
        ...

    @property
    def state(self) -> KeyedState:
        """What the slot keeps under its order keys."""
        ...

    def owns(self, order_key: str) -> bool:
        """Tell whether the slot is an order key's."""
        ...

    def readable(self, run: Run) -> AbstractContextManager[None]:
        """Guard the reading of steps."""
        ...

    async def ask(self, run: Run, entry: StepEntry, what: AskBody) -> None:
        """Return once an ask is committed, here and for the coordinator."""
        ...

    async def write_step(self, run: Run, name: str, key: str, entry: StepEntry | None) -> None:
        """Return once a step is committed."""
        ...

    async def confirm(self, run: Run) -> None:
        """Return once the group cannot have given the slot to anybody else."""
        ...

    async def prove(self, run: Run) -> None:
        """Return once the slot's ownership is proven."""
        ...


class RunJournal:
    """The steps of one run; implements `StepJournal`."""

    def __init__(self, machine: RunKeeper, run: Run) -> None:
        self._machine = machine
        self._run = run

    def find(self, name: str, key: str) -> StepEntry | None:
        """See `StepJournal`."""
        with self._machine.readable(self._run):
            return self._run.entry.steps.get((name, key))

    def all(self) -> Collection[StepEntry]:
        """See `StepJournal`."""
        with self._machine.readable(self._run):
            return list(self._run.entry.steps.values())

    async def write(self, name: str, key: str, entry: StepEntry | None) -> None:
        """See `StepJournal`."""
        await self._machine.write_step(self._run, name, key, entry)

    async def confirm(self) -> None:
        """See `StepJournal`."""
        await self._machine.confirm(self._run)

    async def prove(self) -> None:
        """See `StepJournal`."""
        await self._machine.prove(self._run)

    async def ask(self, name: str, key: str, entry: StepEntry, what: AskBody) -> None:
        """See `StepJournal`."""
        assert (name, key) == (entry.name, entry.key), "one ask, one name"
        await self._machine.ask(self._run, entry, what)

    async def answer(self, name: str, key: str) -> StepEntry:
        """See `StepJournal`."""
        with self._machine.readable(self._run):
            found = self._run.entry.steps[name, key]
        if found.kind is StepKind.ANSWER:
            return found
        return await self._machine.resting.answer(self._run, name, key)

    async def rise(self) -> None:
        """See `StepJournal`."""
        await self._machine.resting.rise(self._run)

    async def enter(self, breaker: Breaker) -> Passage:
        """See `GuardJournal`."""
        gate = self._machine.circuits.of(breaker)
        return await self._machine.resting.enter(self._run, gate)

    async def settle(self, passage: Passage, error: BaseException | None) -> Outage | None:
        """See `GuardJournal`."""
        if passage in self._run.passages:
            self._run.passages.remove(passage)
        return passage.gate.settle(passage, self._run.entry.name, error)

    async def leave(self, passage: Passage) -> None:
        """See `GuardJournal`."""
        if passage in self._run.passages:
            self._run.passages.remove(passage)
            passage.gate.left(passage)

    def ended(self) -> None:
        """See `StepJournal`."""
        self._machine.resting.look_soon(self._run)

    @property
    def state(self) -> RunState:
        """See `StepJournal`."""
        return RunState(self._machine, self._run)


class RunState:
    """What is kept under the order key of one run's task; implements `StateJournal`."""

    def __init__(self, machine: RunKeeper, run: Run) -> None:
        self._machine = machine
        self._run = run

    def read(self, name: str) -> bytes | None:
        """See `StateJournal`."""
        with self._machine.readable(self._run):
            return self._machine.state.read(self._order_key, name)

    def names(self) -> Collection[str]:
        """See `StateJournal`."""
        return self._machine.state.names(self._order_key)

    def room_bytes(self) -> int:
        """See `StateJournal`."""
        return STATE_SLOT_BYTES_MAX - self._machine.state.size_bytes

    def is_here(self, order_key: str) -> bool:
        """See `StateJournal`."""
        return self._machine.owns(order_key)

    @property
    def _order_key(self) -> str:
        order_key = self._run.entry.order_key
        if order_key is None or not self._run.live:
            raise asyncio.CancelledError  # the attempt is over: the key may be another task's
        return order_key
