"""One seed: a world of coordinators, agents and a client; runs, faults; and the judgement.

draw      services, jobs and faults, each from its own part of the seed
run       until every job has ended, whatever was done to the world meanwhile
calm      faults end; everything that is dead comes back; nothing may be left open
judge     all invariants, over the broker's own log and what was seen outside
"""

from __future__ import annotations

import hashlib
import random
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, field
from typing import Any

from holdfast.agents.runtime import AgentRuntime, AgentSettings
from holdfast.bus.port import Environment, Position, Received, Record, TopicPartition, TopicSpec
from holdfast.bus.topics import COORDINATOR_GROUP, Topics
from holdfast.coordinator import CoordinatorRuntime, CoordinatorSettings, ProcessSettings
from holdfast.schemas.codec import decode
from holdfast.schemas.errors import Undecodable
from holdfast.schemas.records import (
    CoordinatorEnvelope,
    DeadLetterReason,
    EventType,
    TaskResult,
)
from holdfast.testing.evidence import Excused, PoisonSent, Quiet, StateHash
from holdfast.testing.history import CommitSeen, History
from holdfast.testing.invariants import Verdict, check
from holdfast.testing.sim import Process, SimTiming, StandStill
from tests.simulation.agents import AGENTS, PUBLISHED, Outside, make_agents
from tests.simulation.arriving import NarrowLimits
from tests.simulation.driver import NAMESPACE, Driver
from tests.simulation.faults import ARMED_S, Fault, draw_faults
from tests.simulation.lists import items_wrong
from tests.simulation.plans import Sources, draw_job
from tests.simulation.threaded import ThreadedWorld

PARTITIONS = 2
TIMING = SimTiming(
    late_s=4.0,
    operation_timeout_s=8.0,
    transaction_timeout_s=2.5,
    session_s=3.0,
    heartbeat_s=0.4,
    rebalance_s=1.2,
)
RUNS_MIN, RUNS_MAX = 4, 5
FAULTS_MIN, FAULTS_MAX = 3, 5
RESTART_S = 0.2
"""How soon the supervisor starts a dead service again."""
SLEEP_AFTER_S = 0.3
"""So soon a handler that only waits loses its memory."""
END_S = 400.0
"""All jobs have ended after so long, in virtual time, or something hangs."""
CALM_S = 60.0
SETTLE_S = 4.0
"""How long the last offsets, tombstones and releases may take once all jobs have ended."""

Runtime = AgentRuntime | CoordinatorRuntime


@dataclass
class Outcome:
    """What became of one seed."""

    seed: int
    runs: int
    tasks: int
    faults: list[str]
    violations: list[str]
    looked_at: dict[str, dict[str, int]] = field(default_factory=dict)
    virtual_s: float = 0.0
    steps: int = 0
    deaths: int = 0
    takeovers: int = 0

    @property
    def ok(self) -> bool:
        """True when nothing was violated."""
        return not self.violations


