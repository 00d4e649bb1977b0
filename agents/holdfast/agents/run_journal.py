"""What one run may ask of its slot: its steps, and the answers it waits for."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from typing import Protocol

from holdfast.agents.resting import Resting
from holdfast.agents.runs import Run
from holdfast.schemas.records import AskBody, StepEntry, StepKind

__all__ = ["RunJournal", "RunKeeper"]


class RunKeeper(Protocol):
    """The slot, as a run sees it."""

    resting: Resting

    def readable(self, run: Run) -> AbstractContextManager[None]:
        """Guard the reading of steps."""
        ...

    async def ask(self, run: Run, entry: StepEntry, what: AskBody) -> None:
        """Return once an ask is committed, here and for the coordinator."""
        ...

    async def write_step(self, run: Run, name: str, key: str, entry: StepEntry | None) -> None:
        """Return once a step is committed."""
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

    def ended(self) -> None:
        """See `StepJournal`."""
        self._machine.resting.look_soon(self._run)
