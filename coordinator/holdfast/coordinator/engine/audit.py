"""What agents tell that belongs to no run, for the audit trail: what was deleted of their state.

An entity `state/<agent>` holds nothing: each word of the agent becomes one event, in the commit
that passes it.
"""

from __future__ import annotations

from holdfast.coordinator.engine.effects import Effect, Emit, Reaction
from holdfast.coordinator.engine.inputs import Arrival, Broken, Input
from holdfast.coordinator.engine.state import Overlay
from holdfast.schemas.records import Cause, Event, EventType, Marker, StateDeletion

__all__ = ["StateKind"]

MESSAGE_CHARS_MAX = 2_000


class StateKind:
    """Reacts for entities `state/<agent>`."""

    name = "state"

    def react(
        self, overlay: Overlay, marker: Marker | None, input_: Input, now_ms: int
    ) -> Reaction:
        """Write an event for a deletion; there are no other inputs."""
        del marker
        effects: list[Effect] = []
        if isinstance(input_, Arrival):
            body = input_.envelope.body
            assert isinstance(body, StateDeletion), "`Arrival.entity` sends nothing else here"
            message = _told(body)
            effects.append(Emit(_event(input_.entity, now_ms, input_.cause, message, body)))
        elif isinstance(input_, Broken) and input_.arrival is not None:
            reason = input_.reason[:MESSAGE_CHARS_MAX]
            effects.append(Emit(_event(input_.entity, now_ms, input_.arrival.cause, reason, None)))
        return Reaction(input_.entity, overlay, {}, effects)


def _event(
    entity: str, now_ms: int, cause: Cause, message: str, deletion: StateDeletion | None
) -> Event:
    event = Event(entity, EventType.STATE_DELETED, now_ms, cause, None, None, message)
    event.deletion = deletion
    return event


def _told(deletion: StateDeletion) -> str:
    names = ", ".join(deletion.deleted) or "nothing was there"
    reason = f": {deletion.reason}" if deletion.reason else ""
    return f"deleted by {deletion.actor} ({names}){reason}"
