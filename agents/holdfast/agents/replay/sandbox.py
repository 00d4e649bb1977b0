"""What a replayed handler meets instead of its slot: the journal, and nothing to be changed."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, NoReturn

from holdfast.agents.breaker import Breaker
from holdfast.agents.circuits import Outage, Passage
from holdfast.agents.payloads import Payloads
from holdfast.agents.published import PublishedTopics
from holdfast.agents.replay.journals import TaskJournal
from holdfast.agents.steps import PATCHED
from holdfast.bus.registry import RegisteredSchema, Registry
from holdfast.schemas.compatibility import Compatibility, check_compatible
from holdfast.schemas.records import AskBody, Payload, StepEntry, StepKind

__all__ = ["AnyTopics", "ReadOnlyPayloads", "ReadOnlyRegistry", "ReplayJournal", "StateNotKnown"]

FIRST_MADE_UP_ID = 1_000_000_000
"""Ids of schemas that are not registered, and will not be by a replay."""


class StateNotKnown(BaseException):
    """The handler reads what is kept under its order key: of then, nothing is known now.

    No `Exception`: a handler that catches those must not go on from here.
    """


@dataclass
class ReplayJournal:
    """The steps of one task; implements `StepJournal`. What it does not hold never comes.

    `asked`: the steps that were asked for, in order; `beyond`: what was first wanted that the
    journal does not hold.
    """

    journal: TaskJournal
    asked: list[tuple[str, str]] = field(default_factory=list)
    beyond: str | None = None
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    moves: int = 0
    """Counts what the handler does: it has come to rest when that does not change."""

    def find(self, name: str, key: str) -> StepEntry | None:
        """See `StepJournal`."""
        self.moves += 1
        if name != PATCHED:
            self.asked.append((name, key))
        return self.journal.steps.get((name, key))

    def all(self) -> Collection[StepEntry]:
        """See `StepJournal`."""
        return list(self.journal.steps.values())

    async def write(self, name: str, key: str, entry: StepEntry | None) -> None:
        """See `StepJournal`. The mark of a patch counts as written: nothing follows from it."""
        if entry is None or entry.kind is not StepKind.PATCH:
            await self._stop(f"{name!r} (key {key!r})")

    async def confirm(self) -> None:
        """See `StepJournal`: a handler may always start here."""

    async def prove(self) -> None:
        """See `StepJournal`."""
        name, key = self.asked[-1] if self.asked else ("", "")
        await self._stop(f"{name!r} (key {key!r})")

    async def ask(self, name: str, key: str, entry: StepEntry, what: AskBody) -> None:  # noqa: ARG002
        """See `StepJournal`."""
        await self._stop(f"{name!r} (key {key!r})")

    async def answer(self, name: str, key: str) -> StepEntry:
        """See `StepJournal`."""
        entry = self.journal.steps[name, key]
        if entry.kind is not StepKind.ANSWER:
            await self._stop(f"the answer to {name!r} (key {key!r})")
        return entry

    async def rise(self) -> None:
        """See `StepJournal`."""

    def ended(self) -> None:
        """See `StepJournal`."""

    @property
    def state(self) -> ReplayJournal:
        """See `StepJournal`."""
        return self

    def read(self, name: str) -> bytes | None:
        """See `StateJournal`."""
        self._state(name)

    def names(self) -> Collection[str]:
        """See `StateJournal`."""
        self._state("")

    def room_bytes(self) -> int:
        """See `StateJournal`."""
        return 1 << 40

    def is_here(self, order_key: str) -> bool:  # noqa: ARG002
        """See `StateJournal`."""
        return True

    async def enter(self, breaker: Breaker) -> Passage:  # noqa: ARG002
        """See `GuardJournal`."""
        await self.prove()
        raise AssertionError("nobody gets beyond the journal")

    async def settle(self, passage: Passage, error: BaseException | None) -> Outage | None:
        """See `GuardJournal`."""
        raise AssertionError(f"nobody gets {passage} from here: {error}")

    async def leave(self, passage: Passage) -> None:
        """See `GuardJournal`."""

    def _state(self, name: str) -> NoReturn:
        self.beyond = self.beyond or f"the state {name!r}"
        self.reached.set()
        raise StateNotKnown

    async def _stop(self, what: str) -> None:
        self.moves += 1
        self.beyond = self.beyond or what
        self.reached.set()
        await asyncio.get_running_loop().create_future()


class ReadOnlyPayloads(Payloads):
    """Reads what is there, and puts nothing away."""

    async def pack(self, run_id: str, data: bytes) -> Payload:  # noqa: ARG002
        """See `Payloads`."""
        return data


class AnyTopics(PublishedTopics):
    """What is published in a replay goes nowhere: any topic will do."""

    def __init__(self) -> None:
        """Nothing is asked of a bus."""

    async def require(self, names: Collection[str]) -> None:
        """See `PublishedTopics`."""


class ReadOnlyRegistry:
    """A registry that is not written to: a new schema is checked, and gets a made-up id."""

    def __init__(self, inner: Registry) -> None:
        self._inner = inner
        self._made_up = FIRST_MADE_UP_ID

    def known(self, schema_id: int) -> Any | None:
        """See `Registry`."""
        return self._inner.known(schema_id)

    async def find(self, schema_id: int, timeout_s: float) -> bool:
        """See `Registry`."""
        return await self._inner.find(schema_id, timeout_s)

    async def schema(self, schema_id: int) -> Any:
        """See `Registry`."""
        return await self._inner.schema(schema_id)

    async def register(
        self, subject: str, schema: Any, mode: Compatibility = Compatibility.BACKWARD
    ) -> int:
        """Return the id of a schema that the subject has, or one made up. Raises as `Registry`."""
        versions = await self._inner.versions(subject)
        for version in versions:
            if version.schema == schema:
                return version.schema_id
        if versions:
            newest = versions[-1]
            check_compatible(
                newest.schema, schema, mode, subject=subject, old_version=newest.version
            )
        self._made_up += 1
        return self._made_up

    async def latest(self, subject: str) -> RegisteredSchema | None:
        """See `Registry`."""
        return await self._inner.latest(subject)

    async def subjects(self) -> list[str]:
        """See `Registry`."""
        return await self._inner.subjects()

    async def versions(self, subject: str) -> list[RegisteredSchema]:
        """See `Registry`."""
        return await self._inner.versions(subject)
