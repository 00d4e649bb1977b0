"""How soon a coordinator starts, and how much it holds, after so many finished runs.

    python -m benchmarks --startup 10000,100000,1000000 [--results docs/reliability/results]

Real: the coordinator (the whole runtime, in this process while the runs are made), the bus (a
SQLite file with purge, upkeep and compaction as they come), every record of every run, and the
process that is started and measured at each milestone, as a user would start it. Stood in for:
client and agent. Both are loops in this process that publish submissions and results in bulk, of
lone one-task runs with 200-byte payloads: what an agent keeps of a finished task is nothing anyway.

A start counts from the start of the process to the first event of a run that was submitted before.
The coordinator before it was killed, so that nothing is tidied first. That run is never finished.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import uvloop
from rich.table import Table

from benchmarks.stage import Stage, process_cpu_s, services
from holdfast.bus.connect import open_bus
from holdfast.bus.port import Bus, Environment, Reader, Record, Slot, TopicPartition
from holdfast.bus.topics import Topics
from holdfast.coordinator import CoordinatorRuntime, ProcessSettings
from holdfast.schemas.codec import decode, encode, encode_json
from holdfast.schemas.ids import OwnSchema
from holdfast.schemas.plan import Plan
from holdfast.schemas.records import (
    CoordinatorEnvelope,
    Event,
    EventType,
    Manifest,
    Outcome,
    RetryPolicy,
    Submission,
    TaskEnvelope,
    TaskManifest,
    TaskResult,
)
from holdfast.schemas.resolution import ResolvedPlan, ResolvedTask
from tests.torture.results import commit, machine

PARTITIONS = 4
IN_FLIGHT = 2_000
BATCH = 500
AGENT, TASK = "bulk", "work"
PAYLOAD = encode_json({"text": "x" * 200})
STALLED_S = 120.0
ENDS = frozenset({EventType.RUN_SUCCEEDED, EventType.RUN_FAILED, EventType.RUN_CANCELLED})


@dataclass(frozen=True, slots=True)
class Startup:
    """One milestone. Sizes in MiB; `journal`, `unpurged`: records in all partitions."""

    runs: int
    made_per_s: float
    start_s: float
    cpu_s: float
    memory_mib: float
    journal: int
    unpurged: int
    file_mib: float


def lone_plan() -> str:
    """Return a plan of one task that takes and gives JSON, as a client resolves it."""
    plan = Plan("lone")
    plan.task("one", f"{AGENT}.{TASK}", text=plan.input("text"))
    task = ResolvedTask(
        agent=AGENT,
        task=TASK,
        input_schema_id=OwnSchema.Json,
        output_schema_id=OwnSchema.Json,
        retry=RetryPolicy(),
    )
    return ResolvedPlan(plan=plan.document(), tasks={"one": task}).to_json()


class Bulk:
    """Makes finished runs: a client and an agent that answer at once."""

    def __init__(self, bus: Bus, topics: Topics) -> None:
        self._bus = bus
        self._topics = topics
        self._plan = lone_plan()
        self.submitted = self.finished = 0

    async def prepare(self) -> None:
        """Create the agent's topics, and say that it is there."""
        await self._bus.create_topics(self._topics.agent_specs(AGENT, PARTITIONS))
        offered = TaskManifest(
            TASK, OwnSchema.Json, OwnSchema.Json, RetryPolicy(), None, None, "at once"
        )
        now_ms = time.time_ns() // 1_000_000
        manifest = Manifest(AGENT, "b1", "p", "1", "b", [offered], 1, now_ms, now_ms)
        key = f"{AGENT}/b1".encode()
        await self._bus.publish([Record(self._topics.agents, key, encode(manifest))])

    async def submit(self, *run_ids: str) -> None:
        """Publish submissions."""
        now_ms = time.time_ns() // 1_000_000
        records = []
        for run_id in run_ids:
            body = Submission(self._plan, PAYLOAD, "0" * 64, run_id, "bench")
            envelope = encode(CoordinatorEnvelope(run_id, now_ms, body))
            records.append(Record(self._topics.coordinator, run_id.encode(), envelope))
        for start in range(0, len(records), BATCH):
            await self._bus.publish(records[start : start + BATCH])

    async def make(self, runs: int) -> None:
        """Return once `runs` runs have finished in all."""
        names = [self._topics.tasks(AGENT), self._topics.events]
        partitions = [TopicPartition(name, n) for name in names for n in range(PARTITIONS)]
        reader = await self._bus.open_reader(await self._bus.end_offsets(partitions))
        try:
            progress_at = time.monotonic()
            while self.finished < runs:
                wanted = min(IN_FLIGHT, runs - self.finished) - (self.submitted - self.finished)
                if wanted >= min(BATCH, runs - self.submitted) > 0:
                    numbers = range(self.submitted, self.submitted + wanted)
                    self.submitted += wanted
                    await self.submit(*(f"run-{number:08d}" for number in numbers))
                if await self._work(reader):
                    progress_at = time.monotonic()
                elif time.monotonic() - progress_at > STALLED_S:
                    raise TimeoutError(f"{self.finished} of {runs} runs, and no further")
        finally:
            await reader.close()

    async def _work(self, reader: Reader) -> bool:
        results = []
        records = await reader.poll(0.2, 2_000)
        for record in records:
            if record.topic == self._topics.events:
                self.finished += decode(Event, record.value or b"").type in ENDS
                continue
            task = decode(TaskEnvelope, record.value or b"")
            end = TaskResult(
                task.task_id, task.attempt, Outcome.SUCCEEDED, PAYLOAD, None, [], 0, 0, 0, "b1", "b"
            )
            envelope = encode(CoordinatorEnvelope(task.run_id, task.sent_ms, end))
            results.append(Record(self._topics.coordinator, task.reply_key.encode(), envelope))
        if results:
            await self._bus.publish(results)
        return bool(records)

    async def consumed(self) -> None:
        """Commit the agent's offsets, so that its tasks are purged as an agent's would be."""
        group, topic = self._topics.group(AGENT), self._topics.tasks(AGENT)
        for number in range(PARTITIONS):
            where = TopicPartition(topic, number)
            end = (await self._bus.end_offsets([where]))[where]
            writer = await self._bus.open_writer(Slot(group, number))
            journal = Record(self._topics.journal(AGENT), b"offset", b"", (), number)
            await writer.commit([journal], {where: end})
            await writer.close()


