"""What the engine answers with, beside new state: records to be written in the same commit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from holdfast.coordinator.engine.state import Overlay
from holdfast.schemas.records import (
    BlobReference,
    ControlEnvelope,
    CoordinatorEnvelope,
    DeadLetter,
    Event,
    Marker,
    RunEnded,
    SourceSlot,
    TaskEnvelope,
)

__all__ = [
    "Effect",
    "Emit",
    "Fetch",
    "FindSchema",
    "Need",
    "Park",
    "Reaction",
    "Report",
    "SendControl",
    "SendTask",
    "Store",
    "Tell",
]


@dataclass(slots=True)
class Emit:
    """Append to `events`, in the slot's own partition."""

    event: Event


@dataclass(slots=True)
class SendTask:
    """Hand an attempt to an agent."""

    agent: str
    key: str
    envelope: TaskEnvelope


@dataclass(slots=True)
class SendControl:
    """Tell an agent about a task, or (`partition`) one of its slots about the agent."""

    agent: str
    key: str
    envelope: ControlEnvelope
    partition: int | None = None


@dataclass(slots=True)
class Park:
    """Write to the dead letters."""

    letter: DeadLetter


@dataclass(slots=True)
class Tell:
    """Speak to another entity, wherever it lives: a record of the coordinator's own topic."""

    key: str
    envelope: CoordinatorEnvelope


@dataclass(slots=True)
class Report:
    """Tell the source that submitted a run that it has ended, or will not be."""

    source: SourceSlot
    ended: RunEnded


Effect: TypeAlias = Emit | SendTask | SendControl | Park | Tell | Report


@dataclass(frozen=True, slots=True)
class Fetch:
    """The bytes of a blob are needed before the event can enter."""

    reference: BlobReference


@dataclass(frozen=True, slots=True)
class Store:
    """A payload that the event makes must stand in the blob store before its commit."""

    reference: BlobReference
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class FindSchema:
    """A schema id that is not known here yet."""

    schema_id: int


Need: TypeAlias = Fetch | Store | FindSchema


@dataclass(slots=True)
class Reaction:
    """The engine's answer to one input.

    With `needs`, nothing else counts: meet them and let the same input enter again. `more` asks
    for a `Continuation` of the entity once this is on its way.
    """

    entity: str
    overlay: Overlay
    markers: dict[str, Marker | None]
    effects: list[Effect]
    needs: tuple[Need, ...] = ()
    more: bool = False
