"""What enters the engine. Each input belongs to one entity and is a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from holdfast.schemas.pauses import AGENT_PREFIX
from holdfast.schemas.plan_versions import ResolvedChange
from holdfast.schemas.records import Cause, CoordinatorEnvelope, StateDeletion
from holdfast.schemas.resolution import ResolvedPlan, ResolvedTask
from holdfast.schemas.schedules import SCHEDULE_PREFIX

__all__ = ["Arrival", "Broken", "Continuation", "Eviction", "Input", "TimerDue"]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A record of the coordinator's topic.

    `record_key` is the key it came under. `problem` says why a submission cannot be run, or what an
    ask calls cannot be called (found by the service, which knows the agents); `resolved`: what the
    agents say of the task, plan or change that an ask names; of a command about an agent, how many
    partitions its topics have. `events_from` is a lower bound of the place of an event that is
    written now. `buried`: the record that a result speaks of could not be read, and stands whole in
    the dead letters already.
    """

    envelope: CoordinatorEnvelope
    cause: Cause
    record_key: str
    problem: str | None = None
    events_from: int = 0
    buried: bool = False
    resolved: ResolvedPlan | ResolvedTask | ResolvedChange | int | None = None

    @property
    def entity(self) -> str:
        """The key of the entity it is for."""
        if isinstance(self.envelope.body, StateDeletion):
            return self.envelope.run_id
        name = self.envelope.run_id
        return name if name.startswith((SCHEDULE_PREFIX, AGENT_PREFIX)) else f"run/{name}"


@dataclass(frozen=True, slots=True)
class TimerDue:
    """The timer of one record of an entity may be due; the engine looks at the state."""

    entity: str
    name: str


@dataclass(frozen=True, slots=True)
class Continuation:
    """An entity may have work left that did not fit into one event; the state tells which."""

    entity: str


@dataclass(frozen=True, slots=True)
class Broken:
    """What an input led to cannot be written, or failed: its entity must end.

    `arrival` is the input, where it came from the topic; `reason` is for people.
    """

    entity: str
    arrival: Arrival | None
    reason: str


@dataclass(frozen=True, slots=True)
class Eviction:
    """Markers of closed runs may be too old or too many."""

    entity: str = "closed/"


Input: TypeAlias = Arrival | TimerDue | Continuation | Broken | Eviction
