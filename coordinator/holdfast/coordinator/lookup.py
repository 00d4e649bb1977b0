"""What agents say of what an input names, looked up before it enters the engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from holdfast.coordinator.engine import Arrival
from holdfast.coordinator.ports import Agents, Schemas
from holdfast.schemas.errors import HoldfastError, UnknownSchema
from holdfast.schemas.plan import PlanDocument
from holdfast.schemas.plan_change import PlanChangeDocument
from holdfast.schemas.plan_versions import ResolvedChange, agents_of_change, resolve_change
from holdfast.schemas.records import Ask, CallAsk, PlanAsk, RunAsk, ScheduleCommand, Submission
from holdfast.schemas.resolution import ResolvedPlan, agents_of, resolve

__all__ = ["Lookup"]


class Lookup:
    """Fills in `Arrival.problem` and `Arrival.resolved`. `wait_s`: for schemas, each."""

    def __init__(self, agents: Agents, schemas: Schemas, wait_s: float) -> None:
        self._agents = agents
        self._schemas = schemas
        self._wait_s = wait_s

    def at_once(self, arrival: Arrival) -> Arrival:
        """Return `arrival` as far as is known here. With a problem it is worth to look `again`."""
        body = arrival.envelope.body
        if isinstance(body, Submission):
            return replace(arrival, problem=self._agents.problem(body.plan))
        if isinstance(body, ScheduleCommand) and body.plan is not None:
            return replace(arrival, problem=self._agents.problem(body.plan))
        if not isinstance(body, Ask):
            return arrival
        if isinstance(body.what, CallAsk):
            found: Any = self._agents.task(body.what.agent, body.what.task)
        elif isinstance(body.what, RunAsk):
            found = self._plan(body.what.plan)
        elif isinstance(body.what, PlanAsk):
            found = self._change(body.what.change)
        else:
            return arrival
        if isinstance(found, str):
            return replace(arrival, problem=found, resolved=None)
        return replace(arrival, problem=None, resolved=found)

    async def again(self, arrival: Arrival) -> Arrival:
        """Return it after all was read that agents have published by now."""
        await self._agents.refresh()
        body = arrival.envelope.body
        if isinstance(body, Ask) and isinstance(body.what, RunAsk | PlanAsk):
            for schema_id in self._schema_ids(body.what):
                await self._schemas.find(schema_id, self._wait_s)
        return self.at_once(arrival)

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

    def _plan(self, text: str) -> ResolvedPlan | str:
        try:
            document = PlanDocument.from_json(text)
            return resolve(document, self._agents.manifests(agents_of(document)), self._schema)
        except HoldfastError as error:
            return str(error)

    def _change(self, text: str) -> ResolvedChange | str:
        try:
            change = PlanChangeDocument.from_json(text)
            manifests = self._agents.manifests(agents_of_change(change))
            return resolve_change(change, manifests, self._schema)
        except HoldfastError as error:
            return str(error)

    def _schema(self, schema_id: int) -> Any:
        schema = self._schemas.known(schema_id)
        if schema is None:
            raise UnknownSchema(f"schema id {schema_id} is not in the registry")
        return schema
