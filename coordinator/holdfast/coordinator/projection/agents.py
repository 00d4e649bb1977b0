"""What a projection knows of the instances of agents."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.engine import Connection, RowMapping

from holdfast.coordinator.projection import tables
from holdfast.coordinator.projection.columns import Json, json_of

__all__ = ["AgentView", "list_agents"]


@dataclass(frozen=True, slots=True)
class AgentView:
    """One instance of an agent; `tasks` as in `TaskManifest`, `breakers` as in `BreakerRow`."""

    agent: str
    instance: str
    process_id: str
    agent_version: str
    build_id: str
    tasks: list[Json]
    concurrency: int
    started_ms: int
    seen_ms: int
    breakers: list[Json]


def list_agents(connection: Connection, agent: str | None = None) -> list[AgentView]:
    """Return every instance that has not taken its leave, by agent and instance."""
    columns = tables.agents.c
    query = select(tables.agents).order_by(columns.agent, columns.instance)
    if agent is not None:
        query = query.where(columns.agent == agent)
    return [_agent(row) for row in connection.execute(query).mappings()]


def _agent(row: RowMapping) -> AgentView:
    return AgentView(
        agent=row["agent"],
        instance=row["instance"],
        process_id=row["process_id"],
        agent_version=row["agent_version"],
        build_id=row["build_id"],
        tasks=json_of(row["tasks"]),
        concurrency=row["concurrency"],
        started_ms=row["started_ms"],
        seen_ms=row["seen_ms"],
        breakers=json_of(row["breakers"]),
    )