async def records_in(bus: Bus, topic: str) -> int:
    """Return how many records all partitions of a topic hold."""
    count = 0
    for number in range(PARTITIONS):
        async for batch in bus.read(topic, number):
            count += len(batch)
    return count


async def first_event(bus: Bus, run_id: str, starts: Mapping[TopicPartition, int]) -> float:
    """Return when (monotonic) the first event of a run was committed, from `starts` on."""
    reader = await bus.open_reader(starts)
    try:
        while True:
            for record in await reader.poll(0.2):
                if decode(Event, record.value or b"").run_id == run_id:
                    return time.monotonic()
    finally:
        await reader.close()


async def milestone(stage: Stage, bulk: Bulk, bus: Bus, runs: int) -> Startup:
    """Make runs up to `runs`, kill the coordinator, start a real one, and look at all of it."""
    topics = Topics(stage.namespace)
    own = open_bus(stage.bus)
    await own.start()
    runtime = CoordinatorRuntime(
        Environment(own), ProcessSettings("c1", PARTITIONS, stage.namespace)
    )
    await runtime.start()
    if not bulk.submitted:
        await bulk.prepare()
    before, began = bulk.finished, time.monotonic()
    await bulk.make(runs)
    rate = (runs - before) / (time.monotonic() - began)
    await bulk.consumed()
    await runtime.kill()
    await own.close()
    partitions = [TopicPartition(topics.events, n) for n in range(PARTITIONS)]
    starts = await bus.end_offsets(partitions)
    journal = await records_in(bus, topics.journal("coordinator"))
    probe = f"probe-{runs}"
    await bulk.submit(probe)
    waiting = asyncio.create_task(first_event(bus, probe, starts))
    began = time.monotonic()
    starting = asyncio.create_task(
        asyncio.to_thread(stage.start, "coordinator", "coordinator", "--instance", "c1")
    )
    start_s = await waiting - began
    cpu_s = process_cpu_s(stage.processes["coordinator"].pid)
    await starting
    unpurged = await _after_a_purge(bus, topics)
    memory_mib = stage.peak_mib("coordinator")
    stage.kill("coordinator")
    file_mib = sum(p.stat().st_size for p in stage.folder.glob("bus.db*") if p.is_file()) / 2**20
    return Startup(runs, rate, start_s, cpu_s, memory_mib, journal, unpurged, file_mib)