class Scenario:
    """A seed's world, drawn and ready to run; a `Place` for faults.

    `keep`: the numbers of the faults that are kept (None: all); `runs`: at most so many jobs.
    """

    def __init__(
        self, seed: int, keep: Collection[int] | None = None, runs: int | None = None
    ) -> None:
        drawn = random.Random(f"scenario {seed}")
        self.seed = seed
        self.world = ThreadedWorld(seed, TIMING)
        self.outside = Outside(self.world)
        concurrency = drawn.randint(1, 4)
        self.services = ("c1", "c2", *AGENTS, "client")
        topics = Topics(NAMESPACE)
        self.groups = tuple(topics.group(name) for name in (COORDINATOR_GROUP, *AGENTS))
        self.inboxes = (
            topics.coordinator,
            *(topics.tasks(name) for name in AGENTS),
            *(topics.control(name) for name in AGENTS),
        )
        # Draws of their own: runs that neither wait nor live stay what they were.
        others = (random.Random(f"{what} {seed}") for what in ("waits", "lives", "arrives"))
        sources = Sources(drawn, *others)
        count = drawn.randint(RUNS_MIN, RUNS_MAX)
        jobs = [draw_job(sources, n) for n in range(count)]
        # Of all that were drawn: a world in which fewer of them run is the same world.
        arriving = any(job.arrives for job in jobs)
        self.jobs = jobs[:runs]
        self.agents = make_agents(self.outside, concurrency, arriving=arriving)
        self._limits = NarrowLimits(ahead_items=1 + seed % 3) if arriving else CoordinatorSettings()
        faults = draw_faults(drawn, drawn.randint(FAULTS_MIN, FAULTS_MAX))
        self.faults = [f for n, f in enumerate(faults) if keep is None or n in keep]
        jumps = [fault for fault in self.faults if fault.name.startswith("clock jump")]
        self.outside.waited.clocks_jump = bool(jumps)
        self._driver = Driver(self.outside, self.jobs)
        self.deaths = 0
        self._back_at: dict[str, float] = {}
        self._runtimes: dict[str, Runtime] = {}
        self._extra = 0
        self._echoes: set[Position] = set()
        """Results that no agent wrote: nothing may come of them but that they are ignored."""
        self.world.on_death.append(self._died)

    # --- Place ---------------------------------------------------------------------------------

    def supervise(self, name: str, after_s: float) -> None:
        """See `faults.Place`."""
        self._back_at[name] = self.world.clock.now + after_s

    def join(self, name: str, stay_s: float) -> None:
        """See `faults.Place`."""
        if name == "client":
            return
        self._extra += 1
        base = "c" if name in ("c1", "c2") else name
        extra = f"{base}-x{self._extra}"
        process = self.world.start(extra, self._main(base, extra))
        self.world.at(self.world.clock.now + stay_s, lambda: self._part(process))

    def retire(self, name: str) -> None:
        """See `faults.Place`."""
        process, runtime = self.world.processes[name], self._runtimes.get(name)
        if runtime is not None and process.alive:
            process.loop.call_soon(lambda: process.loop.create_task(runtime.stop()))

    def echo(self, pick: float) -> None:
        """See `faults.Place`."""
        broker, topic = self.world.broker, Topics(NAMESPACE).coordinator
        results = [
            received
            for partition in range(PARTITIONS)
            for received in self._inbox(TopicPartition(topic, partition))
            if _is_result(received)
        ]
        if results:
            again = results[int(pick * len(results))]
            record = Record(topic, again.key, again.value, again.headers)
            self._echoes.update(broker.publish([(record, self.world.now_ms())]))

    def _inbox(self, partition: TopicPartition) -> list[Received]:
        log = self.world.broker.logs.get(partition)
        return [] if log is None else list(log.history())

    def damage(self, topic: str, partition: int, value: bytes) -> None:
        """See `faults.Place`."""
        broker = self.world.broker
        if topic not in broker.topics:
            return
        record = Record(topic, b"damaged", value, (), partition)
        [position] = broker.publish([(record, self.world.now_ms())])
        digest = hashlib.sha256(value).hexdigest()
        self.outside.evidence.add(PoisonSent("bytes", digest, topic, partition, position.offset))

    def halt(self, name: str, seconds: float) -> None:
        """See `faults.Place`."""
        world, process = self.world, self.world.processes[name]
        now_ms = world.now_ms()
        self.outside.evidence.add(
            Excused(
                f"{name}#{process.incarnation}", "SIGSTOP", now_ms, now_ms + int(seconds * 1000)
            )
        )
        world.stop(process)
        world.at(world.clock.now + seconds, lambda: world.wake(process))

    def _part(self, process: Process) -> None:
        runtime = self._runtimes.get(process.name)
        if runtime is None or not process.alive or self.world.random.random() < 0.4:
            self.world.crash(process, "left by a crash")
        else:
            process.loop.call_soon(lambda: process.loop.create_task(runtime.stop()))

    # --- services ------------------------------------------------------------------------------

    def _main(self, base: str, instance: str) -> Callable[[Environment], Coroutine[Any, Any, None]]:
        async def main(environment: Environment) -> None:
            runtime: Runtime
            if base == "c":
                settings = ProcessSettings(instance, PARTITIONS, NAMESPACE, limits=self._limits)
                runtime = CoordinatorRuntime(environment, settings)
            else:
                runtime = AgentRuntime(
                    environment,
                    self.agents[base],
                    AgentSettings(instance, PARTITIONS, NAMESPACE, sleep_after_s=SLEEP_AFTER_S),
                )
            await runtime.start()
            self._runtimes[instance] = runtime
            await runtime.run()

        return main

    def _died(self, process: Process) -> None:
        self.deaths += 1
        self._runtimes.pop(process.name, None)
        if process.name in self.services and not (process.name == "client" and self._driver.done):
            self.world.at(self.world.clock.now + RESTART_S, lambda: self._revive(process.name))

    def _revive(self, name: str) -> None:
        now, back_at = self.world.clock.now, self._back_at.get(name, 0.0)
        if self.world.processes[name].alive:
            return
        if now < back_at:
            self.world.at(back_at, lambda: self._revive(name))
        else:
            self.world.restart(name)

    # --- the seed ------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Run it and judge it."""
        verdict = Verdict()
        try:
            broken = self._live()
            verdict, wrong = self._judge()
            broken += wrong
        except Exception:
            broken = [f"ERROR {traceback.format_exc()}"]
        finally:
            self.world.close()
        violations = [str(violation) for violation in verdict.violations]
        violations += broken + self._driver.surprises + self.outside.surprises + self.world.errors
        return Outcome(
            self.seed,
            len(self.jobs),
            len(self.outside.executions),
            [str(fault) for fault in self.faults],
            violations,
            verdict.looked_at,
            self.world.clock.now,
            self.world.steps,
            self.deaths,
            self._takeovers(),
        )

    def _live(self) -> list[str]:
        world = self.world
        world.broker.create_topics([TopicSpec(PUBLISHED, PARTITIONS)])
        for name in self.services:
            base = "c" if name in ("c1", "c2") else name
            world.start(name, self._driver.main if name == "client" else self._main(base, name))
        for fault in self.faults:
            world.at(fault.at_s, lambda fault=fault: fault.arm(self))  # type: ignore[misc]
        try:
            world.run(lambda: self._driver.done, END_S, "every job ends")
            world.run_for(max(0.0, ARMED_S - world.clock.now))
            self._end_faults()
            world.run(self._calm, CALM_S, "every service is back")
            settling_until = world.clock.now + CALM_S
            while not self._stays_calm() and world.clock.now < settling_until:
                world.run(self._calm, CALM_S, "every service is still there")
            world.run(self._still, CALM_S, "no commit is under way")
        except StandStill as error:
            return [f"I9 at {world.clock.now:.1f} s: {error}"]
        self._declare_quiet()
        return []

    def _end_faults(self) -> None:
        self.world.watchers.clear()
        self.world.broker.network.watchers.clear()
        self.world.broker.network.fates.clear()
        self.world.broker.stale_offsets = lambda: False

    def _calm(self) -> bool:
        # Asked after every step of the world: one pass, and no more than that.
        if self.world.broker.network.away:
            return False
        for name, process in self.world.processes.items():
            if process.alive and (process.stopped or name not in self.services):
                return False
            if name in self.services and name != "client":
                runtime = self._runtimes.get(name)
                if not process.alive or runtime is None or not runtime.host.settled:
                    return False
        return True

    def _stays_calm(self) -> bool:
        """Let time pass, until something is not calm any more. Who loses a slot as late as now (the
        broker ended a transaction whose end was lost) must have its time to read on."""
        world, seen_s = self.world, -1.0

        def disturbed() -> bool:
            # Once for each moment: what disturbs lasts longer, and all of it is dear to look at.
            nonlocal seen_s
            if world.clock.now == seen_s:
                return False
            seen_s = world.clock.now
            return not self._calm()

        try:
            world.run(disturbed, SETTLE_S)
        except StandStill:
            return True
        return False

    def _still(self) -> bool:
        """No transaction is open at the broker, and no answer to a commit is on its way."""
        if self.world.broker.open_transactions():
            return False
        hosts = [runtime.host for runtime in self._runtimes.values()]
        slots = [slot for host in hosts if host._ownership for slot in host._ownership.slots]
        return not any(slot._commits._unsettled for slot in slots)

    def _declare_quiet(self) -> None:
        for job in self.jobs:
            if job.poison is not None:
                self.outside.evidence.add(
                    PoisonSent("task", "", run_id=job.run_id, task_id=job.poison)
                )
        for name in ("c1", "c2"):
            self._hash_states(self._runtimes[name])
        open_count = len(self.world.broker.open_transactions())
        self.outside.evidence.add(Quiet(self.world.now_ms(), open_count))

    def _hash_states(self, runtime: Runtime) -> None:
        assert isinstance(runtime, CoordinatorRuntime)
        topics = Topics(NAMESPACE)
        for partition, machine in runtime._machines.items():
            if machine.owned:
                group, journal = topics.group(COORDINATOR_GROUP), topics.journal(COORDINATOR_GROUP)
                end = self.world.broker.logs[TopicPartition(journal, partition)].end
                digest = machine._state.digest()
                self.outside.evidence.add(StateHash(group, partition, end, digest, "before"))

    def _published(self, history: History) -> list[str]:
        """What a handler publishes stands outside once if its task succeeded, and else never."""
        counted = Counter(
            (record.key or b"").decode()
            for (topic, _), log in history.records.items()
            if topic == PUBLISHED
            for record in log
        )
        succeeded = {
            f"{event.body.run_id}/{event.body.task.task_id}"
            for event in history.events
            if event.body.type is EventType.TASK_SUCCEEDED and event.body.task is not None
        }
        wrong = [f"{name} stands {count} times" for name, count in counted.items() if count != 1]
        wrong += [f"{name} has not succeeded" for name in counted.keys() - succeeded]
        return [f"I4 at {PUBLISHED}: {what}" for what in wrong]

    def _judge(self) -> tuple[Verdict, list[str]]:
        broker = self.world.broker
        commits = [CommitSeen(t.slot, t.epoch, tuple(t.written), t.offsets) for t in broker.commits]
        offsets = {name: group.offsets for name, group in broker.groups.items()}
        history = History(NAMESPACE, broker.history(), offsets, commits=commits)
        for results in history.results.values():
            results[:] = [r for r in results if r.received.position not in self._echoes]
        history.blobs = {name: data for name, (data, _) in broker.blobs.items()}
        history.limits = self._limits.limits()
        broken = self._published(history) + _parked(history) + items_wrong(history, self.outside)
        return check(history, self.outside.evidence), broken

    def _takeovers(self) -> int:
        """How often a slot's commits went from one writer to a newer one.

        The registry's slot does not count: it changes hands with each schema that is registered.
        """
        last: dict[object, int] = {}
        count = 0
        for commit in self.world.broker.commits:
            if commit.slot.group not in self.groups:
                continue
            count += last.get(commit.slot, commit.epoch) != commit.epoch
            last[commit.slot] = commit.epoch
        return count


def _parked(history: History) -> list[str]:
    """The handlers here do the same each time: none may be parked for what it did before."""
    reasons = (DeadLetterReason.MISMATCH, DeadLetterReason.OUTCOME_UNKNOWN)
    return [
        f"I3 at {letter.body.dead_letter_id}: {letter.body.reason}: {letter.body.failure.message}"
        for letter in history.dead_letters
        if letter.body.reason in reasons and letter.body.failure is not None
    ]


def _is_result(received: Received) -> bool:
    try:
        return isinstance(decode(CoordinatorEnvelope, received.value or b"").body, TaskResult)
    except Undecodable:
        return False


def run_seed(seed: int, keep: Collection[int] | None = None, runs: int | None = None) -> Outcome:
    """Run one seed."""
    return Scenario(seed, keep, runs).run()


__all__ = ["Fault", "Outcome", "Scenario", "run_seed"]
