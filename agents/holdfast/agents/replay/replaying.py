"""One task after another: its handler, run on its journal, and what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from holdfast.agents.agent import Agent
from holdfast.agents.build import build_id_of, code_of
from holdfast.agents.execution import Execution, Tools
from holdfast.agents.handlers import Handler, began_by
from holdfast.agents.interrupts import Interrupt
from holdfast.agents.keyed_state import StateTypes
from holdfast.agents.ledger import Ending
from holdfast.agents.manifest import register_tasks
from holdfast.agents.mismatch import step_diff
from holdfast.agents.payloads import BlobStore
from holdfast.agents.replay.journals import TaskJournal, TaskStanding
from holdfast.agents.replay.sandbox import (
    AnyTopics,
    ReadOnlyPayloads,
    ReadOnlyRegistry,
    ReplayJournal,
)
from holdfast.agents.steps import Worker
from holdfast.bus.port import Environment
from holdfast.bus.registry import Registry
from holdfast.schemas.records import FailureKind, Outcome, StepKind, TaskEnvelope

__all__ = ["REPLAY_S", "Fit", "Replayed", "Replayer"]

REPLAY_S = 30.0
"""A handler that neither ends nor asks for what is not journaled within this is given up."""
SETTLE_S = 0.02
SETTLE_TURNS = 20
"""Branches of a handler that run side by side come to rest in turn: once nothing has moved for so
many turns of the loop and so long, none of them goes on."""
_UNREADABLE = (FailureKind.SCHEMA, FailureKind.UNDECODABLE, FailureKind.UNKNOWN_TASK)


class Fit(StrEnum):
    """How a journal and code go together."""

    ENDED = "ended"  # the handler came to its end, and asked for all that is journaled
    SO_FAR = "so far"  # it came to what the journal does not hold
    MISMATCH = "mismatch"
    RAISED = "raised"  # it raised, where the journaled execution did not
    STUCK = "stuck"  # it neither ended nor asked for anything
    UNREADABLE = "unreadable"  # journal or input cannot be read by this code
    SKIPPED = "skipped"  # its input is not in the journal

    @property
    def good(self) -> bool:
        """Whether the code may be deployed, as far as this task goes."""
        return self in (Fit.ENDED, Fit.SO_FAR, Fit.SKIPPED)


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of one task. `build`: that which began it; `told`: a diff, or a reason."""

    task: str
    name: str
    fit: Fit
    standing: TaskStanding
    steps: int
    build: str
    told: str = ""


