"""Runs whose tasks change their plan: how tests ask for it, and read what came of it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from holdfast.coordinator.engine import EngineLimits
from holdfast.schemas.codec import decode_json
from holdfast.schemas.ids import OwnSchema
from holdfast.schemas.plan import Plan
from holdfast.schemas.plan_change import PlanChange
from holdfast.schemas.records import (
    Ask,
    ControlAction,
    CoordinatorEnvelope,
    Event,
    EventType,
    Manifest,
    PlanAsk,
    Reply,
    TaskManifest,
    TaskState,
)
from tests.unit.coordinator.host import Host, resolved
from tests.unit.coordinator.surroundings import NO_JITTER, FakeAgents


def planner_first(**settings: Any) -> Plan:
    """A planner, what follows on it, and a report on that."""
    plan = Plan("growing", **settings)
    planner = plan.task("planner", "a.work")
    middle = plan.task("middle", "a.work", after=[planner])
    plan.task("report", "a.work", after=[middle])
    return plan


WORDS = [{"name": name, "type": ["null", "string"], "default": None} for name in ("word", "pages")]


class AnyAgents(FakeAgents):
    """Every agent has the task `work`, whose input may have the fields `word` and `pages`."""

    def manifests(self, agents: Collection[str]) -> dict[str, Manifest]:
        task = TaskManifest("work", OwnSchema.Json, OwnSchema.Json, NO_JITTER, None, None, "")
        return {name: Manifest(name, "i", "p", "1", "b", [task], 1, 1, 1) for name in agents}


def begun(plan: Plan | None = None, limits: EngineLimits | None = None) -> Host:
    host = Host(limits)
    host.agents = AnyAgents()
    host.schemas.schemas[OwnSchema.Json] = {"type": "record", "name": "Given", "fields": WORDS}
    host.restart()
    host.submit(resolved(plan or planner_first()))
    return host


def change(host: Host, what: PlanChange, task_id: str = "planner", key: str = "") -> Reply:
    """Let a task at work ask for a change; return the answer."""
    envelope = [e for _, e in host.sent if e.task_id == task_id][-1]
    body = Ask(task_id, envelope.attempt, "plan", key, PlanAsk(what.to_json()))
    host.deliver(CoordinatorEnvelope(envelope.run_id, host.now_ms, body), envelope.reply_key)
    seen = len(host.controlled)
    host.pump()
    found = [c.reply for _, c in host.controlled[seen:] if c.action is ControlAction.REPLY]
    assert len(found) == 1
    assert found[0] is not None
    return found[0]


def version(reply: Reply) -> Any:
    assert reply.failure is None, reply.failure.message
    assert isinstance(reply.result, bytes)
    return decode_json(reply.result)


def refusal(reply: Reply) -> str:
    assert reply.failure is not None, "it was taken"
    assert reply.result is None
    return reply.failure.message


def revisions(host: Host) -> list[Event]:
    return [e for e in host.events if e.type is EventType.PLAN_CHANGED]


def state_of(host: Host, task_id: str) -> TaskState:
    return [e.task.state for e in host.events if e.task and e.task.task_id == task_id][-1]


def adding(*ids: str, **settings: Any) -> PlanChange:
    found = PlanChange()
    for name in ids:
        found.task(name, "a.work", **settings)
    return found


def echo(envelope: Any) -> Any:
    return {"made_by": envelope.task_id}


def cancelling(*ids: str) -> PlanChange:
    what = PlanChange()
    what.cancel(*ids)
    return what
