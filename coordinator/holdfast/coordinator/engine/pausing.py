"""An agent as a kind of entity: who paused it, or one order key at it, since when and why.

A pause is a record under `agent/<agent>/all` or `agent/<agent>/key/<hash>`; to resume removes it.
The agent hears of both by a control record in the same commit: each of its slots of a pause of the
whole agent, by number; the order key's slot of one of a key.
"""

from __future__ import annotations

from dataclasses import replace

from holdfast.coordinator.engine.counting import PAUSES
from holdfast.coordinator.engine.effects import Effect, Emit, Reaction, SendControl
from holdfast.coordinator.engine.inputs import Arrival, Broken, Input
from holdfast.coordinator.engine.limits import EngineLimits
from holdfast.coordinator.engine.state import Overlay
from holdfast.schemas.command_arguments import PauseArguments
from holdfast.schemas.pauses import AGENT_PREFIX, pause_name
from holdfast.schemas.records import (
    AgentPause,
    Cause,
    Command,
    CommandAction,
    ControlAction,
    ControlEnvelope,
    Event,
    EventType,
    Marker,
)

__all__ = ["AgentKind"]

PAUSED_KEYS_MAX = 10_000
"""Of one agent: each stands in the memory of a slot of the coordinator, and of one of the agent."""
COMMAND_CHARS_MAX = 16_384
"""Of reason, actor and arguments together: events repeat them."""
NOTE_CHARS_MAX = 500


class AgentKind:
    """Reacts for entities `agent/<agent>`."""

    name = "agent"

    def __init__(self, limits: EngineLimits) -> None:
        self._limits = limits

    def react(
        self, overlay: Overlay, marker: Marker | None, input_: Input, now_ms: int
    ) -> Reaction:
        """Take a command; there are no timers of agents."""
        del marker
        effects: list[Effect] = []
        if isinstance(input_, Arrival):
            word = _Word(input_, overlay, now_ms)
            effects = word.take(self._limits.records_per_event)
        elif isinstance(input_, Broken) and input_.arrival is not None:
            message = input_.reason[:NOTE_CHARS_MAX]
            effects = [_refusal(input_.entity, now_ms, input_.arrival.cause, message, None)]
        return Reaction(input_.entity, overlay, {}, effects)


class _Word:
    """One command about one agent."""

    def __init__(self, arrival: Arrival, overlay: Overlay, now_ms: int) -> None:
        command = arrival.envelope.body
        assert isinstance(command, Command), "nothing else is read for an agent"
        self.entity, self.cause = arrival.entity, arrival.cause
        self.agent = arrival.entity.removeprefix(AGENT_PREFIX)
        self.partitions = arrival.resolved
        self.problem = arrival.problem
        self.command = command
        self.overlay, self.now_ms = overlay, now_ms

    def take(self, records_max: int) -> list[Effect]:
        """Do what is asked, or say what the state is and what can be done."""
        command = self.command
        if len(command.reason) + len(command.actor) + len(command.arguments) > COMMAND_CHARS_MAX:
            message = f"the reason is too long: at most {COMMAND_CHARS_MAX} characters are taken"
            return [self._refuse(message, None)]
        try:
            order_key = PauseArguments.of(command.arguments).order_key
        except ValueError as error:
            return [self._refuse(f"{command.action}: {error}", command)]
        known = self.overlay.get(pause_name(order_key))
        found = known if isinstance(known, AgentPause) else None
        problem = self._refused(found, order_key, records_max)
        if problem is not None:
            return [self._refuse(problem, command)]
        if command.action is CommandAction.PAUSE:
            return self._pause(order_key)
        assert found is not None, "checked just above"
        return self._resume(found)

    def _refused(
        self, found: AgentPause | None, order_key: str | None, records_max: int
    ) -> str | None:
        what = _what(self.agent, order_key)
        if self.problem is not None:
            return self.problem
        if self.command.action not in (CommandAction.PAUSE, CommandAction.RESUME):
            return f"{self.command.action} is nothing for an agent: it can be paused and resumed"
        if self.command.action is CommandAction.RESUME:
            return None if found is not None else f"{what} is not paused: there is nothing to do"
        if found is not None:
            reason = f": {found.reason}" if found.reason else ""
            return f"{what} is paused already, by {found.actor}{reason}; resume it first"
        if order_key is not None and self.overlay.count(PAUSES, "key") >= PAUSED_KEYS_MAX:
            return (
                f"agent {self.agent!r} has {PAUSED_KEYS_MAX} paused order keys, which is all it may"
                " have: resume some, or pause the agent"
            )
        if order_key is None and self._slots() + 2 > records_max:
            return (
                f"agent {self.agent!r} has {self._slots()} partitions: at most {records_max - 2}"
                " can be told at once"
            )
        return None

    def _slots(self) -> int:
        assert isinstance(self.partitions, int), "the service has looked it up"
        return self.partitions

    def _pause(self, order_key: str | None) -> list[Effect]:
        command = self.command
        pause = AgentPause(self.agent, order_key, command.actor, command.reason, self.now_ms)
        self.overlay.put(pause_name(order_key), pause)
        message = _told(f"{_what(self.agent, order_key)} paused", command)
        event = self._event(EventType.AGENT_PAUSED, message, pause)
        return [event, *self._words(ControlAction.PAUSE, pause)]

    def _resume(self, found: AgentPause) -> list[Effect]:
        self.overlay.put(pause_name(found.order_key), None)
        message = _told(f"{_what(self.agent, found.order_key)} resumed", self.command)
        if found.order_key is not None and self.overlay.get(pause_name(None)) is not None:
            message += "; the whole agent is still paused"
        event = self._event(EventType.AGENT_RESUMED, message, found)
        return [event, *self._words(ControlAction.RESUME, found)]

    def _words(self, action: ControlAction, pause: AgentPause) -> list[Effect]:
        word = ControlEnvelope("", "", 0, action, self.command.reason, "", self.now_ms)
        word.pause = pause
        if pause.order_key is not None:
            return [SendControl(self.agent, f"o:{pause.order_key}", word)]
        return [SendControl(self.agent, "", word, number) for number in range(self._slots())]

    def _event(self, kind: EventType, message: str, pause: AgentPause) -> Emit:
        event = Event(self.entity, kind, self.now_ms, self.cause, None, None, message)
        event.command, event.pause = replace(self.command, output=None), pause
        return Emit(event)

    def _refuse(self, message: str, command: Command | None) -> Emit:
        return _refusal(self.entity, self.now_ms, self.cause, message, command)


def _refusal(entity: str, now_ms: int, cause: Cause, message: str, command: Command | None) -> Emit:
    event = Event(entity, EventType.COMMAND_REFUSED, now_ms, cause, None, None, message)
    event.command = None if command is None else replace(command, output=None)
    return Emit(event)


def _what(agent: str, order_key: str | None) -> str:
    if order_key is None:
        return f"agent {agent!r}"
    return f"order key {order_key!r} at agent {agent!r}"


def _told(what: str, command: Command) -> str:
    return f"{what} by {command.actor}" + (f": {command.reason}" if command.reason else "")
