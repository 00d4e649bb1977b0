"""What asks name is resolved once, not in one go with others, and anew when agents change."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import pytest

from holdfast.coordinator import lookup as lookup_module
from holdfast.coordinator.engine import Arrival
from holdfast.coordinator.engine.run import growing as growing_module
from holdfast.coordinator.lookup import Lookup
from holdfast.schemas.codec import encode_json
from holdfast.schemas.ids import OwnSchema
from holdfast.schemas.plan import Plan
from holdfast.schemas.plan_change import PlanChange
from holdfast.schemas.plan_versions import ResolvedChange
from holdfast.schemas.records import (
    Ask,
    Cause,
    CoordinatorEnvelope,
    Manifest,
    PlanAsk,
    RetryPolicy,
    RunAsk,
    TaskManifest,
)
from holdfast.schemas.resolution import ResolvedPlan
from tests.unit.coordinator.growing import adding, begun, change, version
from tests.unit.coordinator.surroundings import EMPTY, NO_JITTER, FakeAgents, FakeSchemas
from tests.unit.coordinator.test_asks import ask
from tests.unit.coordinator.test_asks import begun as asking


class Agents(FakeAgents):
    """Agents that give a sign of life with each look, and may change what they offer."""

    def __init__(self) -> None:
        self.looks = self.refreshed = 0
        self.retry = NO_JITTER
        self.schema_id = EMPTY
        self.missing = False

    def manifests(self, agents: Collection[str]) -> dict[str, Manifest]:
        self.looks += 1
        if self.missing:
            return {}
        task = TaskManifest("work", self.schema_id, OwnSchema.Json, self.retry, None, None, "")
        return {n: Manifest(n, "i", "p", "1", "b", [task], 1, 1, self.looks) for n in agents}

    async def refresh(self) -> None:
        self.refreshed += 1
        self.missing = False


def plan(tasks: int = 1) -> str:
    made = Plan("child")
    for number in range(tasks):
        made.task(f"task-{number}", "a.work")
    return made.to_json()


def arrival(what: Any) -> Arrival:
    envelope = CoordinatorEnvelope("run-1", 1, Ask("one", 1, "ask", "", what))
    return Arrival(envelope, Cause(0, 1), "run-1")


def asked(text: str) -> Arrival:
    return arrival(RunAsk(text, encode_json({}), None, False))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    made: list[str] = []
    real = lookup_module.resolve

    def resolve(document: Any, *more: Any) -> ResolvedPlan:
        made.append(document.name)
        return real(document, *more)

    monkeypatch.setattr(lookup_module, "resolve", resolve)
    return made


def test_a_plan_is_resolved_once_while_agents_say_the_same(counted: list[str]) -> None:
    agents = Agents()
    found = Lookup(agents, FakeSchemas(), 1.0)
    answers = {id(found.at_once(asked(plan())).resolved) for _ in range(50)}
    assert (len(answers), counted) == (1, ["child"])
    agents.retry = RetryPolicy(attempts=9)
    resolved = found.at_once(asked(plan())).resolved
    assert isinstance(resolved, ResolvedPlan)
    assert resolved.tasks["task-0"].retry.attempts == 9
    assert counted == ["child", "child"]


def test_a_problem_is_remembered_until_the_agent_comes(counted: list[str]) -> None:
    agents = Agents()
    agents.missing = True
    found = Lookup(agents, FakeSchemas(), 1.0)
    assert {found.at_once(asked(plan())).problem for _ in range(5)} != {None}
    assert counted == ["child"]
    agents.missing = False
    assert found.at_once(asked(plan())).problem is None


def test_an_agent_that_nobody_knows_is_told_with_those_that_there_are() -> None:
    agents = Agents()
    agents.missing, agents.trouble = True, "no agent 'a' is known; there is b"
    found = Lookup(agents, FakeSchemas(), 1.0)
    change = PlanChange()
    change.task("new", "a.work")
    for what, place in (
        (RunAsk(plan(), encode_json({}), None, False), "plan, task 'task-0'"),
        (PlanAsk(change.to_json()), "plan change, task 'new'"),
    ):
        assert found.at_once(arrival(what)).problem == f"{place}: no agent 'a' is known; there is b"


async def test_a_schema_that_was_not_known_is_not_remembered_as_missing() -> None:
    agents, schemas = Agents(), FakeSchemas()
    agents.schema_id = 3_000
    schemas.coming[3_000] = {"type": "record", "name": "Late", "fields": []}
    found = Lookup(agents, schemas, 1.0)
    assert "3000" in (found.at_once(asked(plan())).problem or "")
    assert (await found.again(asked(plan()))).problem is None
    assert found.at_once(asked(plan())).problem is None


async def test_large_plans_are_resolved_in_turn_and_not_as_they_are_read(
    counted: list[str],
) -> None:
    agents = Agents()
    found = Lookup(agents, FakeSchemas(), 1.0)
    texts = [plan(tasks) for tasks in range(200, 210)]
    assert all(found.at_once(asked(text)).problem for text in texts)
    assert counted == []
    turns: list[int] = []

    async def others() -> None:
        while len(counted) < len(texts):
            turns.append(len(counted))
            await asyncio.sleep(0)

    looks = [found.again(asked(text)) for text in texts]
    *settled, _ = await asyncio.gather(*looks, others())
    assert all(each.problem is None for each in settled)
    assert set(turns) >= set(range(1, 9)), "the loop did nothing else in between"
    assert agents.refreshed == 0, "the agents were known"
    assert found.at_once(asked(texts[0])).problem is None
    assert len(counted) == len(texts)


async def test_a_hundred_items_that_start_the_same_plan_have_it_resolved_once(
    counted: list[str],
) -> None:
    found = Lookup(Agents(), FakeSchemas(), 1.0)
    text = plan(200)
    settled = await asyncio.gather(*(found.again(asked(text)) for _ in range(100)))
    assert len({id(each.resolved) for each in settled}) == 1
    assert counted == ["child"]


async def test_a_large_plan_of_an_agent_that_was_just_started() -> None:
    agents = Agents()
    agents.missing = True
    found = Lookup(agents, FakeSchemas(), 1.0)
    assert (await found.again(asked(plan(200)))).problem is None
    assert agents.refreshed == 1


def test_the_oldest_answers_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup_module, "ANSWERS_MAX", 3)
    found = Lookup(Agents(), FakeSchemas(), 1.0)
    for tasks in range(1, 9):
        assert found.at_once(asked(plan(tasks))).problem is None
    assert len(found._answers) == 3


def test_a_change_is_resolved_once() -> None:
    what = PlanChange()
    what.task("new", "a.work")
    found = Lookup(Agents(), FakeSchemas(), 1.0)
    asks = [arrival(PlanAsk(what.to_json())) for _ in range(5)]
    answers = [found.at_once(each).resolved for each in asks]
    assert isinstance(answers[0], ResolvedChange)
    assert len({id(each) for each in answers}) == 1


async def test_a_handler_that_starts_a_large_plan_is_served_in_its_turn() -> None:
    host = asking()
    ask(host, RunAsk(plan(220), encode_json({}), None, False))
    assert not host.forwarded
    await host.settle()
    assert len(host.forwarded) == 1


def test_a_planner_that_says_again_what_stands_reads_each_text_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    growing_module._change.cache_clear()
    growing_module._plan.cache_clear()
    host = begun()
    assert version(change(host, adding("first", "second"))) == 2
    read: list[str] = []
    real = ResolvedChange.from_json

    def from_json(text: str) -> ResolvedChange:
        read.append(text)
        return real(text)

    monkeypatch.setattr(ResolvedChange, "from_json", from_json)
    assert version(change(host, adding("first", "second", "third"), key="more")) == 3
    assert version(change(host, adding("first", "second"), key="again")) == 3
    assert len([text for text in read if '"third"' not in text]) == 1
