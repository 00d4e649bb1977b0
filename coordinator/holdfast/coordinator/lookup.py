"""What agents say of what an input names, looked up before it enters the engine."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from holdfast.coordinator.engine import Arrival
from holdfast.coordinator.ports import Agents, Schemas
from holdfast.schemas.errors import HoldfastError, UnknownSchema
from holdfast.schemas.pauses import AGENT_PREFIX
from holdfast.schemas.plan import PlanDocument, TaskNode, split_task_name
from holdfast.schemas.plan_change import PlanChangeDocument
from holdfast.schemas.plan_versions import ResolvedChange, agents_of_change, resolve_change
from holdfast.schemas.records import (
    Ask,
    CallAsk,
    Command,
    Manifest,
    PlanAsk,
    RunAsk,
    ScheduleCommand,
    Submission,
    UndoAsk,
)
from holdfast.schemas.resolution import ResolvedPlan, agents_of, resolve, works_of

__all__ = ["Lookup"]


ANSWERS_MAX = 64
"""Plans and changes of asks that stay resolved: the items of a map start the same plan each."""
AT_ONCE_CHARS = 4_096
"""A longer plan is not resolved while records are received, but in a turn of its own."""
_LATER = "it has not been looked at yet"

_Resolved: TypeAlias = ResolvedPlan | ResolvedChange | str


@dataclass(frozen=True, slots=True)
class _Answer:
    """What was found of a text, by what these agents said of themselves; text: why nothing."""

    found: _Resolved
    agents: Collection[str]
    manifests: Mapping[str, Manifest]

    def holds(self, now: Mapping[str, Manifest]) -> bool:
        """Whether the agents still say the same."""
        return now.keys() == self.manifests.keys() and all(
            now[name] is then or now[name].tasks == then.tasks
            for name, then in self.manifests.items()
        )


def _text(what: RunAsk | PlanAsk) -> str:
    return what.plan if isinstance(what, RunAsk) else what.change


class Lookup:
    """Fills in `Arrival.problem` and `Arrival.resolved`. `wait_s`: for schemas, each."""

    def __init__(self, agents: Agents, schemas: Schemas, wait_s: float) -> None:
        self._agents = agents
        self._schemas = schemas
        self._wait_s = wait_s
        self._answers: OrderedDict[tuple[type, str], _Answer] = OrderedDict()
        self._turn = asyncio.Lock()

    def at_once(self, arrival: Arrival) -> Arrival:
        """Return `arrival` as far as is known here. With a problem it is worth to look `again`."""
        body = arrival.envelope.body
        if isinstance(body, Submission):
            return replace(arrival, problem=self._agents.problem(body.plan))
        if isinstance(body, ScheduleCommand) and body.plan is not None:
            return replace(arrival, problem=self._agents.problem(body.plan))
        if isinstance(body, Command) and arrival.entity.startswith(AGENT_PREFIX):
            found: Any = self._agents.partitions(arrival.entity.removeprefix(AGENT_PREFIX))
            return _with(arrival, found)
        if not isinstance(body, Ask):
            return arrival
        if isinstance(body.what, CallAsk | UndoAsk):
            found = self._agents.task(body.what.agent, body.what.task)
        elif isinstance(body.what, RunAsk | PlanAsk):
            text = _text(body.what)
            found = self._remembered(body.what) or (_LATER if len(text) > AT_ONCE_CHARS else None)
            found = found or self._resolve(body.what)
        else:
            return arrival
        return _with(arrival, found)

    async def again(self, arrival: Arrival) -> Arrival:
        """Return it after all was read that agents have published by now, if that is needed."""
        body = arrival.envelope.body
        if not isinstance(body, Ask) or not isinstance(body.what, RunAsk | PlanAsk):
            await self._agents.refresh()
            return self.at_once(arrival)
        found = await self._resolve_in_turn(body.what)
        if isinstance(found, str):
            await self._agents.refresh()
            for schema_id in self._schema_ids(body.what):
                await self._schemas.find(schema_id, self._wait_s)
            found = await self._resolve_in_turn(body.what)
        return _with(arrival, found)

    async def _resolve_in_turn(self, what: RunAsk | PlanAsk) -> _Resolved:
        """A plan of 1,000 tasks takes 50 ms: the loop does other things between two of them."""
        async with self._turn:
            await asyncio.sleep(0)
            return self._remembered(what) or self._resolve(what)

    def _remembered(self, what: RunAsk | PlanAsk) -> _Resolved | None:
        """Return what was found before, if the agents still say the same of themselves."""
        key = type(what), _text(what)
        known = self._answers.get(key)
        if known is None or not known.holds(self._agents.manifests(known.agents)):
            return None
        self._answers.move_to_end(key)
        return known.found

    def _resolve(self, what: RunAsk | PlanAsk) -> _Resolved:
        agents: Collection[str] = ()
        manifests: Mapping[str, Manifest] = {}
        found: _Resolved
        try:
            if isinstance(what, RunAsk):
                document = PlanDocument.from_json(what.plan)
                agents = agents_of(document)
                manifests = self._agents.manifests(agents)
                found = self._unknown("plan", document.tasks, manifests) or resolve(
                    document, manifests, self._schema
                )
            else:
                change = PlanChangeDocument.from_json(what.change)
                agents = agents_of_change(change)
                manifests = self._agents.manifests(agents)
                found = self._unknown("plan change", change.nodes, manifests) or resolve_change(
                    change, manifests, self._schema
                )
        except UnknownSchema as error:
            return str(error)  # it may be known in a moment, though no manifest changes
        except HoldfastError as error:
            found = str(error)
        self._answers[type(what), _text(what)] = _Answer(found, agents, dict(manifests))
        if len(self._answers) > ANSWERS_MAX:
            self._answers.popitem(last=False)
        return found

    def _unknown(
        self, what: str, nodes: Mapping[str, TaskNode], manifests: Mapping[str, Manifest]
    ) -> str | None:
        """Return what is said of the first task whose agent has never published itself, if any.

        Said here, where all agents are known: a name that was mistyped is seen at once.
        """
        for path, name in works_of(nodes):
            agent, task = split_task_name(name)
            if agent not in manifests and isinstance(told := self._agents.task(agent, task), str):
                return f"{what}, task {path!r}: {told}"
        return None

    def _schema_ids(self, what: RunAsk | PlanAsk) -> list[int]:
        try:
            if isinstance(what, RunAsk):
                names = agents_of(PlanDocument.from_json(what.plan))
            else:
                names = agents_of_change(PlanChangeDocument.from_json(what.change))
        except HoldfastError:
            return []
        manifests = self._agents.manifests(names)
        return sorted(
            {
                schema_id
                for manifest in manifests.values()
                for task in manifest.tasks
                for schema_id in (task.input_schema_id, task.output_schema_id)
            }
        )

    def _schema(self, schema_id: int) -> Any:
        schema = self._schemas.known(schema_id)
        if schema is None:
            raise UnknownSchema(f"schema id {schema_id} is not in the registry")
        return schema


def _with(arrival: Arrival, found: Any) -> Arrival:
    """Return `arrival` with what was found for it; text says why there is nothing."""
    if isinstance(found, str):
        return replace(arrival, problem=found, resolved=None)
    return replace(arrival, problem=None, resolved=found)