async def _after_a_purge(bus: Bus, topics: Topics) -> int:
    """Return how many consumed records are left once the coordinator has tidied up."""
    names = [topics.coordinator, topics.tasks(AGENT), topics.control(AGENT)]
    deadline, left = time.monotonic() + 30.0, -1
    while time.monotonic() < deadline and (left < 0 or left > IN_FLIGHT):
        await asyncio.sleep(1.0)
        partitions = [TopicPartition(name, n) for name in names for n in range(PARTITIONS)]
        begins, ends = await bus.begin_offsets(partitions), await bus.end_offsets(partitions)
        left = sum(ends[where] - begins[where] for where in partitions)
    return left


async def measure(stage: Stage, milestones: Sequence[int]) -> list[Startup]:
    """Measure at each milestone, on one bus that grows."""
    bus = open_bus(stage.bus)
    await bus.start()
    try:
        bulk = Bulk(bus, Topics(stage.namespace))
        found = []
        for runs in sorted(milestones):
            found.append(await milestone(stage, bulk, bus, runs))
            print(found[-1], flush=True)
        return found
    finally:
        await bus.close()


def run(milestones: Sequence[int], results: Path | None = None) -> Table:
    """Measure on SQLite, write the figures to a file in `results`, and return their table."""
    started = datetime.now(UTC)
    with services("sqlite:///{folder}/bus.db", PARTITIONS) as stage:
        stage.variables["HOLDFAST_COORDINATOR_PURGE_EVERY_S"] = "2"
        found = uvloop.run(measure(stage, milestones))
    if results is not None:
        write(results, found, started)
    table = Table(
        "finished runs", "made/s", "start s", "CPU s", "MiB", "journal", "consumed left", "file MiB"
    )
    for one in found:
        table.add_row(
            f"{one.runs:,}",
            f"{one.made_per_s:,.0f}",
            f"{one.start_s:.2f}",
            f"{one.cpu_s:.2f}",
            f"{one.memory_mib:.0f}",
            f"{one.journal:,}",
            f"{one.unpurged:,}",
            f"{one.file_mib:,.0f}",
        )
    return table


def write(folder: Path, found: Sequence[Startup], started: datetime) -> Path:
    """Write what was found as a `Benchmark` of the published results; return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {
        "suite": "benchmark",
        "bus": "sqlite",
        "fault": "start-up",
        "point": "",
        "injected": 0,
        "runs": found[-1].runs,
        "tasks": found[-1].runs,
        "violations": [],
        "recovery_s": [],
        "bound_s": None,
        "seed": 0,
        "commit": commit(),
        "started": started.isoformat(timespec="seconds"),
        "seconds": (datetime.now(UTC) - started).total_seconds(),
        "machine": machine() | {"started_by": "exec"},
        "notes": "runs of one task each; a start holds the imports",
        "figures": [{name: round(n, 2) for name, n in asdict(one).items()} for one in found],
    }
    path = folder / f"benchmark-sqlite-start-up-{started:%Y%m%dT%H%M%S}.json"
    path.write_text(json.dumps(told, indent=1) + "\n")
    return path
