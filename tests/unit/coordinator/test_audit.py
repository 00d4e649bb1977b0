"""Words of agents that belong to no run: each deletion of state becomes one event."""

from __future__ import annotations

import pytest

from holdfast.bus.port import Received
from holdfast.coordinator.engine import Arrival, Broken, Emit, Engine, EngineLimits, State, View
from holdfast.coordinator.engine.graphs import Graphs
from holdfast.coordinator.engine.values import Values
from holdfast.coordinator.reading import Unreadable, read
from holdfast.schemas import DocumentCodec, encode
from holdfast.schemas.records import Cause, CoordinatorEnvelope, EventType, StateDeletion

DELETION = StateDeletion("d1", "k/1", None, "ada@host", "she asked", 5, ["log", "total"])


def received(run_id: str, key: str) -> Received:
    value = encode(CoordinatorEnvelope(run_id, 5, DELETION))
    return Received("ns.coordinator", 3, 17, key.encode(), value, (), 5)


def engine() -> Engine:
    return Engine(EngineLimits(), Values(DocumentCodec(lambda _: None)), Graphs(limit=1))


def test_a_deletion_becomes_an_event_and_leaves_no_state() -> None:
    found = read(received("state/desk", "state/desk"), 0)
    assert isinstance(found, Arrival)
    view = View(State())
    reaction = engine().react(view, found, 9)
    (effect,) = reaction.effects
    assert isinstance(effect, Emit)
    event = effect.event
    assert (event.run_id, event.type, event.at_ms) == ("state/desk", EventType.STATE_DELETED, 9)
    assert event.cause == Cause(3, 17)
    assert event.deletion == DELETION
    assert event.message == "deleted by ada@host (log, total): she asked"
    view.absorb(reaction)
    view.apply()
    assert not view.state.entities


def test_one_that_cannot_be_written_is_told_without_what_it_held() -> None:
    found = read(received("state/desk", "state/desk"), 0)
    assert isinstance(found, Arrival)
    broken = Broken(found.entity, found, "too large")
    (effect,) = engine().react(View(State()), broken, 9).effects
    assert isinstance(effect, Emit)
    assert (effect.event.message, effect.event.deletion) == ("too large", None)
    assert not engine().react(View(State()), Broken(found.entity, None, "too large"), 9).effects


@pytest.mark.parametrize("run_id", ["run-1", "state/", "state/Desk", "state/a/b", "x/desk"])
def test_what_stands_for_no_agent_is_not_read(run_id: str) -> None:
    assert isinstance(read(received(run_id, run_id), 0), Unreadable)
