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

from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from pydantic_core import to_json

from holdfast.agents import Agent
from holdfast.bus.port import Headers, Position, Record
from holdfast.client import RunFailed, SyncKeyState, SyncSchedules
from holdfast.schemas import Plan, PlanDocument, Task, agents_of
from holdfast.schemas.errors import did_you_mean
from holdfast.schemas.records import Event
from holdfast.sources import Source
from holdfast.testing.bodies import Call
from holdfast.testing.crashing import CrashPoint
from holdfast.testing.deployment import CLIENT, Deployment, SimulationError
from holdfast.testing.evidence import Submission
from holdfast.testing.invariants import Violation, check
from holdfast.testing.sim.world import StandStill
from holdfast.testing.simulated import RESULT_S, SimulatedRun
from holdfast.testing.standing import why

__all__ = ["Crash", "Simulation", "SimulationError"]

T = TypeVar("T")
In = TypeVar("In")
Out = TypeVar("Out")
Work = Plan | PlanDocument | Task[Any, Any] | str

RESTART_S = 1.0
"""How soon a dead process is started again, as a supervisor does."""
SUBMIT_S = 60.0
RUN_ID = "run-1"
"""Of what is crashed."""
SETTLE_S = 10.0
"""How long offsets, releases and tombstones may take once all has ended."""


