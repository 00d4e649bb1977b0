"""Agents, and order keys at them, that operators pause: the entity `agent/<name>`."""

from __future__ import annotations

import json

import pytest

from holdfast.coordinator.engine import pausing
from holdfast.schemas.records import Command, CommandAction, ControlAction, CoordinatorEnvelope
from tests.unit.coordinator.host import Host
from tests.unit.coordinator.surroundings import AGENT_PARTITIONS

PAUSE, RESUME = CommandAction.PAUSE, CommandAction.RESUME


def say(host: Host, action: CommandAction, arguments=None, reason: str = "because"):
    command = Command("c1", action, None, json.dumps(arguments or {}), "ann", reason)
    host.deliver(CoordinatorEnvelope("agent/reviewer", host.now_ms, command))
    host.pump()
    return host.events[-1]


def words(host: Host):
    return [(key, word.action, word.pause.order_key) for key, word in host.controlled]


def test_every_slot_of_a_paused_agent_hears_of_it_in_the_commit_of_the_pause():
    host = Host()
    event = say(host, PAUSE)
    assert (event.type, event.pause.actor, event.command.reason) == (
        "agent.paused",
        "ann",
        "because",
    )
    assert event.message == "agent 'reviewer' paused by ann: because"
    assert words(host) == [("", ControlAction.PAUSE, None)] * AGENT_PARTITIONS
    sent = [r for r in host.commits[-1] if "control" in r.topic]
    assert [(r.topic, r.key, r.partition) for r in sent] == [
        ("test.control.reviewer", None, number) for number in range(AGENT_PARTITIONS)
    ]
    assert list(host.journal) == ["agent/reviewer/all"]


def test_a_pause_is_restored_and_said_once():
    host = Host()
    say(host, PAUSE)
    host.restart()
    refused = say(host, PAUSE)
    assert refused.type == "command.refused"
    assert refused.message == (
        "agent 'reviewer' is paused already, by ann: because; resume it first"
    )
    assert say(host, RESUME).type == "agent.resumed"
    assert host.journal == {}
    assert words(host)[-1] == ("", ControlAction.RESUME, None)
    assert "is not paused" in say(host, RESUME).message


def test_an_order_key_is_paused_by_its_own_slot():
    host = Host()
    event = say(host, PAUSE, {"order_key": "customer/7"})
    assert event.pause.order_key == "customer/7"
    assert words(host) == [("o:customer/7", ControlAction.PAUSE, "customer/7")]
    say(host, PAUSE)
    host.restart()
    event = say(host, RESUME, {"order_key": "customer/7"})
    assert event.message.endswith("the whole agent is still paused")
    assert list(host.journal) == ["agent/reviewer/all"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"order_key": ""}, "order_key"),
        ({"order_key": 3}, "order_key"),
        ({"key": "a"}, "key"),
    ],
)
def test_arguments_that_cannot_be_read_are_named(arguments, told):
    host = Host()
    refused = say(host, PAUSE, arguments)
    assert refused.type == "command.refused"
    assert told in refused.message
    assert not host.controlled


def test_what_is_nothing_for_an_agent_is_refused():
    host = Host()
    assert "can be paused and resumed" in say(host, CommandAction.CANCEL).message
    assert "too long" in say(host, PAUSE, reason="x" * 20_000).message
    host.agents.trouble = "agent 'reviewer' has no topics here"


def test_more_order_keys_than_there_may_be(monkeypatch):
    monkeypatch.setattr(pausing, "PAUSED_KEYS_MAX", 2)
    host = Host()
    for key in ("a", "b"):
        assert say(host, PAUSE, {"order_key": key}).type == "agent.paused"
    assert "which is all it may have" in say(host, PAUSE, {"order_key": "c"}).message
    say(host, RESUME, {"order_key": "a"})
    assert say(host, PAUSE, {"order_key": "c"}).type == "agent.paused"


def test_more_slots_than_one_event_can_tell(monkeypatch):
    host = Host()
    monkeypatch.setattr(type(host.agents), "partitions", lambda self, agent: 499)
    assert "at most 498 can be told at once" in say(host, PAUSE).message
    assert not host.journal


async def test_an_agent_that_is_not_known_is_looked_for_again():
    host = Host()
    host.agents.trouble = "agent 'reviewer' has no topics here"
    command = Command("c1", PAUSE, None, "{}", "ann", "")
    host.deliver(CoordinatorEnvelope("agent/reviewer", host.now_ms, command))
    await host.settle()
    assert host.events[-1].type == "command.refused"
    assert "has no topics here" in host.events[-1].message
    host.agents.started = True
    host.deliver(CoordinatorEnvelope("agent/reviewer", host.now_ms, command))
    await host.settle()
    assert host.events[-1].type == "agent.paused"
