"""A coordinator process, put together: directory, registry, store, housekeeping, and its slots."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from holdfast.bus.blobs import open_blob_store
from holdfast.bus.port import Environment
from holdfast.bus.registry import BusRegistry, Registry
from holdfast.bus.slot import ProcessIdentity, SlotHost, SlotSettings
from holdfast.bus.slot.machine import SlotControl
from holdfast.bus.topics import COORDINATOR_GROUP, Topics, check_name
from holdfast.coordinator.directory import Directory
from holdfast.coordinator.engine import Graphs
from holdfast.coordinator.housekeeping import Housekeeping
from holdfast.coordinator.ports import CoordinatorContext
from holdfast.coordinator.service import CoordinatorMachine
from holdfast.coordinator.settings import CoordinatorSettings

__all__ = ["CoordinatorRuntime", "ProcessSettings", "run_coordinator"]


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """One process of the coordinator.

    `instance`: its stable name; a restarted process of the same name gets its slots back at once,
    two live ones take them from each other. `partitions`: of topics that do not exist yet, and what
    those that exist must have. `blobs`: URL of the store for large payloads, None for the bus's
    own. `create_topics` False: a missing topic is an error. `keep_events`: for ever.
    """

    instance: str
    partitions: int
    namespace: str = "holdfast"
    blobs: str | None = None
    create_topics: bool = True
    keep_events: bool = False
    limits: CoordinatorSettings = field(default_factory=CoordinatorSettings)


class CoordinatorRuntime:
    """Serves slots of the coordinator in this process: `start`, then `run` until `stop` was called.

    `registry`: where schemas are kept, if not on the bus itself; it is started and closed by its
    owner. The environment's bus is started, and is closed by its owner too.
    """

    def __init__(
        self,
        environment: Environment,
        settings: ProcessSettings,
        registry: Registry | None = None,
    ) -> None:
        check_name(settings.instance, "instance")
        self._environment = environment
        self._settings = settings
        self._topics = Topics(settings.namespace)
        self._registry = registry
        self._own_registry: BusRegistry | None = None
        self._directory = Directory(environment, self._topics)
        self._housekeeping = Housekeeping(
            environment, self._topics, settings.limits, self._directory, self.leads
        )
        self._machines: dict[int, CoordinatorMachine] = {}
        self._context: CoordinatorContext | None = None
        self._host: SlotHost | None = None

    @property
    def host(self) -> SlotHost:
        """What hosts the slots; raises `RuntimeError` before `start`."""
        if self._host is None:
            raise RuntimeError("start() comes first")
        return self._host

    def leads(self) -> bool:
        """Whether this process owns the first slot, and so tidies up for all."""
        first = self._machines.get(0)
        return first is not None and first.owned

    async def start(self) -> None:
        """Check the topics, read agents and schemas, join the group.

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
        """Commit what is under way, hand over, and leave the group."""
        if self._host is not None:
            await self._host.stop()
        await self._close()

    async def kill(self) -> None:
        """Drop everything without a word, as a crash would."""
        if self._host is not None:
            await self._host.kill()
        await self._close()

    async def _start(self) -> None:
        settings, topics, environment = self._settings, self._topics, self._environment
        if settings.create_topics:
            await environment.bus.create_topics(
                topics.coordinator_specs(settings.partitions, keep_events=settings.keep_events)
            )
        registry = self._registry
        if registry is None:
            registry = self._own_registry = BusRegistry(environment, topics)
            await self._own_registry.start()
        await self._directory.start()
        await self._housekeeping.start()
        self._context = CoordinatorContext(
            environment,
            topics,
            settings.limits,
            registry,
            open_blob_store(settings.blobs, environment),
            self._directory,
            self._housekeeping.ends,
            Graphs(),
        )
        self._host = SlotHost(
            environment,
            SlotSettings(
                group=topics.group(COORDINATOR_GROUP),
                topics=(topics.coordinator,),
                journal=topics.journal(COORDINATOR_GROUP),
                identity=ProcessIdentity(settings.instance, environment.new_id()),
                stop_grace_s=settings.limits.stop_grace_s,
            ),
            self._machine,
        )
        await self._host.start()

    def _machine(self, control: SlotControl) -> CoordinatorMachine:
        assert self._context is not None, "start() comes first"
        machine = CoordinatorMachine(control, self._context)
        self._machines[control.slot.partition] = machine
        return machine

    async def _close(self) -> None:
        await self._housekeeping.close()
        await self._directory.close()
        registry, self._own_registry = self._own_registry, None
        if registry is not None:
            await registry.close()


async def run_coordinator(
    environment: Environment,
    settings: ProcessSettings,
    stop: asyncio.Event,
    registry: Registry | None = None,
) -> None:
    """Run a coordinator until `stop` is set; raises what ended it before.

    The environment's bus is started, and is closed by its owner. Raises as
    `CoordinatorRuntime.start` before anything runs.
    """
    runtime = CoordinatorRuntime(environment, settings, registry)
    await runtime.start()
    running = asyncio.create_task(runtime.run())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        await runtime.stop()
        await running