class Replayer:
    """Replays journals of one agent against its code. Make one by `open`."""

    def __init__(self, agent: Agent, handlers: Mapping[str, Handler], tools: Tools) -> None:
        self._agent = agent
        self._handlers = handlers
        self._tools = tools

    @classmethod
    async def open(
        cls,
        environment: Environment,
        agent: Agent,
        registry: Registry,
        blobs: BlobStore,
        build: str | None = None,
    ) -> Replayer:
        """Prepare the agent's code; nothing is registered, but what would be is checked.

        Raises `IncompatibleSchema`, `UnsupportedType`, as the start of the agent would.
        """
        read_only = ReadOnlyRegistry(registry)
        handlers, _ = await register_tasks(agent, read_only)
        state = StateTypes(agent.name, read_only, agent.state)
        await state.start()
        worker = Worker(agent.name, build_id_of(agent, build))
        tools = Tools(environment, ReadOnlyPayloads(blobs), AnyTopics(), read_only, state, worker)
        return cls(agent, handlers, tools)

    async def replay(self, journal: TaskJournal) -> Replayed:
        """Replay one task."""
        envelope = journal.envelope
        if journal.problem is not None:
            return self._told(journal, Fit.UNREADABLE, journal.problem)
        if envelope is None:
            return self._told(journal, Fit.SKIPPED, "its input is not in the journal")
        handler = self._handlers.get(envelope.task)
        if handler is None:
            known = ", ".join(sorted(self._handlers))
            told = f"agent {self._agent.name!r} has no task {envelope.task!r}; it has: {known}"
            return self._told(journal, Fit.UNREADABLE, told)
        steps = ReplayJournal(journal)
        handler = handler.for_journal(steps.all)
        execution = Execution(handler, envelope, steps, self._tools, lambda *_: None)
        ending = await _run(execution, steps)
        if steps.beyond is None and ending is None:
            told = f"within {REPLAY_S:g} s it neither ended nor asked for a step that is new"
            return self._told(journal, Fit.STUCK, told)
        if ending is not None and steps.beyond is None:
            return self._of_ending(journal, ending)
        failure = None if ending is None else ending.failure
        if failure is not None and failure.kind is FailureKind.MISMATCH:
            return self._told(journal, Fit.MISMATCH, failure.message)
        return self._beyond(journal, envelope, steps)

    def _of_ending(self, journal: TaskJournal, ending: Ending) -> Replayed:
        failure = ending.failure
        if ending.outcome is Outcome.SUCCEEDED or failure is None:
            return self._told(journal, Fit.ENDED)
        if failure.kind is FailureKind.MISMATCH:
            return self._told(journal, Fit.MISMATCH, failure.message)
        if failure.kind in _UNREADABLE:
            return self._told(journal, Fit.UNREADABLE, failure.message)
        if journal.failed:
            return self._told(journal, Fit.ENDED, f"fails, as it did: {failure.message}")
        told = f"{failure.error_class}: {failure.message}\n{failure.traceback}".rstrip()
        return self._told(journal, Fit.RAISED, told)

    def _beyond(
        self, journal: TaskJournal, envelope: TaskEnvelope, steps: ReplayJournal
    ) -> Replayed:
        """The handler wants more than is journaled; all that is, it must have asked for by then."""
        asked = set(steps.asked)
        left = [
            step
            for name, step in journal.steps.items()
            if name not in asked
            and step.kind is not StepKind.PATCH
            and step.attempt == envelope.attempt
        ]
        if not left or (steps.beyond or "").startswith("the state"):
            return self._told(journal, Fit.SO_FAR, f"up to {steps.beyond}")
        diff = step_diff(journal.steps.values(), steps.asked, self._tools.worker.build_id)
        told = (
            f"it wants {steps.beyond}, which is not journaled, ahead of {len(left)} steps that are."
            f' Put what is new under `if await ctx.patched("NAME"):`\n{diff}'
        )
        return self._told(journal, Fit.MISMATCH, told)

    def _told(self, journal: TaskJournal, fit: Fit, told: str = "") -> Replayed:
        name = journal.envelope.task if journal.envelope is not None else "?"
        build = code_of(began_by(journal.steps.values())) if journal.steps else ""
        return Replayed(journal.task, name, fit, journal.standing, len(journal.steps), build, told)


async def _run(execution: Execution, steps: ReplayJournal) -> Ending | None:
    """Return how the handler ended; None: it came to rest, or did not within `REPLAY_S`."""
    body = asyncio.ensure_future(execution.run())
    reached = asyncio.ensure_future(steps.reached.wait())
    try:
        await asyncio.wait({body, reached}, timeout=REPLAY_S, return_when=asyncio.FIRST_COMPLETED)
        if not body.done() and steps.reached.is_set():
            await _settled(body, steps)
        if body.done():
            return body.result()
        return None
    finally:
        reached.cancel()
        if not body.done():
            execution.interrupt(Interrupt())
            await asyncio.wait({body}, timeout=1.0)


async def _settled(body: asyncio.Future[Ending | None], steps: ReplayJournal) -> None:
    """Wait until no branch of the handler moves any more."""
    still, moves = 0, -1
    while still < SETTLE_TURNS and not body.done():
        await asyncio.sleep(SETTLE_S / SETTLE_TURNS)
        still = still + 1 if steps.moves == moves else 0
        moves = steps.moves
