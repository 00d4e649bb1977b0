"""The service around an agent: its topics, schemas, manifest, and the slots that it is given."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial

from holdfast.agents.agent import Agent
from holdfast.agents.build import build_id_of
from holdfast.agents.circuits import Circuits
from holdfast.agents.errors import DefinitionError
from holdfast.agents.execution import Tools
from holdfast.agents.keyed_state import StateTypes
from holdfast.agents.ledger import Identity
from holdfast.agents.machine import AgentMachine, AgentSetup
from holdfast.agents.manifest import ManifestPublisher, check_undoing, register_tasks
from holdfast.agents.metrics import AgentMetrics
from holdfast.agents.payloads import Payloads
from holdfast.agents.places import Places
from holdfast.agents.published import PublishedTopics
from holdfast.agents.resting import SLEEP_AFTER_S
from holdfast.agents.steps import Worker
from holdfast.agents.threads import HandlerThreads
from holdfast.agents.wire import AgentTopics
from holdfast.bus.blobs import ClaimCheck, open_blob_store
from holdfast.bus.port import Environment
from holdfast.bus.registry import BusRegistry, Registry
from holdfast.bus.slot import ProcessIdentity, SlotHost, SlotSettings
from holdfast.bus.topics import Topics, check_name
from holdfast.schemas import Manifest

__all__ = ["AgentRuntime", "AgentSettings"]

STOP_GRACE_S = 10.0
"""How long a stop lets handlers finish."""


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """One process of an agent.

    `instance`: its stable name; a restarted process of the same name gets its slots back at once,
    two live ones take them from each other. `partitions`: of topics that do not exist yet, and what
    those that exist must have. `blobs`: URL of the store for large payloads, None for the bus's
    own. `create_topics` False: a missing topic is an error. `sleep_after_s`: so long a handler of
    which nothing runs but waits keeps its memory; then it is dropped, and replayed when its answer
    comes. `build`: what the build of the agent's code is called; None: by its version, or source.
    """

    instance: str
    partitions: int
    namespace: str = "holdfast"
    blobs: str | None = None
    create_topics: bool = True
    stop_grace_s: float = STOP_GRACE_S
    sleep_after_s: float = SLEEP_AFTER_S
    build: str | None = None


class AgentRuntime:
    """Serves one agent in this process: `start`, then `run` until `stop` was called.

    `registry`: where schemas are kept, if not on the bus itself; it is started and closed by its
    owner. The environment's bus is started, and is closed by its owner too.
    """

    def __init__(
        self,
        environment: Environment,
        agent: Agent,
        settings: AgentSettings,
        registry: Registry | None = None,
    ) -> None:
        check_name(settings.instance, "instance")
        if not agent.tasks:
            raise DefinitionError(
                f"agent {agent.name!r} has no tasks: decorate a function with @{agent.name}.task"
            )
        self._threads = _own_threads(environment, agent)
        if self._threads is not None:
            environment = dataclasses.replace(environment, run_blocking=self._threads)
        self._environment = environment
        self._agent = agent
        self._settings = settings
        self._registry = registry
        self._own_registry: BusRegistry | None = None
        self._names = Topics(settings.namespace)
        self._process_id = environment.new_id()
        self._build_id = build_id_of(agent, settings.build)
        self._publisher: ManifestPublisher | None = None
        self._host: SlotHost | None = None
        self.places = Places(agent.concurrency)
        self._circuits = Circuits(environment, agent.name, self.places.offer)

    @property
    def host(self) -> SlotHost:
        """What hosts the slots; raises `RuntimeError` before `start`."""
        if self._host is None:
            raise RuntimeError("start() comes first")
        return self._host

    async def start(self) -> None:
        """Check topics and schemas, publish the manifest, join the group.

        Raises `ConfigurationError`, `TopicMismatch`, `TopicMissing`, `UnsupportedType`,
        `DefinitionError`, `IncompatibleSchema`, `BusUnavailable`; nothing is left running then.
        """
        try:
            await self._start()
        except BaseException:
            await self._close(take_back=False)
            raise

    async def run(self) -> None:
        """Return when `stop` has finished; raise what ended the service before."""
        await self.host.run()

    async def stop(self) -> None:
        """Let handlers finish for a while, hand over what is left, and leave the group."""
        if self._host is not None:
            await self._host.stop()
        await self._close(take_back=True)

    async def kill(self) -> None:
        """Drop everything without a word, as a crash would."""
        if self._host is not None:
            await self._host.kill()
        await self._close(take_back=False)

    async def _start(self) -> None:
        names, settings, agent = self._names, self._settings, self._agent
        if settings.create_topics:
            specs = names.agent_specs(agent.name, settings.partitions)
            specs += names.coordinator_specs(settings.partitions)
            await self._environment.bus.create_topics(specs)
        blobs = ClaimCheck(open_blob_store(settings.blobs, self._environment))
        registry = await self._open_registry()
        handlers, tasks = await register_tasks(agent, registry)
        state = StateTypes(agent.name, registry, agent.state)
        await state.start()
        now_ms = self._environment.now_ms()
        manifest = Manifest(
            agent.name,
            settings.instance,
            self._process_id,
            agent.version,
            self._build_id,
            tasks,
            agent.concurrency,
            now_ms,
            now_ms,
        )
        await check_undoing(manifest, registry)
        setup = AgentSetup(
            agent.name,
            Identity(settings.instance, self._build_id),
            AgentTopics(
                names.tasks(agent.name),
                names.control(agent.name),
                names.coordinator,
                names.dead_letters,
            ),
            handlers,
            Tools(
                self._environment,
                Payloads(blobs),
                PublishedTopics(self._environment.bus),
                registry,
                state,
                Worker(agent.name, self._build_id),
            ),
            self.places,
            self._metrics(),
            self._circuits,
            agent.breaker,
            settings.sleep_after_s,
        )
        self._host = SlotHost(
            self._environment, self._slot_settings(setup.topics), partial(AgentMachine, setup)
        )
        self._publisher = ManifestPublisher(
            self._environment, names.agents, manifest, self._circuits.rows
        )
        await self._publisher.start()
        await self._host.start()

    def _slot_settings(self, topics: AgentTopics) -> SlotSettings:
        settings = self._settings
        return SlotSettings(
            group=self._names.group(self._agent.name),
            topics=(topics.tasks, topics.control),
            journal=self._names.journal(self._agent.name),
            identity=ProcessIdentity(settings.instance, self._process_id),
            stop_grace_s=settings.stop_grace_s,
        )

    async def _open_registry(self) -> Registry:
        if self._registry is not None:
            return self._registry
        self._own_registry = BusRegistry(self._environment, self._names)
        await self._own_registry.start()
        return self._own_registry

    def _metrics(self) -> AgentMetrics:
        metrics = AgentMetrics(self._agent.name)
        metrics.running.set_function(lambda: self.places.taken)
        metrics.resting.set_function(lambda: self.places.resting)
        metrics.stuck.set_function(lambda: self.places.stuck)
        return metrics

    async def _close(self, *, take_back: bool) -> None:
        self._circuits.close()
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            await publisher.close(take_back=take_back)
        registry, self._own_registry = self._own_registry, None
        if registry is not None:
            await registry.close()
        if self._threads is not None:
            self._threads.close()


def _own_threads(environment: Environment, agent: Agent) -> HandlerThreads | None:
    """Return threads enough for all places, unless the environment brings its own."""
    default = next(f.default for f in dataclasses.fields(Environment) if f.name == "run_blocking")
    if environment.run_blocking is not default:
        return None
    return HandlerThreads(agent.name, agent.concurrency)
