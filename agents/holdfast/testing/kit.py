"""Your agents and your plan, in a test: on a simulated bus, with virtual time, crashed at will.

    with Simulation([scout, editor]) as simulation:
        run = simulation.submit(plan, {"folder": "."})
        assert run.result() == ...

    for crash in Simulation.crashes(plan, {"folder": "."}, agents=[scout, editor]):
        assert crash.run().result() == ..., crash

A coordinator, the agents and a client, which are what runs in production, each in a simulated
process of its own. All of it is stepped by the test itself, on its thread, in plain tests and in
asynchronous ones: nothing happens between two calls of the simulation. One seed is one history.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from holdfast.agents import Agent
from holdfast.agents.runtime import AgentRuntime, AgentSettings
from holdfast.bus.port import Environment
from holdfast.bus.topics import COORDINATOR_GROUP, Topics
from holdfast.client import Client, ClientError, ClientSettings, WaitTimeout
from holdfast.coordinator import CoordinatorRuntime, CoordinatorSettings, ProcessSettings
from holdfast.schemas import Plan, PlanDocument, Task, agents_of
from holdfast.schemas.codec import decode
from holdfast.schemas.errors import HoldfastError, did_you_mean
from holdfast.schemas.records import Event
from holdfast.testing.bodies import Call, watched_agent
from holdfast.testing.crashing import CrashPoint, Deaths, Moment
from holdfast.testing.evidence import BodyStart, EffectSeen, Evidence, Quiet, Submission
from holdfast.testing.history import CommitSeen, History
from holdfast.testing.invariants import Violation, check
from holdfast.testing.sim import Process, StandStill
from holdfast.testing.sim.skipping import SkippingWorld
from holdfast.testing.sim.time_module import virtual_time
from holdfast.testing.simulated import RESULT_S, SimulatedRun
from holdfast.testing.standing import why

__all__ = ["Crash", "Simulation", "SimulationError"]

T = TypeVar("T")
In = TypeVar("In")
Out = TypeVar("Out")
Work = Plan | PlanDocument | Task[Any, Any] | str

COORDINATOR = COORDINATOR_GROUP
NAMESPACE = "holdfast"
PARTITIONS = 1
"""Of each topic: more cost time, and a handler cannot tell."""
RESTART_S = 1.0
"""How soon a dead process is started again, as a supervisor does."""
SUBMIT_S = 60.0
SETTLE_S = 10.0
"""How long offsets, releases and tombstones may take once all has ended."""
_CLIENT = "the client"
"""No agent can be called so."""


class SimulationError(HoldfastError):
    """The simulation cannot do what it was asked; the message says why."""


@dataclass
class _Service:
    """An agent, or the coordinator: what its processes run."""

    make: Callable[[Environment], AgentRuntime | CoordinatorRuntime]
    runtime: AgentRuntime | CoordinatorRuntime | None = None
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


class Simulation:
    """A deployment of your agents in one test; a context manager.

    `agents`: those that the plans need. `seed`: everything that is drawn at random (delays, the
    order of what happens at once) is drawn from it. `restart_after_s`: how soon a process that died
    is started again; None: it stays dead until `restart`.

    Wherever a method says seconds it means virtual ones: hours in which nothing happens are left
    out. `time.time`, `time.monotonic` and, in synchronous functions, `time.sleep` are virtual too;
    `datetime.now()` is not, nor is what blocks otherwise (a socket). A `finally` of killed code
    runs when the simulation is closed.
    """

    def __init__(
        self, agents: Sequence[Agent], *, seed: int = 1, restart_after_s: float | None = RESTART_S
    ) -> None:
        names = [agent.name for agent in agents]
        for name in names:
            if names.count(name) > 1:
                raise SimulationError(f"two of the agents are named {name!r}")
        self.seed = seed
        self.calls: list[Call] = []
        """Every call of a handler, step or effect, in the order in which they began."""
        self._agents = tuple(agents)
        self._restart_after_s = restart_after_s
        self._world = SkippingWorld(seed)
        self._world.idle_writers = set(names)
        self._world.on_death.append(self._died)
        self._deaths = Deaths(self._world, NAMESPACE, self._kill)
        self._evidence = Evidence()
        self._client: Client | None = None
        self._failure: tuple[str, Exception] | None = None
        self._services = {COORDINATOR: _Service(self._coordinator)}
        self._services |= {agent.name: _Service(self._agent(agent)) for agent in agents}
        self._submitted = 0
        self._closed = False
        for name in self._services:
            self._start(name)
        self._world.start(_CLIENT, self._serve_client)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes; what was seen stays. May be called again."""
        if not self._closed:
            self._closed = True
            with _unheard():
                self._world.close()

    # --- runs ------------------------------------------------------------------------------------

    @overload
    def submit(
        self,
        work: Task[In, Out],
        input: In | Any = None,
        *,
        run_id: str | None = None,
        order_key: str | None = None,
        deadline_s: float | None = None,
    ) -> SimulatedRun[Out]: ...

    @overload
    def submit(
        self,
        work: Plan | PlanDocument | str,
        input: Any = None,
        *,
        run_id: str | None = None,
        order_key: str | None = None,
        deadline_s: float | None = None,
    ) -> SimulatedRun[Any]: ...

    def submit(
        self,
        work: Work,
        input: Any = None,  # noqa: A002 - as in `Client.submit`
        *,
        run_id: str | None = None,
        order_key: str | None = None,
        deadline_s: float | None = None,
    ) -> SimulatedRun[Any]:
        """Submit a plan, a task or a task's name; return once the bus keeps it.

        Raises `PlanError`, as `Client.submit` does; `SimulationError` for an agent that this
        simulation was not given.
        """
        self._check_agents(work)
        self._submitted += 1
        run_id = run_id or f"run-{self._submitted}"
        self._settle()
        client = self._client
        assert client is not None
        plan = work if isinstance(work, str) else work.name
        self._evidence.add(Submission(run_id, False, plan))
        run = self.call(
            lambda: client.submit(
                work, input, run_id=run_id, order_key=order_key, deadline_s=deadline_s
            ),
            SUBMIT_S,
            lambda: f"run {run_id!r} could not be submitted",
        )
        self._evidence.add(Submission(run_id, True, plan, order_key=run.order_key))
        return SimulatedRun(self, run, str(self._deaths.armed or ""))

    def events(self, run_id: str) -> list[Event]:
        """Return every event of a run so far, in order."""
        found = []
        for where, log in self._world.broker.logs.items():
            if where.topic == Topics(NAMESPACE).events:
                records = [decode(Event, record.value or b"") for record in log.history()]
                found += [event for event in records if event.run_id == run_id]
        return found

    # --- time ------------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """Virtual wall time (UTC)."""
        return datetime.fromtimestamp(self._world.now_ms() / 1000, UTC)

    def skip(
        self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0
    ) -> None:
        """Let time pass, with everything that happens in it."""
        self._check_open()
        with self._virtual_time():
            self._world.run_for(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
        self._check_services()

    def until(
        self,
        condition: Callable[[], object],
        timeout_s: float = RESULT_S,
        what: str = "the condition does not hold",
    ) -> None:
        """Go on until a condition holds, looked at after each callback of each process.

        Raises `StandStill` after `timeout_s`, with what everything waits for.
        """
        self._advance(lambda: bool(condition()), timeout_s, lambda: what, None)

    # --- processes -------------------------------------------------------------------------------

    def crash(self, name: str) -> None:
        """Kill a process now, as `kill -9` does: an agent by its name, or `coordinator`."""
        self._kill(self._process(name), "killed by the test")

    def restart(self, name: str) -> None:
        """Start a dead process now."""
        if self._process(name).alive:
            raise SimulationError(f"{name} is alive: crash it first")
        self._start(name)

    def pause(self, name: str, *, seconds: float) -> None:
        """Let a process stand still, as SIGSTOP does, for so long; time goes on for the others.

        After more than 3 s it ends itself on waking, and is started again: its slots may be
        another's.
        """
        process = self._process(name)
        if not process.alive:
            raise SimulationError(f"{name} is dead: it cannot be paused")
        self._world.stop(process)
        self._world.at(self._world.clock.now + seconds, lambda: self._world.wake(process))

    def violations(self) -> list[Violation]:
        """Let everything settle; return which invariants of Holdfast do not hold (I1 to I13).

        One that is found is a fault of Holdfast, or of an effect that has no key of its own.
        """
        if not self._closed:
            self.skip(seconds=SETTLE_S)
        broker = self._world.broker
        self._evidence.add(Quiet(self._world.now_ms(), len(broker.open_transactions())))
        commits = [CommitSeen(t.slot, t.epoch, tuple(t.written), t.offsets) for t in broker.commits]
        offsets = {name: group.offsets for name, group in broker.groups.items()}
        history = History(NAMESPACE, broker.history(), offsets, commits=commits)
        return check(history, self._evidence).violations

    # --- crashes at every step -------------------------------------------------------------------

    @classmethod
    def crashes(
        cls,
        work: Work,
        input: Any = None,  # noqa: A002 - as in `Client.submit`
        *,
        agents: Sequence[Agent],
        of: Sequence[str] | None = None,
        seed: int = 1,
    ) -> Iterator[Crash]:
        """Yield one `Crash` for each moment at which a process can die while `work` is run.

        The work is run once without any crash to find them: before and after each handler, step
        and effect, and in and behind each commit. `of`: only processes of these names, for
        instance `["scout"]`; by default all, the `coordinator` too. What your fakes have kept from
        the run before is yours to clear, at the head of the loop.

        Raises what the run without a crash raises.
        """
        with cls(agents, seed=seed) as simulation:
            known = list(simulation._services)
            for name in of or ():
                if name not in known:
                    raise SimulationError(f"no process {name!r}{did_you_mean(name, known)}")
            simulation._settle()
            simulation._deaths.recording = True
            simulation.submit(work, input, run_id=_CRASHED_RUN).result()
            simulation._deaths.recording = False
            points = list(simulation._deaths.points)
        for point in points:
            if of is None or point.process in of:
                yield Crash(point, work, input, tuple(agents), seed)

    # --- for the run's handle --------------------------------------------------------------------

    def call(
        self,
        ask: Callable[[], Coroutine[Any, Any, T]],
        timeout_s: float,
        what: Callable[[], str],
        run_id: str | None = None,
    ) -> T:
        """Carry out a coroutine in the client's process, and the world with it."""
        self._check_open()
        task = self._world.processes[_CLIENT].loop.create_task(ask())
        try:
            self._advance(task.done, timeout_s, what, run_id)
        except BaseException:
            task.cancel()
            raise
        return task.result()

    # --- how -------------------------------------------------------------------------------------

    def _advance(
        self,
        done: Callable[[], bool],
        timeout_s: float,
        what: Callable[[], str],
        run_id: str | None,
    ) -> None:
        self._check_open()
        try:
            with self._virtual_time():
                self._world.run(lambda: done() or self._failure is not None, timeout_s)
        except StandStill:
            message = f"{what()} after {timeout_s:g} s of virtual time:\n{self._why(run_id)}"
            raise StandStill(message) from None
        self._check_services()

    def _virtual_time(self) -> AbstractContextManager[None]:
        world = self._world
        return virtual_time(lambda: world.now_ms(world.current), lambda: world.clock.now)

    def _settle(self) -> None:
        self.until(
            lambda: self._client is not None and all(s.settled for s in self._services.values()),
            SUBMIT_S,
            "the processes have not started",
        )

    def _why(self, run_id: str | None) -> str:
        ids = [run_id] if run_id else [row.run_id for row in self._evidence.of(Submission)]
        processes = list(self._world.processes.values())
        told = [
            why(one, self.events(one), processes, self.calls, self._world.now_ms())
            for one in dict.fromkeys(ids)
        ]
        errors = [f"  unheard error: {error}" for error in self._world.errors[:3]]
        return "\n".join([*told, *errors]) or "  nothing was submitted"

    def _check_services(self) -> None:
        if self._failure is not None:
            name, error = self._failure
            raise SimulationError(f"{name} cannot run: {type(error).__name__}: {error}") from error

    def _check_open(self) -> None:
        if self._closed:
            raise SimulationError("this simulation was closed: nothing moves in it any more")

    def _check_agents(self, work: Work) -> None:
        plan = Plan.of_task(work) if isinstance(work, (Task, str)) else work
        known = [agent.name for agent in self._agents]
        missing = sorted(set(agents_of(plan)) - set(known))
        if missing:
            hint = did_you_mean(missing[0], known)
            raise SimulationError(
                f"{plan.name!r} needs {', '.join(missing)}, which this simulation was not "
                f"given{hint}: Simulation([{', '.join([*known, *missing])}])"
            )

    def _process(self, name: str) -> Process:
        self._check_open()
        if name not in self._services:
            raise SimulationError(f"no process {name!r}{did_you_mean(name, self._services)}")
        return self._world.processes[name]

    # --- Watch -----------------------------------------------------------------------------------

    def begins(self, call: Call) -> bool:
        """See `Watch`."""
        process = self._current()
        self._world.active()
        self.calls.append(call)
        step = None if call.kind == "handler" else call.name
        at = len(self._world.broker.commits)
        task = (call.run_id, call.task_id, call.attempt)
        if call.kind != "reconcile":
            self._evidence.add(
                BodyStart(*task, step, call.key, process.name, call.process, call.at_ms, at)
            )
        if call.kind == "effect" and call.idempotency_key is not None:
            seen = any(before.idempotency_key == call.idempotency_key for before in self.calls[:-1])
            outcome = "repeated" if seen else "applied"
            self._evidence.add(EffectSeen(call.idempotency_key, outcome))  # type: ignore[arg-type]
        return self._deaths.reach(process, Moment.BODY_BEGINS, f"as {call} begins")

    def ends(self, call: Call) -> bool:
        """See `Watch`."""
        text = f"when {call} has returned"
        return self._deaths.reach(self._current(), Moment.BODY_RETURNED, text)

    def place(self) -> tuple[str, int]:
        """See `Watch`."""
        process = self._current()
        return f"{process.name}#{process.incarnation}", self._world.now_ms(process)

    def _current(self) -> Process:
        process = self._world.current
        assert process is not None, "a user's code runs in a process"
        return process

    # --- processes -------------------------------------------------------------------------------

    def _start(self, name: str) -> None:
        service = self._services[name]

        async def main(environment: Environment) -> None:
            try:
                await service.serve(environment)
            except Exception as error:
                self._failure = self._failure or (name, error)
                raise

        self._world.start(name, main)

    def _kill(self, process: Process, reason: str) -> None:
        self._world.crash(process, reason)

    def _died(self, process: Process) -> None:
        if self._closed or process.name not in self._services or self._restart_after_s is None:
            return

        def again() -> None:
            if not self._world.processes[process.name].alive and self._failure is None:
                self._start(process.name)

        self._world.at(self._world.clock.now + self._restart_after_s, again)

    def _agent(self, agent: Agent) -> Callable[[Environment], AgentRuntime]:
        watched = watched_agent(agent, self)
        settings = AgentSettings(f"{agent.name}-1", PARTITIONS, NAMESPACE)
        return lambda environment: AgentRuntime(environment, watched, settings)

    @staticmethod
    def _coordinator(environment: Environment) -> CoordinatorRuntime:
        # The defaults: what a variable or a pyproject.toml says is of another deployment.
        limits = CoordinatorSettings.model_construct()
        settings = ProcessSettings(f"{COORDINATOR}-1", PARTITIONS, NAMESPACE, limits=limits)
        return CoordinatorRuntime(environment, settings)

    async def _serve_client(self, environment: Environment) -> None:
        settings = ClientSettings.model_construct(namespace=NAMESPACE)
        async with Client(settings=settings, environment=environment) as client:
            self._client = client
            await asyncio.get_running_loop().create_future()


_CRASHED_RUN = "run-1"


@dataclass(frozen=True)
class Crash:
    """One moment at which a process dies. Yielded by `Simulation.crashes`; print it to see where.

    `run` begins a fresh simulation, in which it happens; the process is started again.
    """

    point: CrashPoint
    _work: Work = field(repr=False)
    _input: Any = field(repr=False)
    _agents: tuple[Agent, ...] = field(repr=False)
    _seed: int = field(repr=False)

    def __str__(self) -> str:
        return str(self.point)

    @property
    def process(self) -> str:
        """Who dies."""
        return self.point.process

    def run(
        self, *, timeout_s: float = RESULT_S, check_invariants: bool = False
    ) -> SimulatedRun[Any]:
        """Run the work with this crash in it, to its end; how it ended is what `result` tells.

        Raises `StandStill` if it does not end, and `SimulationError` if the moment never came:
        then your code does something else each time, without any crash.
        """
        with Simulation(self._agents, seed=self._seed) as simulation:
            deaths = simulation._deaths  # noqa: SLF001 - a crash is a simulation's own
            simulation._settle()  # noqa: SLF001
            deaths.armed = self.point
            run = simulation.submit(self._work, self._input, run_id=_CRASHED_RUN)
            try:
                run.result(timeout_s)
            except ClientError as error:
                if isinstance(error, WaitTimeout):
                    raise
            if deaths.met is None:
                raise SimulationError(
                    f"it never came to this in the second run: {self}. The code does not do the "
                    "same each time: does it depend on what an earlier run has left (clear your "
                    "fakes at the head of the loop), on the clock, or on random numbers?"
                )
            if check_invariants and (found := simulation.violations()):
                raise AssertionError(f"{self}:\n" + "\n".join(map(str, found)))
        return run


@contextmanager
def _unheard() -> Iterator[None]:
    """What dead code says while it is unwound is not for anybody's log."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
