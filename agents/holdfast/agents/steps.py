"""The steps of one execution: found in the journal, or run and journaled.

Identity is (name, key), not position. A body starts only if the journal holds no result and the
slot has just proven that it still owns the task; its result is returned once it is committed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol

from holdfast.agents.errors import (
    DefinitionError,
    DuplicateStep,
    EffectOutcomeUnknown,
    Parked,
    StepMismatch,
)
from holdfast.agents.payloads import Payloads
from holdfast.agents.step_results import ResultCodec, digest, result_codec
from holdfast.schemas.records import (
    BlobReference,
    Payload,
    StepEntry,
    StepKind,
    StepSummary,
    TaskEnvelope,
)

__all__ = ["Begun", "StepJournal", "Steps", "idempotency_key"]

SUMMARIES_MAX = 1_000
SUMMARIES_BYTES_MAX = 128 * 1024
"""A result tells of so many steps at most, in so many bytes: the first ones."""
_NAME = re.compile(r"[^/\s]{1,128}")
_KEY_CHARS_MAX = 512


class StepJournal(Protocol):
    """What an execution may ask of its slot."""

    def find(self, name: str, key: str) -> StepEntry | None:
        """Return what is committed under (name, key)."""
        ...

    def all(self) -> Collection[StepEntry]:
        """Return everything that is committed."""
        ...

    async def write(self, name: str, key: str, entry: StepEntry | None) -> None:
        """Return once `entry` is committed under (name, key), or is removed (None)."""
        ...

    async def confirm(self) -> None:
        """Return once the group cannot have given the slot to anybody else."""
        ...

    async def prove(self) -> None:
        """Return once the slot's ownership was just proven, by a commit too."""
        ...


@dataclass(slots=True)
class Begun:
    """A step that was asked for. `found`: what the journal holds of it, of the same arguments."""

    name: str
    key: str
    codec: ResultCodec
    digest: str
    found: StepEntry | None


