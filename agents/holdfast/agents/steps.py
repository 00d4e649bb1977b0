"""The steps of one execution: found in the journal, or run and journaled.

Identity is (name, key), not position. A body starts only if the journal holds no result and the
slot has just proven that it still owns the task; its result is returned once it is committed.
"""

from __future__ import annotations

import asyncio
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
from holdfast.agents.guarding import GuardJournal
from holdfast.agents.keyed_state import StateJournal
from holdfast.agents.mismatch import Difference, offers, step_diff
from holdfast.agents.payloads import Payloads
from holdfast.agents.step_results import ResultCodec, digest, result_codec
from holdfast.schemas import Unencodable
from holdfast.schemas.records import (
    EMIT_NAME,
    AskBody,
    BlobReference,
    Payload,
    StepEntry,
    StepKind,
    StepSummary,
    TaskEnvelope,
    UndoAsk,
)

__all__ = ["Begun", "StepJournal", "Steps", "Worker", "idempotency_key"]

UNDONE_MAX = 100
"""A task has so many steps at most that can be undone: it settles all of them in one event."""
SUMMARIES_MAX = 1_000
SUMMARIES_BYTES_MAX = 128 * 1024
"""A result tells of so many steps at most, in so many bytes: the first ones."""
_NAME = re.compile(r"[^/\s]{1,128}")
_KEY_CHARS_MAX = 512
PATCHED = "~patched"
"""Marks of `ctx.patched` stand in the journal as steps of this name, the patch's as their key."""


class StepJournal(GuardJournal, Protocol):
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

    async def ask(self, name: str, key: str, entry: StepEntry, what: AskBody) -> None:
        """Return once `entry` is committed, and the ask with it."""
        ...

    async def answer(self, name: str, key: str) -> StepEntry:
        """Return the answer to an ask once it is committed."""
        ...

    async def rise(self) -> None:
        """Return once the execution has a place, if it had given it up while it waited."""
        ...

    def ended(self) -> None:
        """A step has ended: perhaps only asks are left."""
        ...

    @property
    def state(self) -> StateJournal:
        """What is kept under the task's order key."""
        ...


@dataclass(slots=True)
class Begun:
    """A step that was asked for. `found`: what the journal holds of it, of the same arguments."""

    name: str
    key: str
    codec: ResultCodec
    digest: str
    found: StepEntry | None
    undo: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Worker:
    """Who works a task: its agent, and the build of its code."""

    agent: str = ""
    build_id: str = ""


