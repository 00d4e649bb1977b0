"""What a simulation runs: a coordinator, agents and a client, each a process of one world."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from holdfast.agents import Agent
from holdfast.agents.runtime import AgentRuntime, AgentSettings
from holdfast.bus.port import Environment
from holdfast.bus.topics import COORDINATOR_GROUP, SOURCE_PREFIX, Topics
from holdfast.client import Client, ClientSettings
from holdfast.coordinator import CoordinatorRuntime, CoordinatorSettings, ProcessSettings
from holdfast.schemas.codec import decode
from holdfast.schemas.errors import HoldfastError, did_you_mean
from holdfast.schemas.records import Event, EventType
from holdfast.sources import Source, SourceRuntime, SourceSettings
from holdfast.testing.bodies import Call, watched_agent
from holdfast.testing.crashing import Deaths, Moment
from holdfast.testing.evidence import BodyStart, EffectSeen, Evidence, Quiet
from holdfast.testing.history import CommitSeen, History
from holdfast.testing.sim.skipping import SkippingWorld
from holdfast.testing.sim.time_module import virtual_time
from holdfast.testing.sim.world import Process

__all__ = ["CLIENT", "COORDINATOR", "Deployment", "SimulationError"]

COORDINATOR = COORDINATOR_GROUP
CLIENT = "the client"
"""No agent can be called so."""
NAMESPACE = "holdfast"
PARTITIONS = 1
"""Of each topic: more cost time, and a handler cannot tell."""


class SimulationError(HoldfastError):
    """The simulation cannot do what it was asked; the message says why."""


_Runtime: TypeAlias = AgentRuntime | CoordinatorRuntime | SourceRuntime


@dataclass
class _Service:
    """An agent, a source, or the coordinator: what its processes run."""

    make: Callable[[Environment], _Runtime]
    runtime: _Runtime | None = None
    """Of its newest process, once that is up."""

    async def serve(self, environment: Environment) -> None:
        """Be a process."""
        self.runtime = None
        runtime = self.make(environment)
        await runtime.start()
        self.runtime = runtime
        await runtime.run()

    @property
    def settled(self) -> bool:
        """Whether it is up and at work."""
        return self.runtime is not None and self.runtime.host.settled


class Deployment:
    """The processes, who starts them again, and what was seen of them; a `Watch`.

    `restart_after_s`: how soon a dead process is started again; None: not at all.
    """

    def __init__(
        self,
        agents: Sequence[Agent],
        seed: int,
        restart_after_s: float | None,
        sources: Sequence[Source[Any]] = (),
    ) -> None:
        self.world = SkippingWorld(seed)
        self.calls: list[Call] = []
        self.evidence = Evidence()
        self.client: Client | None = None
        self.failure: tuple[str, Exception] | None = None
        """Who could not run, and why: a mistake that no restart mends."""
        self.deaths = Deaths(self.world, NAMESPACE, self.world.crash)
        self.closed = False
        self._restart_after_s = restart_after_s
        self._effects: set[str] = set()
        self._services = {COORDINATOR: _Service(_coordinator)}
        self._services |= {agent.name: _Service(self._agent(agent)) for agent in agents}
        self._services |= {SOURCE_PREFIX + each.name: _Service(_source(each)) for each in sources}
        self.world.idle_writers = {agent.name for agent in agents}
        self.world.on_death.append(self._died)
        for name in self._services:
            self.start(name)
        self.world.start(CLIENT, self._serve_client)

    @property
    def names(self) -> list[str]:
        """The processes that a test may name."""
        return list(self._services)

    @property
    def settled(self) -> bool:
        """Whether all that live are up and at work."""
        processes = self.world.processes
        return self.client is not None and all(
            service.settled or not processes[name].alive for name, service in self._services.items()
        )

    def process(self, name: str) -> Process:
        """Return the newest process of this name; raises `SimulationError`."""
        self.check_open()
        if name not in self._services:
            raise SimulationError(f"no process {name!r}{did_you_mean(name, self._services)}")
        return self.world.processes[name]

    def start(self, name: str) -> None:
        """Start a process."""
        service = self._services[name]

        async def main(environment: Environment) -> None:
            try:
                await service.serve(environment)
            except Exception as error:
                self.failure = self.failure or (name, error)
                raise

        self.world.start(name, main)

    def deploy(self, agent: Agent) -> None:
        """Let new code of an agent take the place of the old: its process is ended and begun."""
        process = self.process(agent.name)
        self._services[agent.name].make = self._agent(agent)
        if process.alive:
            self.world.crash(process, "new code was deployed")
        if not self.world.processes[agent.name].alive:
            self.start(agent.name)

    def check(self) -> None:
        """Raise `SimulationError` if something cannot run."""
        if self.failure is not None:
            name, error = self.failure
            raise SimulationError(f"{name} cannot run: {type(error).__name__}: {error}") from error

    def check_open(self) -> None:
        """Raise `SimulationError` if all has ended."""
        if self.closed:
            raise SimulationError("this simulation was closed: nothing moves in it any more")

    def virtual_time(self) -> AbstractContextManager[None]:
        """Return a context in which `time` tells this world's time."""
        world = self.world
        return virtual_time(lambda: world.now_ms(world.current), lambda: world.clock.now)

    def close(self) -> None:
        """End all processes; may be called again."""
        if not self.closed:
            self.closed = True
            with _unheard():
                self.world.close()

    # --- what was seen ---------------------------------------------------------------------------

    def events(self, run_id: str) -> list[Event]:
        """Return every event of a run so far, in order."""
        found = []
        for where, log in self.world.broker.logs.items():
            if where.topic == Topics(NAMESPACE).events:
                records = [decode(Event, record.value or b"") for record in log.history()]
                found += [event for event in records if event.run_id == run_id]
        return found

    def run_ids(self) -> list[str]:
        """Return the ids of all runs that were started so far, in order."""
        found = []
        for where, log in self.world.broker.logs.items():
            if where.topic == Topics(NAMESPACE).events:
                events = (decode(Event, record.value or b"") for record in log.history())
                found += [each.run_id for each in events if each.type is EventType.RUN_STARTED]
        return found

    def history(self) -> History:
        """Return all that is on the bus, after declaring that nothing is under way any more."""
        broker = self.world.broker
        self.evidence.add(Quiet(self.world.now_ms(), len(broker.open_transactions())))
        commits = [CommitSeen(t.slot, t.epoch, tuple(t.written), t.offsets) for t in broker.commits]
        offsets = {name: group.offsets for name, group in broker.groups.items()}
        return History(NAMESPACE, broker.history(), offsets, commits=commits)

    # --- Watch -----------------------------------------------------------------------------------

    def begins(self, call: Call) -> bool:
        """See `Watch`."""
        process = self._current()
        self.world.active()
        self.calls.append(call)
        if call.kind != "reconcile":  # it asks, and changes nothing
            self._testify(call, process)
        return self.deaths.reach(process, Moment.BODY_BEGINS, f"as {call} begins")

    def ends(self, call: Call) -> bool:
        """See `Watch`."""
        text = f"when {call} has returned"
        return self.deaths.reach(self._current(), Moment.BODY_RETURNED, text)

    def place(self) -> tuple[str, int]:
        """See `Watch`."""
        process = self._current()
        return f"{process.name}#{process.incarnation}", self.world.now_ms(process)

    def _testify(self, call: Call, process: Process) -> None:
        step = None if call.kind == "handler" else call.name
        task = (call.run_id, call.task_id, call.attempt)
        at = len(self.world.broker.commits)
        self.evidence.add(
            BodyStart(*task, step, call.key, process.name, call.process, call.at_ms, at)
        )
        key = call.idempotency_key
        if key is not None:
            # What a receiver that honours the keys would do.
            self.evidence.add(EffectSeen(key, "repeated" if key in self._effects else "applied"))
            self._effects.add(key)

    def _current(self) -> Process:
        process = self.world.current
        assert process is not None, "a user's code runs in a process"
        return process

    # --- processes -------------------------------------------------------------------------------

    def _died(self, process: Process) -> None:
        if self.closed or process.name not in self._services or self._restart_after_s is None:
            return

        def again() -> None:
            if not self.world.processes[process.name].alive and self.failure is None:
                self.start(process.name)

        self.world.at(self.world.clock.now + self._restart_after_s, again)

    def _agent(self, agent: Agent) -> Callable[[Environment], AgentRuntime]:
        watched = watched_agent(agent, self)
        settings = AgentSettings(f"{agent.name[:60]}-1", PARTITIONS, NAMESPACE)
        return lambda environment: AgentRuntime(environment, watched, settings)

    async def _serve_client(self, environment: Environment) -> None:
        settings = ClientSettings.model_construct(namespace=NAMESPACE)
        async with Client(settings=settings, environment=environment) as client:
            self.client = client
            await asyncio.get_running_loop().create_future()


def _coordinator(environment: Environment) -> CoordinatorRuntime:
    # The defaults: what a variable or a pyproject.toml says is of another deployment.
    limits = CoordinatorSettings.model_construct()
    settings = ProcessSettings(f"{COORDINATOR}-1", PARTITIONS, NAMESPACE, limits=limits)
    return CoordinatorRuntime(environment, settings)


def _source(source: Source[Any]) -> Callable[[Environment], SourceRuntime]:
    # A topic that nobody has made yet is the test's to fill.
    made = copy(source)
    made.topic = replace(source.topic, create=True)
    settings = SourceSettings(f"{source.name}-1", PARTITIONS, NAMESPACE)
    return lambda environment: SourceRuntime(environment, made, settings)


@contextmanager
def _unheard() -> Iterator[None]:
    """What dead code says while it is unwound is not for anybody's log."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
