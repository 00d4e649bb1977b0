"""One run, worked again by the pure engine from what its events name as their causes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from holdfast.bus.port import Position
from holdfast.coordinator.directory import offered_task
from holdfast.coordinator.engine import (
    Arrival,
    Broken,
    Continuation,
    Emit,
    Engine,
    Fetch,
    Graphs,
    Input,
    Park,
    Reaction,
    SendControl,
    SendTask,
    State,
    Store,
    TimerDue,
    Value,
    Values,
    View,
    ask_name,
    closed_key,
)
from holdfast.coordinator.reading import Unreadable, read
from holdfast.schemas.codec import decode
from holdfast.schemas.documents import DocumentCodec
from holdfast.schemas.errors import HoldfastError, UnknownSchema
from holdfast.schemas.plan import PlanDocument
from holdfast.schemas.plan_change import PlanChangeDocument
from holdfast.schemas.plan_versions import ResolvedChange, resolve_change
from holdfast.schemas.records import (
    Ask,
    AskEntry,
    CallAsk,
    ControlEnvelope,
    DeadLetter,
    Event,
    EventType,
    Manifest,
    PlanAsk,
    RunAsk,
    RunEntry,
    TaskEntry,
    TaskEnvelope,
    UndoAsk,
)
from holdfast.schemas.resolution import ResolvedPlan, ResolvedTask, resolve
from holdfast.testing.history import Decoded, History
from holdfast.testing.invariants.ends import END_EVENTS

__all__ = ["Rerun", "Rerunner"]

CONTINUATIONS_MAX = 10_000
SILENT_MAX = 8
"""So many single timers are tried for a change that left no event."""
HEADER_DEAD_LETTER = "holdfast-dead-letter"

Sent = TaskEnvelope | ControlEnvelope | DeadLetter


@dataclass(slots=True)
class Rerun:
    """What became of one run. `problem`: the first difference (what, where); `unjudged`: why the
    rest could not be run. `passed`: by journal key, all values it had; `sent`: (agent, envelope or
    letter, the event it came with)."""

    run_id: str
    state: State = field(default_factory=State)
    problem: tuple[str, str] | None = None
    unjudged: str = ""
    inputs: int = 0
    events: int = 0
    closed: bool = False
    passed: dict[str, list[Value]] = field(default_factory=dict)
    sent: list[tuple[str, Sent, str]] = field(default_factory=list)

    def settles_to(self, name: str, journaled: object) -> bool:
        """Tell whether a timer without an event may have led on to what the journal holds."""
        mine = self.state.entity(f"run/{self.run_id}").get(name)
        if not isinstance(mine, TaskEntry) or not isinstance(journaled, TaskEntry):
            return False
        silent = mine.timer_ms is not None and journaled.timer_ms is None
        return silent and journaled.row.version == mine.row.version + 1


class _Lacks(Exception):
    """The engine needs what the history does not have."""


def _newest_manifests(history: History) -> dict[str, Manifest]:
    found: dict[str, Manifest] = {}
    for _, log in history.log(history.topics.agents):
        for received in log:
            if received.value is not None:
                manifest = decode(Manifest, received.value)
                found[manifest.agent] = manifest
    return found


class Rerunner:
    """Runs runs again. `schemas`: texts by id; `events_from`: by run id, or name of a marker."""

    def __init__(
        self, history: History, schemas: Mapping[int, str], events_from: Mapping[str, int]
    ) -> None:
        self._history = history
        parsed: dict[int, Any] = {}

        def known(schema_id: int) -> Any | None:
            if schema_id not in parsed and schema_id in schemas:
                parsed[schema_id] = json.loads(schemas[schema_id])
            return parsed.get(schema_id)

        self._known = known
        self._manifests = _newest_manifests(history)
        self._values = Values(DocumentCodec(known))
        self._engine = Engine(history.limits, self._values, Graphs(limit=1_000))
        self._events_from = events_from

    def run(self, run_id: str) -> Rerun:
        """Work one run again, to the first difference."""
        rerun = Rerun(run_id)
        events = self._history.events_of[run_id]
        at = 0
        try:
            while at < len(events):
                taken = self._step(rerun, events, at)
                if not taken:
                    return rerun
                at += taken
            self._settle(rerun, events)
        except _Lacks as lacks:
            rerun.unjudged = str(lacks)
        return rerun

    # --- one input -----------------------------------------------------------------------------

    def _step(self, rerun: Rerun, events: Sequence[Decoded[Event]], at: int) -> int:
        """Take the input that led to the next event; return how many events it explains."""
        event = events[at]
        if event.body.cause is None:
            return self._first_that_fits(rerun, self._hidden(rerun, event.body), events, at)
        found = self._arrival(event.body)
        if found is None:
            rerun.problem = ("its cause is not on the topic", event.place)
            return 0
        if isinstance(found, Unreadable):
            if found.arrival is None:
                return self._answered(rerun, found, event)
            found = found.arrival
        inputs: list[Input] = [found, Broken(found.entity, found, event.body.message)]
        if isinstance(found.envelope.body, Ask) and found.resolved is not None:
            # An agent may have published itself only after the ask for it was answered.
            inputs.insert(1, replace(found, problem=event.body.message, resolved=None))
        return self._first_that_fits(rerun, iter(inputs), events, at)

    def _arrival(self, event: Event) -> Arrival | Unreadable | None:
        assert event.cause is not None
        where = (event.cause.partition, event.cause.offset)
        given = self._history.input_at.get(where)
        if given is None:
            topic = self._history.topics.coordinator
            received = self._history.unreadable_inputs.get(Position(topic, *where))
            return None if received is None else read(received, 0)
        received = given.received
        known = self._events_from
        run_id = given.body.run_id
        resolved = self._resolved(given.body.body)
        refused = event.type is EventType.RUN_REFUSED or isinstance(resolved, str)
        return Arrival(
            given.body,
            event.cause,
            (received.key or b"").decode(),
            event.message if refused else None,
            known.get(run_id, known.get(closed_key(run_id), 0)),
            any(name == HEADER_DEAD_LETTER for name, _ in received.headers),
            None if isinstance(resolved, str) else resolved,
        )

    def _resolved(self, body: object) -> ResolvedTask | ResolvedPlan | ResolvedChange | str | None:
        """Return what agents said of what an ask names; as text, why it cannot be."""
        what = body.what if isinstance(body, Ask) else None
        if isinstance(what, CallAsk | UndoAsk):
            manifest = self._manifests.get(what.agent)
            return "unknown" if manifest is None else offered_task(manifest, what.task)
        if isinstance(what, RunAsk):
            try:
                return resolve(PlanDocument.from_json(what.plan), self._manifests, self._schema)
            except HoldfastError as error:
                return str(error)
        if isinstance(what, PlanAsk):
            try:
                change = PlanChangeDocument.from_json(what.change)
                return resolve_change(change, self._manifests, self._schema)
            except HoldfastError as error:
                return str(error)
        return None

    def _schema(self, schema_id: int) -> Any:
        schema = self._known(schema_id)
        if schema is None:
            raise UnknownSchema(str(schema_id))
        return schema

    def _answered(self, rerun: Rerun, found: Unreadable, event: Decoded[Event]) -> int:
        said = [each.event for each in found.answers if isinstance(each, Emit)]
        if event.body not in said:
            rerun.problem = ("an unreadable record is answered otherwise", event.place)
            return 0
        rerun.events += 1
        return 1

    def _hidden(self, rerun: Rerun, event: Event) -> Iterator[Input]:
        """What may have led to an event without a cause: timers, the likeliest first; or work that
        was left."""
        entity = f"run/{rerun.run_id}"
        due = self._due(rerun, event.at_ms)
        likely = event.task.task_id if event.task is not None else ""
        if event.ask is not None:
            likely = ask_name(event.ask.task_id, event.ask.name, event.ask.key)
        if likely in due:
            yield TimerDue(entity, likely)
        yield Continuation(entity)
        for name in due:
            if name != likely:
                yield TimerDue(entity, name)
        yield Broken(entity, None, event.message)

    def _due(self, rerun: Rerun, now_ms: int) -> list[str]:
        records = rerun.state.entity(f"run/{rerun.run_id}").records
        due = [
            (value.timer_ms, name)
            for name, value in records.items()
            if isinstance(value, RunEntry | TaskEntry | AskEntry)
            and value.timer_ms is not None
            and value.timer_ms <= now_ms
        ]
        return [name for _, name in sorted(due)]

    def _first_that_fits(
        self,
        rerun: Rerun,
        inputs: Iterator[Input],
        events: Sequence[Decoded[Event]],
        at: int,
    ) -> int:
        now_ms = events[at].body.at_ms
        nearest = ""
        for input_ in inputs:
            for silent in self._silences(rerun, events[at].body):
                trial = _Trial(self, rerun, now_ms)
                if not trial.pass_silently(silent):
                    continue
                trial.take(input_)
                taken, difference = trial.compare(events, at)
                if taken:
                    trial.keep(events[at].place)
                    if isinstance(input_, Broken) and input_.reason.startswith("internal error"):
                        rerun.problem = (input_.reason, events[at].place)
                        return 0
                    return taken
                nearest = nearest or difference
        body = events[at].body
        rerun.problem = (
            f"{body.type} of {rerun.run_id}: the engine decides otherwise: {nearest or 'nothing'}",
            events[at].place,
        )
        return 0

    def _silences(self, rerun: Rerun, event: Event) -> Iterator[list[str]]:
        """Yield which timers may have passed without an event before this input.

        The fewest first: one that is passed too late is passed when an event needs it, one that
        is passed too early makes a version that no event has.
        """
        yield []
        due = [name for name in self._due(rerun, event.at_ms) if name]
        own = "" if event.task is None else event.task.task_id
        for name in sorted(due, key=lambda name: name != own)[:SILENT_MAX]:
            yield [name]
        if len(due) > 1:
            yield due

    # --- the engine ----------------------------------------------------------------------------

    def react(self, view: View, input_: Input, now_ms: int) -> Reaction:
        """Return the engine's answer, with its needs met; raises `_Lacks`."""
        while True:
            reaction = self._engine.react(view, input_, now_ms)
            for need in reaction.needs:
                if isinstance(need, Store):
                    self._values.stored.add(need.reference.name)
                elif isinstance(need, Fetch) and need.reference.name in self._history.blobs:
                    name = need.reference.name
                    self._values.loaded[name] = self._history.blobs[name]
                else:
                    raise _Lacks(f"{need} is not in the history")
            if not reaction.needs:
                return reaction

    def _settle(self, rerun: Rerun, events: Sequence[Decoded[Event]]) -> None:
        """After the last event: remove what is left of a closed run, as continuations do."""
        rerun.closed = any(event.body.type in END_EVENTS for event in events)
        entity = f"run/{rerun.run_id}"
        for _ in range(CONTINUATIONS_MAX):
            if not rerun.closed or not rerun.state.entity(entity).records:
                return
            trial = _Trial(self, rerun, events[-1].body.at_ms)
            trial.take(Continuation(entity))
            if trial.emitted:
                return
            trial.keep(events[-1].place)


