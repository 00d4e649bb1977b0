"""What an agent says of itself: its tasks with their schemas, and that it is alive."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from holdfast.agents.agent import Agent, AgentTask
from holdfast.agents.errors import DefinitionError
from holdfast.agents.handlers import Handler
from holdfast.agents.payloads import AvroCodec, NoInput, NoOutput
from holdfast.bus.errors import BusError
from holdfast.bus.port import Environment, Record
from holdfast.bus.registry import Registry, input_subject, output_subject
from holdfast.schemas import (
    Compatibility,
    Manifest,
    PayloadCodec,
    PlanError,
    TaskManifest,
    UnsupportedType,
    encode,
)
from holdfast.schemas.records import BreakerRow
from holdfast.schemas.resolution import check_compensations

__all__ = ["SIGN_OF_LIFE_S", "ManifestPublisher", "check_undoing", "register_tasks"]

logger = logging.getLogger(__name__)

SIGN_OF_LIFE_S = 10.0
"""How often an agent says that it is alive."""


async def register_tasks(
    agent: Agent, registry: Registry
) -> tuple[Mapping[str, Handler], list[TaskManifest]]:
    """Register the schemas of all tasks.

    Raises `UnsupportedType` naming task and field, `IncompatibleSchema` where a change would break
    those who read what was written before, `BusUnavailable`.
    """
    handlers: dict[str, Handler] = {}
    manifests: list[TaskManifest] = []
    kept: dict[str, dict[str, Handler]] = {}
    for (name, build), older in agent.kept.items():
        # First: where nothing is registered yet, what came first is to be followed by what is now.
        kept.setdefault(name, {})[build] = (await _handler(agent, older, registry))[0]
    for task in agent.tasks.values():
        handler, input_id, output_id = await _handler(agent, task, registry)
        handlers[task.name] = replace(handler, kept=kept.get(task.name, {}))
        manifests.append(_manifest(task, input_id, output_id))
    return handlers, manifests


async def _handler(
    agent: Agent, task: AgentTask[Any, Any], registry: Registry
) -> tuple[Handler, int, int]:
    """Register the schemas of one handler; return it with their ids."""
    read = _codec(task, task.input_type or NoInput)
    written = _codec(task, task.output_type or NoOutput)
    mode = Compatibility(task.compatibility)
    input_id = await registry.register(input_subject(agent.name, task.name), read.schema, mode)
    output_id = await registry.register(output_subject(agent.name, task.name), written.schema, mode)
    made = Handler(
        task, AvroCodec(read, input_id, registry), AvroCodec(written, output_id, registry)
    )
    return made, input_id, output_id


def _codec(task: AgentTask[Any, Any], kind: Any) -> PayloadCodec[Any]:
    try:
        return PayloadCodec(kind)
    except UnsupportedType as error:
        raise UnsupportedType(f"task {task.full_name}: {error}") from None


def _manifest(task: AgentTask[Any, Any], input_id: int, output_id: int) -> TaskManifest:
    return TaskManifest(
        name=task.name,
        input_schema_id=input_id,
        output_schema_id=output_id,
        retry=task.policy,
        timeout_ms=_ms(task.timeout_s),
        queue_timeout_ms=_ms(task.queue_timeout_s),
        description=task.description,
        progress_timeout_ms=_ms(task.progress_timeout_s),
        compensate=_compensation(task),
    )


def _compensation(task: AgentTask[Any, Any]) -> str | None:
    if task.compensate is None:
        return None
    return task.compensate.model_dump_json(exclude_defaults=True)


async def check_undoing(manifest: Manifest, registry: Registry) -> None:
    """Check what its tasks say of being undone; raises `DefinitionError`, `BusUnavailable`."""
    if not any(task.compensate for task in manifest.tasks):
        return
    schemas = {
        schema_id: await registry.schema(schema_id)
        for task in manifest.tasks
        for schema_id in (task.input_schema_id, task.output_schema_id)
    }
    try:
        check_compensations(manifest, schemas.__getitem__)
    except PlanError as error:
        raise DefinitionError(str(error)) from None


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else max(1, round(seconds * 1000))


class ManifestPublisher:
    """Publishes a manifest, again every `SIGN_OF_LIFE_S`, and takes it back at a clean stop.

    `breakers`: those that are not closed now.
    """

    def __init__(
        self,
        environment: Environment,
        topic: str,
        manifest: Manifest,
        breakers: Callable[[], list[BreakerRow]] = list,
    ) -> None:
        self._breakers = breakers
        self._environment = environment
        self._topic = topic
        self._manifest = manifest
        self._key = f"{manifest.agent}/{manifest.instance}".encode()
        self._heart: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Publish it; raises `BusUnavailable`, `TopicMissing`."""
        await self._publish()
        self._heart = asyncio.create_task(self._beat(), name="signs of life")

    async def close(self, *, take_back: bool) -> None:
        """Say no more; never raises. `take_back`: this instance is gone on purpose."""
        if self._heart is not None:
            self._heart.cancel()
            await asyncio.gather(self._heart, return_exceptions=True)
        if take_back:
            try:
                await self._environment.bus.publish([Record(self._topic, self._key, None)])
            except BusError as error:
                logger.warning("the manifest was not taken back: %s", error)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(SIGN_OF_LIFE_S)
            try:
                await self._publish()
            except BusError as error:
                logger.warning("no sign of life was given: %s", error)

    async def _publish(self) -> None:
        manifest = replace(
            self._manifest, seen_ms=self._environment.now_ms(), breakers=self._breakers()
        )
        await self._environment.bus.publish([Record(self._topic, self._key, encode(manifest))])
