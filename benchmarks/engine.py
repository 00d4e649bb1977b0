"""How fast the engine is: transitions, whole runs with their encoding, a map of 100,000 items.

    python -m benchmarks.engine
    python -m benchmarks.engine --runs 10000 --items 100000 --tasks 100000

No bus, no agents, no waiting: what is measured is the coordinator's own processor time (so a busy
machine makes it somewhat slower, but does not show as the longest transition). The journal is
folded as the slot would, so that memory is what a coordinator holds.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from holdfast.bus.port import Environment, Received, Record, Slot
from holdfast.bus.slot.machine import Opened
from holdfast.bus.topics import Topics
from holdfast.cli.service import COLLECT_AFTER
from holdfast.coordinator.engine import (
    Arrival,
    Effect,
    Engine,
    EngineLimits,
    Graphs,
    Input,
    SendTask,
    State,
    Values,
    View,
)
from holdfast.coordinator.ports import CoordinatorContext
from holdfast.coordinator.service import CoordinatorMachine
from holdfast.coordinator.settings import CoordinatorSettings
from holdfast.coordinator.writing import Writing
from holdfast.schemas.codec import decode, encode, encode_json
from holdfast.schemas.documents import DocumentCodec
from holdfast.schemas.plan import Plan
from holdfast.schemas.records import (
    Cause,
    CoordinatorEnvelope,
    Manifest,
    Outcome,
    RetryPolicy,
    Submission,
    TaskEnvelope,
    TaskResult,
)
from holdfast.schemas.resolution import ResolvedPlan, ResolvedTask

SCHEMA_ID = 1_000
SCHEMA = {
    "type": "record",
    "name": "Message",
    "fields": [{"name": "text", "type": "string"}, {"name": "count", "type": "long"}],
}
TEXT = "x" * 190
NOW_MS = 1_700_000_000_000


LIST_ID = 1_001
LIST_SCHEMA = {
    "type": "record",
    "name": "All",
    "fields": [{"name": "all", "type": {"type": "array", "items": SCHEMA}}],
}


def _known(schema_id: int) -> Any | None:
    return {SCHEMA_ID: SCHEMA, LIST_ID: LIST_SCHEMA}.get(schema_id)


CODEC = DocumentCodec(_known)
MESSAGE = CODEC.encode(SCHEMA_ID, {"text": TEXT, "count": 1})


def resolved(plan: Plan) -> str:
    """Return a plan whose tasks take and give a `Message`."""
    document = plan.document()
    tasks = {
        name: ResolvedTask(
            agent=node.task.partition(".")[0],
            task=node.task.partition(".")[2],
            input_schema_id=LIST_ID if node.task == "editor.report" else SCHEMA_ID,
            output_schema_id=SCHEMA_ID,
            retry=RetryPolicy(),
        )
        for name, node in document.tasks.items()
    }
    return ResolvedPlan(plan=document, tasks=tasks).to_json()


def chain() -> str:
    """Return the plan of the benchmark: three tasks, each given the output of the one before."""
    plan = Plan("chain")
    one = plan.task("one", "first.do", text=plan.input("text"), count=plan.input("count"))
    two = plan.task("two", "second.do", text=one["text"], count=one["count"])
    plan.task("three", "third.do", text=two["text"], count=two["count"])
    return resolved(plan)


def submission(run_id: str, plan: str, data: bytes) -> CoordinatorEnvelope:
    """Return a submission as a client sends it."""
    return CoordinatorEnvelope(run_id, NOW_MS, Submission(plan, data, "0" * 64, run_id, "bench"))


def result(task: TaskEnvelope, output: bytes = MESSAGE) -> CoordinatorEnvelope:
    """Return the end of an attempt as an agent sends it."""
    end = TaskResult(
        task.task_id, task.attempt, Outcome.SUCCEEDED, output, None, [], 0, 0, 0, "agent-1", "b"
    )
    return CoordinatorEnvelope(task.run_id, NOW_MS, end)


class Direct:
    """The bare engine: each input applied at once."""

    def __init__(self) -> None:
        self.state = State()
        self.engine = Engine(EngineLimits(), Values(CODEC), Graphs())
        self.took: list[float] = []

    def take(self, input_: Input) -> list[Effect]:
        """Run one input and apply it; note how long the engine took."""
        view = View(self.state)
        began = time.thread_time()
        reaction = self.engine.react(view, input_, NOW_MS)
        self.took.append(time.thread_time() - began)
        view.absorb(reaction)
        view.apply()
        return reaction.effects

    def submit(self, run_id: str, plan: str) -> list[Input]:
        """Submit one run; return the results of the tasks that follow."""
        return self.go_on(Arrival(submission(run_id, plan, MESSAGE), Cause(0, 0), run_id))

    def go_on(self, input_: Input) -> list[Input]:
        """Take one input; return the results of the tasks that follow."""
        return [
            Arrival(result(effect.envelope), Cause(0, 0), effect.envelope.run_id)
            for effect in self.take(input_)
            if isinstance(effect, SendTask)
        ]


class Control:
    """The slot of a machine that is alone in the world."""

    slot = Slot("bench.coordinator", 0)

    def wake(self) -> None:
        """Nobody sleeps."""

    def journal(self, key: str, value: bytes | None) -> Record:
        """Return a journal record."""
        return Record("bench.journal.coordinator", key.encode(), value, (), 0)

    def check(self, record: Record) -> None:
        """Take everything."""

    def owns(self, key: bytes) -> bool:
        """Everything stands right."""
        del key
        return True

    def misplaced(self, received: Received) -> Record | None:
        """Everything stands right."""
        del received
        return None

    async def confirm(self) -> None:
        """Nobody asks."""

    async def prove(self) -> None:
        """Nobody asks."""


class Alone:
    """Stands in for agents, registry and store that are never asked."""

    def known(self, schema_id: int) -> Any | None:
        """Return the one schema."""
        return _known(schema_id)

    async def find(self, schema_id: int, timeout_s: float) -> bool:
        """Nothing is missing."""
        del schema_id, timeout_s
        return False

    async def get(self, reference: Any) -> bytes | None:
        """Nothing is large."""
        del reference
        return None

    async def put(self, reference: Any, data: bytes) -> None:
        """Nothing is large."""

    def problem(self, plan: str) -> str | None:
        """All agents are known."""
        del plan
        return None

    def task(self, agent: str, task: str) -> ResolvedTask | str:
        """Nothing is called."""
        raise AssertionError(f"{agent}.{task} is called")

    def partitions(self, agent: str) -> int | str:
        """Nothing is paused."""
        raise AssertionError(f"{agent} is paused")

    def manifests(self, agents: Collection[str]) -> Mapping[str, Manifest]:
        """No plan is resolved here."""
        raise AssertionError(f"{agents} are looked for")

    async def refresh(self) -> None:
        """Nothing changes."""

    def lower_bound(self, partition: int) -> int:
        """Events begin at the beginning."""
        del partition
        return 0


class Machine:
    """The whole coordinator of one slot, records in and records out."""

    def __init__(self) -> None:
        alone = Alone()
        environment = Environment(None)  # type: ignore[arg-type]
        self.topics = Topics("bench")
        context = CoordinatorContext(
            environment, self.topics, CoordinatorSettings(), alone, alone, alone, alone, Graphs()
        )
        self.machine = CoordinatorMachine(Control(), context)
        self.machine.opened(Opened({self.topics.coordinator: 0}, clean=True, now_ms=NOW_MS))
        self.offset = 0
        self.records = 0
        self.journal_bytes = 0
        self.busy_s = 0.0

    def feed(self, values: list[tuple[bytes, bytes]]) -> list[Record]:
        """Hand over encoded records; return the records of tasks that followed."""
        received = [
            Received(self.topics.coordinator, 0, self.offset + n, key, value, (), NOW_MS)
            for n, (key, value) in enumerate(values)
        ]
        self.offset += len(received)
        sent = []
        began = time.process_time()
        self.machine.receive(received)
        while (commit := self.machine.collect(NOW_MS)) is not None:
            for change in commit.changes:
                self.records += len(change.records)
                sent += [r for r in change.records if ".tasks." in r.topic]
                change.apply()
        self.busy_s += time.process_time() - began
        return sent


def measure_engine(active: int, transitions: int) -> None:
    """Time single transitions while so many runs are active: a new one begins as one ends."""
    direct, plan, drawn = Direct(), chain(), random.Random(1)
    ready = [input_ for n in range(active) for input_ in direct.submit(f"run-{n}", plan)]
    direct.took.clear()
    begun = active
    while len(direct.took) < transitions:
        at = drawn.randrange(len(ready))  # whichever agent is quickest
        ready[at], ready[-1] = ready[-1], ready[at]
        ready += direct.go_on(ready.pop())
        if len(ready) < active:
            ready += direct.submit(f"run-{begun}", plan)
            begun += 1
    took = sorted(direct.took)
    what = f"{active:,} active runs"
    _row(f"engine, transition p50, {what}", f"{statistics.median(took) * 1e6:.1f} µs")
    _row(f"engine, transition p99, {what}", f"{took[int(len(took) * 0.99)] * 1e6:.1f} µs")
    _row("engine, 3-task run", f"{statistics.mean(took) * 4e6:.0f} µs")


def measure_runs(runs: int, in_flight: int) -> None:
    """Time whole runs: decoding, engine, encoding, overlays, timers, metrics."""
    machine, plan = Machine(), chain()
    for begin in range(0, runs, in_flight):
        values = [
            (run_id.encode(), encode(submission(run_id, plan, MESSAGE)))
            for run_id in (f"run-{begin + n}" for n in range(in_flight))
        ]
        while values:
            sent = machine.feed(values)
            tasks = [decode(TaskEnvelope, record.value or b"") for record in sent]
            values = [(task.reply_key.encode(), encode(result(task))) for task in tasks]
    _row(
        f"coordinator, 3-task run, {in_flight} in flight",
        f"{machine.busy_s / runs * 1e6:.0f} µs, {machine.records / runs:.1f} records",
    )


async def measure_map(items: int, window: int) -> None:
    """Time a map, and how much memory it takes."""
    plan = Plan("mapped")
    work = plan.map("work", "worker.do", over=plan.input("items"), max_parallel=window)
    plan.task("report", "editor.report", all=work)
    gc.collect()
    machine = Machine()
    listed = [{"text": TEXT, "count": number} for number in range(items)]
    submitted = submission("run-map", resolved(plan), encode_json({"items": listed}))
    del listed
    values = [(b"run-map", encode(submitted))]
    began, slowest = time.perf_counter(), 0.0
    while values or machine.machine.state.entities:
        before = machine.busy_s
        sent = machine.feed(values)
        slowest = max(slowest, machine.busy_s - before)
        tasks = [decode(TaskEnvelope, record.value or b"") for record in sent]
        values = [(task.reply_key.encode(), encode(result(task))) for task in tasks]
        await asyncio.sleep(0)  # large values are "stored" meanwhile
    _row(f"map of {items:,}, window {window:,}, per item", f"{machine.busy_s / items * 1e6:.0f} µs")
    _row("  items a second (coordinator alone)", f"{items / machine.busy_s:,.0f}")
    _row("  records an item", f"{machine.records / items:.2f}")
    _row("  whole, with the agents' part", f"{time.perf_counter() - began:.1f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024
    _row("  peak memory of the process", f"{peak:,.0f} MB")
    _row("  longest batch", f"{slowest * 1e3:.0f} ms")


def measure_restore(runs: int) -> None:
    """Time reading back the state of many open runs."""
    machine, plan = Machine(), chain()
    for number in range(runs):
        run_id = f"run-{number}"
        value = encode(submission(run_id, plan, MESSAGE))
        machine.feed([(run_id.encode(), value)])
    journal = [(key, Writing.journal(entry)) for key, entry in machine.machine.state.journal()]
    fresh = Machine()
    began = time.process_time()
    second = CoordinatorMachine(Control(), fresh.machine._context)  # noqa: SLF001
    for key, data in journal:
        second.restore(key, data)
    second.opened(Opened({fresh.topics.coordinator: 0}, clean=False, now_ms=NOW_MS))
    while second.collect(NOW_MS) is not None or second._unvisited:  # noqa: SLF001
        pass
    spent = time.process_time() - began
    what = f"restore {runs:,} active tasks, a run each"
    _row(what, f"{spent:.2f} s, {spent / runs * 1e6:.0f} µs each")


def _row(what: str, value: str) -> None:
    sys.stdout.write(f"{what:<48} {value}\n")
    sys.stdout.flush()


def main(argv: Sequence[str]) -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000, help="active at once, in the engine")
    parser.add_argument("--items", type=int, default=100_000, help="of the map")
    parser.add_argument("--tasks", type=int, default=100_000, help="active, to be restored")
    options = parser.parse_args(argv)
    steps: list[Callable[[], None]] = [
        lambda: measure_engine(options.runs, options.runs * 4),
        lambda: measure_runs(min(4_000, options.runs), 1),
        lambda: measure_runs(min(8_000, options.runs), 64),
        lambda: asyncio.run(measure_map(options.items, 1_000)),
        lambda: measure_restore(options.tasks),
    ]
    sys.stdout.write(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    gc.set_threshold(*COLLECT_AFTER)  # as a service does
    for step in steps:
        gc.collect()
        step()


if __name__ == "__main__":
    main(sys.argv[1:])
