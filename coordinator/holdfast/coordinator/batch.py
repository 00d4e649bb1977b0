"""One batch of inputs, run on an overlay, and the records that its commit holds.

The inputs of a batch build on each other, so all of its records are one `Change`. When the bus
does not take one of them the batch is run again, with the input that led to it replaced by the
end of its run: the same inputs are settled, and the slot goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from holdfast.bus.errors import Rejected
from holdfast.bus.port import Received, Record
from holdfast.coordinator import metrics
from holdfast.coordinator.engine import (
    CLOSED_KIND,
    Arrival,
    Broken,
    Continuation,
    Effect,
    Engine,
    Input,
    Need,
    Reaction,
    Report,
    SendControl,
    State,
    Value,
    View,
)
from holdfast.coordinator.writing import Writing
from holdfast.schemas.errors import Unencodable

__all__ = ["Batch", "Pending", "Slotted"]

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Pending:
    """An input that waits. `lane`: inputs of one lane are taken in order.

    `offset` is that of the record it came from (None: it came from no record); `records` are
    written beside what the engine answers; without an input they are all there is. `received` is
    that record, for the case that it has to wait.
    """

    lane: str
    input: Input | None
    offset: int | None = None
    records: tuple[Record, ...] = ()
    received: Received | None = None
    doubtful: bool = False
    """A submission whose agents are not known: perhaps they were just started; look again first."""
    loaded: set[str] = field(default_factory=set)
    """Names of the blobs that were fetched or stored for it."""
    reports: tuple[Report, ...] = ()
    """What sources are told beside what the engine answers, as far as they can be."""


@dataclass(frozen=True, slots=True)
class Slotted:
    """What a batch asks of its slot: to check a record, and to make one of the journal."""

    check: Callable[[Record], None]
    journal: Callable[[str, bytes | None], Record]


class Batch:
    """Runs inputs one after the other on one view."""

    def __init__(
        self, engine: Engine, state: State, writing: Writing, slotted: Slotted, now_ms: int
    ) -> None:
        self._engine = engine
        self._state = state
        self._writing = writing
        self._slotted = slotted
        self.now_ms = now_ms
        """The slot's time, at which all of it happens."""
        self._broken: dict[Pending, str] = {}
        self._muted: set[Pending] = set()
        """Broken inputs whose agents cannot even be told to let go: their topics are gone."""
        self._unheard: set[Pending] = set()
        """Inputs whose source cannot be told of an end: its topics are gone. The end stands."""
        self._beside: Sequence[Record] = ()
        self._start()

    def _start(self) -> None:
        self.view = View(self._state)
        self.records: list[Record] = []
        self.taken: list[Pending] = []
        self.effects: list[Effect] = []
        self.unfinished: set[str] = set()
        """Entities that have more to do."""
        self._owner: dict[int, Pending] = {}
        self._last: dict[str, Pending] = {}
        self._reports: set[int] = set()

    def take(self, pending: Pending) -> tuple[Need, ...]:
        """Run one input; if it needs something first, return that and leave the batch as it was."""
        if pending.input is not None:
            reaction = self._react(pending, pending.input)
            if reaction.needs:
                return reaction.needs
        for record in (*pending.records, *self._heard(pending, pending.reports)):
            self._own(record, pending)
        self.taken.append(pending)
        return ()

    def finish(self, beside: Sequence[Record] = ()) -> None:
        """Add the records of the journal: the last value of each key that the batch changed.

        `beside`: records that go with this commit whatever becomes of its inputs; checked before.
        """
        self._beside = beside
        while (problem := self._add_journal()) is not None:
            culprit, reason = problem
            self._broken[culprit] = reason
            self._again()
        self.records += self._beside

    def refuse(self, error: Rejected) -> None:
        """Run the batch again without what led to the refused record. Raises if nothing did."""
        culprit = self._owner.get(id(error.record))
        if culprit is not None and id(error.record) in self._reports:
            self._unheard.add(culprit)
            self._again()
        elif culprit is None or culprit in self._muted:
            raise error
        else:
            if culprit in self._broken:
                self._muted.add(culprit)
            self._broken.setdefault(culprit, str(error))
            self._again()
        self.finish(self._beside)

    def _again(self) -> None:
        taken = self.taken
        self._start()
        for pending in taken:
            needs = self.take(pending)
            # The others do what they did before, or less: the culprit's run is gone.
            assert not needs, f"a settled input of {pending.lane} needs {needs}"

    def _react(self, pending: Pending, input_: Input) -> Reaction:
        reason = self._broken.get(pending)
        if reason is None:
            reaction, reason = self._try(pending, input_)
            if reaction is not None:
                return reaction
            self._broken[pending] = reason
        return self._break(pending, input_, reason)

    def _try(self, pending: Pending, input_: Input) -> tuple[Reaction | None, str]:
        """Return the reaction (added to the batch unless it has needs), or why there is none."""
        try:
            reaction = self._engine.react(self.view, input_, self.now_ms)
            if not reaction.needs:
                self._add(pending, reaction)
        except (Rejected, Unencodable) as error:
            return None, str(error)
        except Exception as error:
            logger.exception("the engine failed on an input of %s", input_.entity)
            return None, f"internal error: {type(error).__name__}: {error}"
        return reaction, ""

    def _break(self, pending: Pending, input_: Input, reason: str) -> Reaction:
        metrics.BROKEN.inc()
        logger.error("%s cannot go on and is ended: %s", input_.entity, reason)
        arrival = input_ if isinstance(input_, Arrival) else None
        broken = Broken(input_.entity, arrival, reason)
        reaction = self._engine.react(self.view, broken, self.now_ms)
        try:
            self._add(pending, self._unless_muted(pending, reaction))
        except Rejected:
            if pending in self._muted:
                raise
            self._muted.add(pending)
            self._add(pending, self._unless_muted(pending, reaction))
        return reaction

    def _unless_muted(self, pending: Pending, reaction: Reaction) -> Reaction:
        if pending in self._muted:
            effects = reaction.effects
            kept: list[Effect] = [e for e in effects if not isinstance(e, SendControl)]
            return replace(reaction, effects=kept)
        return reaction

    def _add(self, pending: Pending, reaction: Reaction) -> None:
        records = [
            self._writing.effect(effect)
            for effect in reaction.effects
            if not isinstance(effect, Report)
        ]
        for record in records:
            self._slotted.check(record)
        records += self._heard(pending, reaction.effects)
        for record in records:
            self._own(record, pending)
        self.view.absorb(reaction)
        self.effects += reaction.effects
        self._last[reaction.entity] = pending
        if reaction.more:
            self.unfinished.add(reaction.entity)
        elif isinstance(pending.input, Continuation):
            # Only a continuation looks at all that may be left.
            self.unfinished.discard(reaction.entity)

    def _heard(self, pending: Pending, effects: Iterable[Effect]) -> list[Record]:
        """Return what sources are told, as far as they can be: a run that has ended has ended."""
        heard = []
        for effect in effects:
            if not isinstance(effect, Report):
                continue
            record = self._writing.effect(effect)
            try:
                if pending in self._unheard:
                    raise Rejected(record, "the bus did not take it")
                self._slotted.check(record)
            except Rejected as error:
                metrics.UNHEARD.inc()
                logger.warning("source %r is not told of an end: %s", effect.source.name, error)
                continue
            self._reports.add(id(record))
            heard.append(record)
        return heard

    def _own(self, record: Record, pending: Pending) -> None:
        self.records.append(record)
        self._owner[id(record)] = pending

    def _add_journal(self) -> tuple[Pending, str] | None:
        """Return the input that led to a value that cannot be journaled, and why."""
        made: list[tuple[Record, Pending]] = []
        for entity, name, value in self._journal_values():
            pending = self._last.get(entity) or self.taken[-1]
            try:
                data = None if value is None else self._writing.journal(value)
                record = self._slotted.journal(f"{entity}/{name}" if name else entity, data)
                self._slotted.check(record)
            except (Rejected, Unencodable) as error:
                if pending in self._broken:
                    raise
                return pending, str(error)
            made.append((record, pending))
        for record, pending in made:
            self._own(record, pending)
        return None

    def _journal_values(self) -> Iterable[tuple[str, str, Value | None]]:
        for entity, overlay in self.view.overlays.items():
            below = self._state.entities.get(entity)
            for name, value in overlay.changes.items():
                # What came and went within one batch was never written: no tombstone either.
                if value is not None or (below is not None and name in below.records):
                    yield entity, name, value
        for name, marker in self.view.markers.items():
            yield CLOSED_KIND, name, marker