class _Trial:
    """One input, tried on a view of a rerun's state."""

    def __init__(self, rerunner: Rerunner, rerun: Rerun, now_ms: int) -> None:
        self._rerunner = rerunner
        self._rerun = rerun
        self._now_ms = now_ms
        self._view = View(rerun.state)
        self._passed: list[tuple[str, Value]] = []
        self._sent: list[tuple[str, Sent]] = []
        self.emitted: list[Event] = []

    def pass_silently(self, names: Sequence[str]) -> bool:
        """Let timers pass; False if one of them says something."""
        for name in names:
            self.take(TimerDue(f"run/{self._rerun.run_id}", name))
            if self.emitted:
                return False
        return True

    def take(self, input_: Input) -> None:
        """Run one input on the view."""
        reaction = self._rerunner.react(self._view, input_, self._now_ms)
        for effect in reaction.effects:
            if isinstance(effect, Emit):
                self.emitted.append(effect.event)
            elif isinstance(effect, SendTask | SendControl):
                if not (isinstance(input_, Broken) and isinstance(effect, SendControl)):
                    self._sent.append((effect.agent, effect.envelope))
            elif isinstance(effect, Park):
                self._sent.append(("", effect.letter))
        for name, value in reaction.overlay.changes.items():
            if value is not None:
                key = f"{reaction.entity}/{name}" if name else reaction.entity
                self._passed.append((key, value))
        self._view.absorb(reaction)

    def compare(self, events: Sequence[Decoded[Event]], at: int) -> tuple[int, str]:
        """Return how many events it explains, and otherwise what differs."""
        if not self.emitted:
            return 0, ""
        for index, emitted in enumerate(self.emitted):
            if at + index >= len(events):
                return 0, f"{emitted.type} is missing"
            if emitted != events[at + index].body:
                return 0, _difference(emitted, events[at + index].body)
        end = at + len(self.emitted)
        cause = events[at].body.cause
        if cause is not None and end < len(events) and events[end].body.cause == cause:
            return 0, f"nothing more, the log says {events[end].body.type}"
        return len(self.emitted), ""

    def keep(self, where: str) -> None:
        """Make it part of the rerun."""
        rerun = self._rerun
        self._view.apply()
        rerun.inputs += 1
        rerun.events += len(self.emitted)
        for key, value in self._passed:
            rerun.passed.setdefault(key, []).append(value)
        rerun.sent += [(agent, sent, where) for agent, sent in self._sent]


def _difference(decided: Event, logged: Event) -> str:
    if decided.type is not logged.type:
        return f"{decided.type}, the log says {logged.type}"
    for owner, mine, theirs in (
        ("", decided, logged),
        ("run.", decided.run, logged.run),
        ("task.", decided.task, logged.task),
    ):
        if mine is None or theirs is None:
            continue
        for name in type(mine).__slots__:
            before, after = getattr(mine, name), getattr(theirs, name)
            if before != after and name not in ("run", "task"):
                return f"{owner}{name} is {before!r:.200}, the log says {after!r:.200}"
    return "a row is missing"