class Steps:
    """All steps of one execution."""

    def __init__(
        self,
        envelope: TaskEnvelope,
        journal: StepJournal,
        payloads: Payloads,
        now_ms: Callable[[], int],
    ) -> None:
        self._envelope = envelope
        self._journal = journal
        self._payloads = payloads
        self._now_ms = now_ms
        self._asked: set[tuple[str, str]] = set()
        self._summaries_bytes = 0
        self.summaries: list[StepSummary] = []
        self.parked: Parked | None = None
        """The first error that ends this attempt whatever the handler does about it."""

    def begin(
        self, name: str, key: str, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> Begun:
        """Take note of a step; raises `DuplicateStep`, `StepMismatch`, `DefinitionError`."""
        _check_identity(name, key)
        if (name, key) in self._asked:
            raise self.park(
                DuplicateStep(
                    f"step {name!r} with key {key!r} is used twice in one execution of task "
                    f"{self._envelope.task!r}: give each use its own key="
                )
            )
        self._asked.add((name, key))
        asked = digest(name, arguments)
        found = self._journal.find(name, key)
        if found is not None and found.digest != asked:
            raise self.park(
                StepMismatch(
                    f"step {name!r} (key {key!r}) was journaled with other arguments:\n"
                    f"- journaled in attempt {found.attempt}: sha256 {found.digest}\n"
                    f"+ asked for now: sha256 {asked} of {_shown(arguments)}\n"
                    "A step's arguments must be the same in each execution: take what changes "
                    "(time, random numbers, listings) from a step of its own"
                )
            )
        return Begun(name, key, result_codec(function), asked, found)

    async def replay(self, begun: Begun) -> Any:
        """Return the journaled result of a step that has one."""
        entry = begun.found
        assert entry is not None
        self._summarize(entry)
        return begun.codec.decode(begun.name, await self._payloads.unpack(entry.result))

    async def confirm(self) -> None:
        """Return once the handler may start."""
        await self._journal.confirm()

    async def prove(self) -> None:
        """Return once a body may start; raises `Parked` where this attempt is already over."""
        if self.parked is not None:
            raise self.parked
        await self._journal.prove()

    async def commit(self, begun: Begun, kind: StepKind, value: Any, started_ms: int) -> Any:
        """Journal a result; return it, decoded, once it is committed."""
        data = begun.codec.encode(begun.name, value)
        packed = await self._payloads.pack(self._envelope.run_id, data)
        entry = self._entry(begun, kind, packed, started_ms)
        await self._journal.write(begun.name, begun.key, entry)
        self._summarize(entry)
        return begun.codec.decode(begun.name, data)

    async def intend(self, begun: Begun) -> None:
        """Journal that an effect is about to begin."""
        entry = self._entry(begun, StepKind.INTENT, None, self._now_ms())
        await self._journal.write(begun.name, begun.key, entry)

    async def take_back(self, begun: Begun) -> None:
        """Remove an intent whose effect certainly changed nothing."""
        await self._journal.write(begun.name, begun.key, None)

    def unknown(self, begun: Begun) -> Parked:
        """Return the error for an effect that nobody can settle."""
        return self.park(
            EffectOutcomeUnknown(
                f"effect {begun.name!r} (key {begun.key!r}) was begun, its outcome was never "
                f"journaled. Idempotency key {idempotency_key(self._envelope, begun)}. Find out "
                "what it did; or declare it with idempotent=True or reconcile="
            )
        )

    def park(self, error: Parked) -> Parked:
        """Remember that this attempt is over."""
        self.parked = self.parked or error
        return error

    def check_all_asked(self) -> None:
        """On return of a resumed attempt: raise `StepMismatch` for steps it did not ask for."""
        attempt = self._envelope.attempt
        journaled = [s for s in self._journal.all() if (s.name, s.key) not in self._asked]
        missing = [s for s in journaled if s.attempt == attempt]
        if not missing:
            return
        lines = [f"- journaled, not asked for: {s.name!r} (key {s.key!r})" for s in missing[:20]]
        lines += [f"+ asked for: {name!r} (key {key!r})" for name, key in sorted(self._asked)[:20]]
        raise self.park(
            StepMismatch(
                f"this execution of task {self._envelope.task!r} returned without asking for "
                f"{len(missing)} steps that the same attempt had journaled before its process "
                "ended; the code has changed, or depends on something outside of its steps:\n"
                + "\n".join(lines)
            )
        )

    def _entry(self, begun: Begun, kind: StepKind, result: Payload, started_ms: int) -> StepEntry:
        return StepEntry(
            begun.name,
            begun.key,
            kind,
            self._envelope.attempt,
            begun.digest,
            result,
            started_ms,
            max(0, self._now_ms() - started_ms),
        )

    def _summarize(self, entry: StepEntry) -> None:
        self._summaries_bytes += 40 + len(entry.name.encode()) + len(entry.key.encode())
        if len(self.summaries) < SUMMARIES_MAX and self._summaries_bytes <= SUMMARIES_BYTES_MAX:
            size = _size(entry.result)
            self.summaries.append(
                StepSummary(
                    entry.name, entry.key, entry.kind, entry.started_ms, entry.duration_ms, size
                )
            )


def idempotency_key(envelope: TaskEnvelope, begun: Begun) -> str:
    """Return an effect's key: the same in every attempt, resume and fork (64 hex digits)."""
    parts = (envelope.origin, envelope.task_id, begun.name, begun.key)
    return hashlib.sha256("/".join(parts).encode()).hexdigest()


def _check_identity(name: str, key: str) -> None:
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise DefinitionError(
            f"step name {name!r} cannot be used: 1 to 128 characters without blanks and '/'"
        )
    if not isinstance(key, str) or len(key) > _KEY_CHARS_MAX:
        raise DefinitionError(
            f"the key of step {name!r} must be a string of at most {_KEY_CHARS_MAX} characters"
        )
    try:
        (name + key).encode()
    except UnicodeEncodeError:
        raise DefinitionError(
            f"step {name!r}, key {key!r}: not all of it is Unicode text"
        ) from None


def _size(payload: Payload) -> int:
    if isinstance(payload, BlobReference):
        return payload.size_bytes
    return len(payload) if payload is not None else 0


def _shown(arguments: tuple[Any, ...]) -> str:
    text = repr(arguments)
    return text if len(text) <= 500 else text[:500] + "…"
