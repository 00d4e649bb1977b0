"""The engine: an input and a view in, a reaction out. Nothing else goes in, nothing else comes out.

Kinds of entities are registered by name; the first part of an entity's key says which one it is.
"""

from __future__ import annotations

from typing import Protocol

from holdfast.coordinator.engine.audit import StateKind
from holdfast.coordinator.engine.effects import Reaction
from holdfast.coordinator.engine.graphs import Graphs
from holdfast.coordinator.engine.inputs import Eviction, Input
from holdfast.coordinator.engine.limits import EngineLimits
from holdfast.coordinator.engine.markers import evict
from holdfast.coordinator.engine.pausing import AgentKind
from holdfast.coordinator.engine.run import EvaluatedLists, RunKind, Scope
from holdfast.coordinator.engine.schedule import ScheduleKind
from holdfast.coordinator.engine.state import Overlay, State, closed_key
from holdfast.coordinator.engine.values import Blocked, Values
from holdfast.schemas.records import Marker

__all__ = ["Engine", "Kind", "View"]


class Kind(Protocol):
    """One kind of entity."""

    @property
    def name(self) -> str:
        """The first part of its keys."""
        ...

    def react(
        self, overlay: Overlay, marker: Marker | None, input_: Input, now_ms: int
    ) -> Reaction:
        """Take one input of one entity; raises `Blocked` while it needs something."""
        ...


class View:
    """What a batch of events sees: the committed state, and over it what the batch has added."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.overlays: dict[str, Overlay] = {}
        self.markers: dict[str, Marker | None] = {}

    def open(self, entity: str) -> Overlay:
        """Return a new overlay for one event of an entity."""
        return Overlay(self.overlays.get(entity) or self.state.entity(entity))

    def marker(self, name: str) -> Marker | None:
        """Return a marker by `closed_key`."""
        if name in self.markers:
            return self.markers[name]
        return self.state.closed.get(name)

    def absorb(self, reaction: Reaction) -> None:
        """Add what an event changes."""
        if reaction.overlay.changes:
            mine = self.overlays.get(reaction.entity)
            if mine is None:
                mine = self.overlays[reaction.entity] = Overlay(self.state.entity(reaction.entity))
            mine.absorb(reaction.overlay)
        self.markers.update(reaction.markers)

    def apply(self) -> None:
        """Make all of it part of the state."""
        for entity, overlay in self.overlays.items():
            self.state.apply(entity, overlay)
        self.state.apply_markers(self.markers)


class Engine:
    """Pure: the same inputs on the same view give the same reactions, byte for byte."""

    def __init__(self, limits: EngineLimits, values: Values, graphs: Graphs) -> None:
        self._limits = limits
        kinds: list[Kind] = [
            RunKind(Scope(limits, values, graphs, EvaluatedLists())),
            StateKind(),
            ScheduleKind(),
            AgentKind(limits),
        ]
        self._kinds = {kind.name: kind for kind in kinds}

    def react(self, view: View, input_: Input, now_ms: int) -> Reaction:
        """Return what follows from one input; `view` is not changed.

        A reaction with `needs` is void: meet them and ask again.
        """
        overlay = view.open(input_.entity)
        if isinstance(input_, Eviction):
            return evict(view.state.closed, overlay, now_ms, self._limits)
        kind, _, entity_id = input_.entity.partition("/")
        # Runs leave markers; the id of a schedule may be that of a run.
        marker = view.marker(closed_key(entity_id)) if kind == RunKind.name else None
        try:
            return self._kinds[kind].react(overlay, marker, input_, now_ms)
        except Blocked as blocked:
            return Reaction(input_.entity, Overlay(overlay.below), {}, [], needs=blocked.needs)