class Steps:
    """All steps of one execution."""

    def __init__(
        self,
        envelope: TaskEnvelope,
        journal: StepJournal,
        payloads: Payloads,
        now_ms: Callable[[], int],
        worker: Worker,
    ) -> None:
        self._envelope = envelope
        self._journal = journal
        self._payloads = payloads
        self._now_ms = now_ms
        self._worker = worker
        self._asked: dict[tuple[str, str], None] = {}
        self._patches: dict[str, bool] = {}
        self._marks: dict[str, asyncio.Future[None]] = {}
        self._summaries_bytes = 0
        self._undone = 0
        self.summaries: list[StepSummary] = []
        self.parked: Parked | None = None
        """The first error that ends this attempt whatever the handler does about it."""

    def begin(
        self, name: str, key: str, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> Begun:
        """Take note of a step; raises `DuplicateStep`, `StepMismatch`, `DefinitionError`."""
        _check_identity(name, key)
        return self._note(name, key, function, arguments)

    def _note(
        self, name: str, key: str, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> Begun:
        if (name, key) in self._asked:
            raise self.park(
                DuplicateStep(
                    f"step {name!r} with key {key!r} is used twice in one execution of task "
                    f"{self._envelope.task!r}: give each use its own key="
                )
            )
        self._asked[name, key] = None
        asked = digest(name, arguments)
        found = self._journal.find(name, key)
        if found is not None and found.digest != asked:
            raise self._mismatch(
                f"step {name!r} (key {key!r}) was journaled with other arguments:\n"
                f"- journaled in attempt {found.attempt}: sha256 {found.digest}\n"
                f"+ asked for now: sha256 {asked} of {_shown(arguments)}\n"
                "A step's arguments must be the same in each execution: take what changes "
                "(time, random numbers, listings) from a step of its own",
                Difference((name, key), "other arguments"),
            )
        return Begun(name, key, result_codec(function), asked, found)

    def can_be_undone(self, begun: Begun, undo: tuple[str, str] | None) -> None:
        """Note the task that undoes a step (agent, name); raises `DefinitionError`."""
        begun.undo = undo
        self._undone += undo is not None
        if self._undone > UNDONE_MAX:
            raise DefinitionError(
                f"task {self._envelope.task!r} has more than {UNDONE_MAX} steps with compensate=:"
                " do them in tasks of their own, and undo those"
            )

    def begin_ask(self, name: str, key: str, arguments: tuple[Any, ...]) -> Begun:
        """Take note of an ask; raises as `begin`."""
        return self.begin(name, key, _no_result, arguments)

    def begin_batch(self, first: int, arguments: tuple[Any, ...]) -> Begun:
        """Take note of items that are handed out; raises `StepMismatch`."""
        return self._note(EMIT_NAME, str(first), _no_result, arguments)

    def named(self, name: str) -> list[StepEntry]:
        """Return all that is journaled under `name`, by whichever attempt."""
        return [entry for entry in self._journal.all() if entry.name == name]

    def patched(self, name: str) -> bool:
        """Tell whether this task takes the new way, which is then to be marked if it is not yet.

        It does where its journal holds the mark, or holds nothing that this execution has not asked
        for: then no other code has got beyond this point. Raises `DefinitionError`, `Parked`.
        """
        if self.parked is not None:
            raise self.parked
        _check_patch(name)
        known = self._patches.get(name)
        if known is None:
            known = self._journal.find(PATCHED, name) is not None or not self._beyond()
            self._patches[name] = known
        return known

    def _beyond(self) -> bool:
        """Whether the journal holds steps that this execution has not asked for (yet)."""
        return any(
            (step.name, step.key) not in self._asked
            for step in self._journal.all()
            if step.kind is not StepKind.PATCH
        )

    async def mark(self, name: str) -> None:
        """Return once the mark of a patch is committed; it is written once."""
        if self._journal.find(PATCHED, name) is not None:
            return
        writing = self._marks.get(name)
        if writing is not None:
            await asyncio.shield(writing)
            return
        written = self._marks[name] = asyncio.get_running_loop().create_future()
        now_ms = self._now_ms()
        attempt, build = self._envelope.attempt, self._worker.build_id
        entry = StepEntry(PATCHED, name, StepKind.PATCH, attempt, "", None, now_ms, 0)
        entry.build_id = build
        try:
            await self._journal.write(PATCHED, name, entry)
        finally:
            del self._marks[name]
            if not written.done():
                written.set_result(None)

    async def ask(self, begun: Begun, what: AskBody) -> None:
        """Journal an ask, and send it."""
        if self.parked is not None:
            raise self.parked
        entry = self._entry(begun, StepKind.ASK, None, self._now_ms())
        await self._journal.ask(begun.name, begun.key, entry, what)

    async def answer(self, begun: Begun) -> StepEntry:
        """Return the answer to an ask, however long it takes."""
        entry = await self._journal.answer(begun.name, begun.key)
        if begun.name != EMIT_NAME:  # of which there may be thousands; the events tell of each
            self._summarize(entry)
        return entry

    async def forget(self, name: str, key: str) -> None:
        """Return once a step that nothing asks for any more is out of the journal."""
        await self._journal.write(name, key, None)

    def other_batch(self, key: str, what: str) -> Parked:
        """Return the error for items that are handed out in other batches than before."""
        return self._mismatch(
            f"items are handed out otherwise than in an execution before: then a batch began with"
            f" number {key}, now {what} are one",
            Difference((EMIT_NAME, key), "another batch"),
        )

    async def rise(self) -> None:
        """See `StepJournal`."""
        await self._journal.rise()

    def ended(self) -> None:
        """See `StepJournal`."""
        self._journal.ended()

    async def replay(self, begun: Begun) -> Any:
        """Return the journaled result of a step that has one."""
        entry = begun.found
        assert entry is not None
        self._summarize(entry)
        data = await self._payloads.unpack(entry.result)
        try:
            return begun.codec.decode(begun.name, data)
        except Unencodable as error:
            # Another attempt would find the same: it is the code that has changed.
            different = Difference((begun.name, begun.key), "a result of another type")
            raise self._mismatch(str(error), different) from None

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
        if begun.undo is None:
            await self._journal.write(begun.name, begun.key, entry)
        else:
            # With the word of what undoes it in one commit: neither is ever without the other.
            await self._journal.ask(begun.name, begun.key, entry, UndoAsk(*begun.undo, packed))
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
        # A mark that nobody asks for any more is of a patch that was removed.
        missing = [s for s in journaled if s.attempt == attempt and s.kind is not StepKind.PATCH]
        if not missing:
            return
        raise self._mismatch(
            f"this execution of task {self._envelope.task!r} returned without asking for "
            f"{len(missing)} steps that the same attempt had journaled before its process "
            "ended; the code has changed, or depends on something outside of its steps"
        )

    def _mismatch(self, what: str, different: Difference | None = None) -> Parked:
        """Return the error for a journal that does not fit, with the diff and what can be done."""
        steps = self._journal.all()
        diff = step_diff(steps, tuple(self._asked), self._worker.build_id, different)
        can = offers(self._envelope, self._worker.agent, steps)
        return self.park(StepMismatch(f"{what}\n{diff}\n{can}"))

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
            build_id=self._worker.build_id,
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
    if name == PATCHED:
        raise DefinitionError(f"step name {name!r} cannot be used: marks of ctx.patched have it")
    if name == EMIT_NAME:
        raise DefinitionError(f"step name {name!r} cannot be used: what is handed out has it")
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


def _check_patch(name: str) -> None:
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise DefinitionError(
            f"patch name {name!r} cannot be used: 1 to 128 characters without blanks and '/'"
        )
    _check_identity("patch", name)


def _no_result() -> None:
    """Stands for the function of an ask, which has none."""


def _size(payload: Payload) -> int:
    if isinstance(payload, BlobReference):
        return payload.size_bytes
    return len(payload) if payload is not None else 0


def _shown(arguments: tuple[Any, ...]) -> str:
    text = repr(arguments)
    return text if len(text) <= 500 else text[:500] + "…"