class Simulation:
    """A deployment of your agents in one test; a context manager.

    `agents`: those that the plans need. `seed`: everything that is drawn at random (delays, the
    order of what happens at once) is drawn from it. `restart_after_s`: how soon a process that died
    is started again; None: it stays dead until `restart`. `sources`: those whose topics are filled
    with `publish`; the process of one is `source-<name>`.

    Wherever a method says seconds it means virtual ones: hours in which nothing happens are left
    out. `time.time`, `time.monotonic` and, in synchronous functions, `time.sleep` are virtual too;
    `datetime.now()` is not, nor is what blocks otherwise (a socket). A `finally` of killed code
    runs when the simulation is closed.
    """

    def __init__(
        self,
        agents: Sequence[Agent],
        *,
        seed: int = 1,
        restart_after_s: float | None = RESTART_S,
        sources: Sequence[Source[Any]] = (),
    ) -> None:
        names = [agent.name for agent in agents]
        for name in names:
            if names.count(name) > 1:
                raise SimulationError(f"two of the agents are named {name!r}")
        self.seed = seed
        self._agents = tuple(agents)
        self._deployment = Deployment(agents, seed, restart_after_s, sources)
        self._world = self._deployment.world
        self._submitted = 0

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
        self._deployment.close()

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
        start_at: datetime | None = None,
        start_in: timedelta | None = None,
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
        start_at: datetime | None = None,
        start_in: timedelta | None = None,
    ) -> SimulatedRun[Any]: ...

    def submit(
        self,
        work: Work,
        input: Any = None,  # noqa: A002 - as in `Client.submit`
        *,
        run_id: str | None = None,
        order_key: str | None = None,
        deadline_s: float | None = None,
        start_at: datetime | None = None,
        start_in: timedelta | None = None,
    ) -> SimulatedRun[Any]:
        """Submit a plan, a task or a task's name; return once the bus keeps it.

        Raises `PlanError`, as `Client.submit` does; `SimulationError` for an agent that this
        simulation was not given.
        """
        self._check_agents(work)
        self._submitted += 1
        run_id = run_id or f"run-{self._submitted}"
        self._settle()
        client = self._deployment.client
        assert client is not None
        plan = work if isinstance(work, str) else work.name
        self._deployment.evidence.add(Submission(run_id, False, plan))
        run = self.call(
            lambda: client.submit(
                work,
                input,
                run_id=run_id,
                order_key=order_key,
                deadline_s=deadline_s,
                start_at=start_at,
                start_in=start_in,
            ),
            SUBMIT_S,
            lambda: f"run {run_id!r} could not be submitted",
        )
        self._deployment.evidence.add(Submission(run_id, True, plan, order_key=run.order_key))
        return SimulatedRun(self, run, str(self._deployment.deaths.armed or ""))

    def publish(
        self,
        topic: str,
        value: Any,
        *,
        key: str | None = None,
        headers: Headers = (),
    ) -> Position:
        """Write a record to a topic of a source; return once the bus keeps it.

        `value`: bytes as they are, a pydantic model or anything else as JSON, None as a tombstone.
        """
        self._settle()
        data = value if value is None or isinstance(value, bytes) else to_json(value)
        partition = 0 if key is None else None  # the only one there is
        record = Record(topic, None if key is None else key.encode(), data, headers, partition)
        bus = self._world.processes[CLIENT].bus
        positions = self.call(
            lambda: bus.publish([record]), SUBMIT_S, lambda: f"nothing can be written to {topic!r}"
        )
        return positions[0]

    def run(self, run_id: str, order_key: str | None = None) -> SimulatedRun[Any]:
        """Return a handle of a run that was started otherwise, by a source for instance."""
        self._settle()
        client = self._deployment.client
        assert client is not None
        run = self.call(
            lambda: client.run(run_id, order_key), SUBMIT_S, lambda: f"run {run_id!r} is not found"
        )
        return SimulatedRun(self, run, str(self._deployment.deaths.armed or ""))

    def run_ids(self) -> list[str]:
        """Return the ids of all runs that were started so far, in order."""
        return self._deployment.run_ids()

    @property
    def calls(self) -> list[Call]:
        """Every call of a handler, step or effect, in the order in which they began."""
        return self._deployment.calls

    def events(self, run_id: str) -> list[Event]:
        """Return every event of a run so far, in order."""
        return self._deployment.events(run_id)

    # --- time ------------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """Virtual wall time (UTC)."""
        return datetime.fromtimestamp(self._world.now_ms() / 1000, UTC)

    def skip(
        self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0
    ) -> None:
        """Let time pass, with everything that happens in it."""
        self._deployment.check_open()
        with self._deployment.virtual_time():
            self._world.run_for(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
        self._deployment.check()

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
        self._world.crash(self._deployment.process(name), "killed by the test")

    def restart(self, name: str) -> None:
        """Start a dead process now."""
        if self._deployment.process(name).alive:
            raise SimulationError(f"{name} is alive: crash it first")
        self._deployment.start(name)

    def deploy(self, agent: Agent) -> None:
        """Let new code of an agent take the place of the old, under all that is in flight.

        `agent` has the name of one that was given; its process is killed, and begun with the new
        code at once. Give the two a `version`, to tell them apart in journals and results.
        """
        self._deployment.deploy(agent)

    def pause(self, name: str, *, seconds: float) -> None:
        """Let a process stand still, as SIGSTOP does, for so long; time goes on for the others.

        After more than 3 s it ends itself on waking, and is started again: its slots may be
        another's.
        """
        process = self._deployment.process(name)
        if not process.alive:
            raise SimulationError(f"{name} is dead: it cannot be paused")
        self._world.stop(process)
        self._world.at(self._world.clock.now + seconds, lambda: self._world.wake(process))

    @property
    def schedules(self) -> SyncSchedules:
        """Schedules: create, read and steer them, as by `SyncClient.schedules`.

        `skip` over days costs what happens in them. `events("schedule/<name>")` are a schedule's.
        """
        self._settle()
        client = self._deployment.client
        assert client is not None, "it is settled"
        return SyncSchedules(client.schedules, self._carry_out)

    def state(self, agent: str, order_key: str) -> SyncKeyState:
        """What an agent keeps under an order key (`ctx.state`), as by `SyncClient.state`."""
        self._settle()
        client = self._deployment.client
        assert client is not None, "it is settled"
        return SyncKeyState(client.state(agent, order_key), self._carry_out)

    def _carry_out(self, work: Coroutine[Any, Any, T]) -> T:
        return self.call(lambda: work, SUBMIT_S, lambda: "it was not answered")

    def violations(self) -> list[Violation]:
        """Let everything settle; return which invariants of Holdfast do not hold (I1 to I14).

        One that is found is a fault of Holdfast, or of an effect that has no key of its own.
        A schedule that is due in the next seconds keeps it from settling: pause it before.
        """
        self.skip(seconds=SETTLE_S)
        return check(self._deployment.history(), self._deployment.evidence).violations

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
            known = simulation._deployment.names
            for name in of or ():
                if name not in known:
                    raise SimulationError(f"no process {name!r}{did_you_mean(name, known)}")
            simulation._settle()
            simulation._deployment.deaths.recording = True
            simulation.submit(work, input, run_id=RUN_ID).result()
            simulation._deployment.deaths.recording = False
            points = list(simulation._deployment.deaths.points)
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
        self._deployment.check_open()
        self._world.active()  # else the hours that are left out would be left out of its requests
        task = self._world.processes[CLIENT].loop.create_task(ask())
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
        self._deployment.check_open()
        try:
            with self._deployment.virtual_time():
                self._world.run(lambda: done() or self._deployment.failure is not None, timeout_s)
        except StandStill:
            message = f"{what()} after {timeout_s:g} s of virtual time:\n{self._why(run_id)}"
            raise StandStill(message) from None
        self._deployment.check()

    def _settle(self) -> None:
        self.until(
            lambda: self._deployment.settled,
            SUBMIT_S,
            "the processes have not started",
        )

    def _why(self, run_id: str | None) -> str:
        ids = (
            [run_id] if run_id else [row.run_id for row in self._deployment.evidence.of(Submission)]
        )
        processes = list(self._world.processes.values())
        told = [
            why(one, self.events(one), processes, self.calls, self._world.now_ms())
            for one in dict.fromkeys(ids)
        ]
        errors = [f"  unheard error: {error}" for error in self._world.errors[:3]]
        return "\n".join([*told, *errors]) or "  nothing was submitted"

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
            deaths = simulation._deployment.deaths  # noqa: SLF001 - a crash is a simulation's own
            simulation._settle()  # noqa: SLF001
            deaths.armed = self.point
            run = simulation.submit(self._work, self._input, run_id=RUN_ID)
            with suppress(RunFailed):  # which is for `result` to tell, as often as it is asked
                run.result(timeout_s)
            if deaths.met is None:
                raise SimulationError(
                    f"it never came to this in the second run: {self}. The code does not do the "
                    "same each time: does it depend on what an earlier run has left (clear your "
                    "fakes at the head of the loop), on the clock, or on random numbers?"
                )
            if check_invariants and (found := simulation.violations()):
                raise AssertionError(f"{self}:\n" + "\n".join(map(str, found)))
        return run
