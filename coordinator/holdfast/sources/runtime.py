"""The service around a source: its topics, the agents that it knows of, and its slots."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from holdfast.bus.blobs import open_blob_store
from holdfast.bus.errors import TopicMissing
from holdfast.bus.port import Environment, TopicSpec
from holdfast.bus.registry import BusRegistry, Registry
from holdfast.bus.slot import ProcessIdentity, SlotHost, SlotSettings
from holdfast.bus.topics import Topics, check_name
from holdfast.client.directory import Directory
from holdfast.client.payloads import Payloads
from holdfast.client.submission import Submissions
from holdfast.schemas.errors import ConfigurationError
from holdfast.sources.definition import Source
from holdfast.sources.machine import SourceMachine, SourceSetup
from holdfast.sources.metrics import SourceMetrics
from holdfast.sources.starting import SourceTools
from holdfast.sources.values import ValueReader
from holdfast.sources.wire import SourceTopics, SourceWire

__all__ = ["SourceRuntime", "SourceSettings"]

MANIFEST_WAIT_S = 1.0
"""How long one look for an agent takes that has not published itself; it is repeated."""
STOP_GRACE_S = 10.0
"""How long a stop waits for what is settled to be committed."""


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """One process of a source.

    `instance`: its stable name; a restarted process of the same name gets its slots back at once,
    two live ones take them from each other. `partitions`: of topics of Holdfast's that do not exist
    yet, and of the source's topic where it is asked to create that. `blobs`: URL of the store for
    large inputs, None for the bus's own. `create_topics` False: a missing topic of Holdfast's is an
    error.
    """

    instance: str
    partitions: int
    namespace: str = "holdfast"
    blobs: str | None = None
    create_topics: bool = True
    stop_grace_s: float = STOP_GRACE_S


class SourceRuntime:
    """Serves one source in this process: `start`, then `run` until `stop` was called.

    `registry`: where schemas are kept, if not on the bus itself; it is started and closed by its
    owner. The environment's bus is started, and is closed by its owner too.
    """

    def __init__(
        self,
        environment: Environment,
        source: Source[Any],
        settings: SourceSettings,
        registry: Registry | None = None,
    ) -> None:
        check_name(settings.instance, "instance")
        ValueReader(source.topic, lambda _: None)  # a type that cannot be read is told at once
        self._environment = environment
        self._source = source
        self._settings = settings
        self._registry = registry
        self._own_registry: BusRegistry | None = None
        self._names = Topics(settings.namespace)
        self._group = self._names.source_group(source.name)
        self._directory = Directory(environment, self._names.agents)
        self._directory.wait_s = MANIFEST_WAIT_S
        self._process_id = environment.new_id()
        self._host: SlotHost | None = None

    @property
    def host(self) -> SlotHost:
        """What hosts the slots; raises `RuntimeError` before `start`."""
        if self._host is None:
            raise RuntimeError("start() comes first")
        return self._host

    async def start(self) -> None:
        """Check the topics, join the group.

        Raises `ConfigurationError`, `TopicMismatch`, `TopicMissing`, `BusUnavailable`; nothing is
        left running then.
        """
        try:
            await self._start()
        except BaseException:
            await self._close()
            raise

    async def run(self) -> None:
        """Return when `stop` has finished; raise what ended the service before."""
        await self.host.run()

    async def stop(self) -> None:
        """Commit what is settled, hand over, and leave the group."""
        if self._host is not None:
            await self._host.stop()
        await self._close()

    async def kill(self) -> None:
        """Drop everything without a word, as a crash would."""
        if self._host is not None:
            await self._host.kill()
        await self._close()

    async def _start(self) -> None:
        names, settings, source = self._names, self._settings, self._source
        partitions = await self._topic_partitions()
        if settings.create_topics:
            specs = names.source_specs(source.name, partitions)
            specs += names.coordinator_specs(settings.partitions)
            await self._environment.bus.create_topics(specs)
        tools = await self._tools()
        topics = SourceTopics(
            names.group(self._group),
            source.topic.name,
            names.control(self._group),
            names.coordinator,
            names.dead_letters,
        )
        setup = SourceSetup(
            source,
            tools,
            topics,
            SourceWire(source.name, self._group, topics),
            SourceMetrics(source.name),
            max(1, source.max_open // partitions),
        )
        latest = source.topic.start == "latest"
        slots = SlotSettings(
            group=topics.group,
            topics=(topics.topic, topics.control),
            journal=names.journal(self._group),
            identity=ProcessIdentity(settings.instance, self._process_id),
            stop_grace_s=settings.stop_grace_s,
            from_end=frozenset({topics.topic}) if latest else frozenset(),
        )
        self._host = SlotHost(self._environment, slots, partial(SourceMachine, setup))
        await self._host.start()

    async def _topic_partitions(self) -> int:
        """Return how many partitions the user's topic has; it is made only if that was asked for.

        Raises `TopicMissing`; `ConfigurationError` for a topic of Holdfast's own: what it consumes
        it also removes.
        """
        topic, bus = self._source.topic, self._environment.bus
        if topic.name.startswith(f"{self._settings.namespace}."):
            raise ConfigurationError(
                f"source {self._source.name!r}: topic {topic.name} is one of Holdfast's own (they "
                f"begin with {self._settings.namespace + '.'!r}); a source reads a topic of yours"
            )
        found = (await bus.describe_topics([topic.name])).get(topic.name)
        if found is None and topic.create:
            await bus.create_topics([TopicSpec(topic.name, self._settings.partitions)])
            return self._settings.partitions
        if found is None:
            raise TopicMissing(
                f"topic {topic.name}, which source {self._source.name!r} reads, does not exist on "
                f"{bus.url}: create it, or have the source do so (Topic({topic.name!r}, "
                "create=True))"
            )
        return found.partitions

    async def _tools(self) -> SourceTools:
        environment, registry = self._environment, self._registry
        if registry is None:
            registry = self._own_registry = BusRegistry(environment, self._names)
            await self._own_registry.start()
        payloads = Payloads(registry, open_blob_store(self._settings.blobs, environment))
        submissions = Submissions(self._directory, payloads)
        return SourceTools(environment, registry, self._directory, submissions, payloads)

    async def _close(self) -> None:
        await self._directory.close()
        registry, self._own_registry = self._own_registry, None
        if registry is not None:
            await registry.close()
