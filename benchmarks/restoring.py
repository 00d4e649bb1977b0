"""How soon a killed service goes on when its slot holds a lot: 100,000 keys of state by default.

    python -m benchmarks.restoring sqlite:///{folder}/bus.db
    python -m benchmarks.restoring kafka://127.0.0.1:9092 --keys 100000 --times 5

Everything is real: the state is made by running services through the bus (an agent whose tasks have
journaled all steps but the last; a coordinator whose runs wait for that agent), the service is
killed with `kill -9` and started again as a user would, under the same instance name. Times count
from the start of the new process, in seconds: to the first commit of the slot by it (after an
unclean end it says which tasks are resumed), and to the first *progress*: a step, a dispatch. One
slot has all of it.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import uvloop

from benchmarks.stage import ROOT, Stage, process_cpu_s, services
from holdfast.bus.connect import open_bus
from holdfast.bus.port import Received, TopicPartition
from holdfast.bus.topics import Topics
from holdfast.client import Client
from holdfast.schemas.codec import decode
from holdfast.schemas.records import Event, EventType, SlotOffset

TASKS = 500
"""Places of the agent that journals the steps; the one that is measured has 64."""
SUBMITTED_AT_ONCE = 256
SETUP_S = 600.0
RESTART_S = 60.0
TEXT = "x" * 200


@dataclass(frozen=True, slots=True)
class Restart:
    """One restart: seconds from the start of the process; `cpu_s`: what it worked until then."""

    committed_s: float
    progress_s: float
    cpu_s: float


class Watched:
    """What stands in the journal of one slot, and in the events, as it is committed."""

    def __init__(self, topics: Topics, group: str) -> None:
        self._topics = topics
        self._journal = topics.journal(group)
        self.keys: set[bytes] = set()
        self.owner = ""
        self.committed_at = 0.0
        self.progress_at = 0.0

    def expect(self) -> None:
        """From now on another process is to be seen."""
        self.committed_at = self.progress_at = 0.0

    def take(self, record: Received) -> None:
        """Look at one record."""
        at = time.monotonic()
        if record.topic == self._topics.events:
            event = decode(Event, record.value or b"")
            if event.type is EventType.TASK_DISPATCHED and not self.progress_at:
                self.progress_at = at
        elif record.key == b"offset":
            owner = decode(SlotOffset, record.value or b"").process_id
            if owner != self.owner:
                self.owner, self.committed_at = owner, at
        elif record.key is not None:
            if b"/step/last/" in record.key and record.value is not None:
                self.progress_at = self.progress_at or at
            (self.keys.discard if record.value is None else self.keys.add)(record.key)


@asynccontextmanager
async def watching(stage: Stage, group: str, *, events: bool) -> AsyncIterator[Watched]:
    """Follow a slot's journal, and the events, from the start."""
    bus = open_bus(stage.bus)
    await bus.start()
    topics = Topics(stage.namespace)
    watched = Watched(topics, group)
    names = [topics.journal(group), *([topics.events] if events else [])]
    reader = await bus.open_reader({TopicPartition(name, 0): 0 for name in names})
    ended = False

    async def follow() -> None:
        while not ended:
            for record in await reader.poll(0.2, 2_000):
                watched.take(record)

    following = asyncio.create_task(follow())
    try:
        yield watched
    finally:
        ended = True
        await following
        await reader.close()
        await bus.close()


async def until(condition: Callable[[], bool], what: str, timeout_s: float) -> None:
    """Return once `condition` holds; raise `TimeoutError` naming `what`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not in {timeout_s:.0f} s: {what}")
        await asyncio.sleep(0.01)


async def submit_all(client: Client, work: str, inputs: Sequence[object], name: str) -> None:
    """Submit one run for each input, and return once the coordinator has taken all of them."""
    free = asyncio.Semaphore(SUBMITTED_AT_ONCE)

    async def one(number: int, input_: object) -> None:
        async with free:
            run = await client.submit(work, input_, run_id=f"{name}-{number}")
            await run.accepted(timeout_s=SETUP_S)

    await asyncio.gather(*(one(n, value) for n, value in enumerate(inputs)))


async def restart(
    stage: Stage, watched: Watched, name: str, prepare: Callable[[], Awaitable[object]]
) -> Restart:
    """Kill a service, start it again, and see when it goes on."""
    stage.kill(name)
    await prepare()
    watched.expect()
    began = time.monotonic()
    starting = asyncio.create_task(asyncio.to_thread(stage.again, name))
    await until(lambda: bool(watched.progress_at), f"progress of {name}", RESTART_S)
    # The processor time says what it would be on a machine that has nothing else to do.
    cpu_s = process_cpu_s(stage.processes[name].pid)
    await starting
    return Restart(watched.committed_at - began, watched.progress_at - began, cpu_s)


async def restart_agent(stage: Stage, keys: int, times: int) -> list[Restart]:
    """Restart an agent with so many journaled steps."""
    steps = keys // TASKS
    stage.start("coordinator", "coordinator", "--instance", "c1")
    stage.variables["HOLDFAST_BENCH_PLACES"] = str(TASKS)
    stage.start("keeper", "agent", "benchmarks.agents:keeper", "--instance", "k1")
    stage.variables["HOLDFAST_BENCH_PLACES"] = "64"
    restarts = []
    async with (
        watching(stage, "keeper", events=False) as watched,
        Client(url=stage.bus, namespace=stage.namespace) as client,
    ):
        work = [{"steps": steps - 1, "text": TEXT}] * TASKS
        await submit_all(client, "keeper.keep", work, "keep")
        await until(lambda: len(watched.keys) >= steps * TASKS, "all steps", SETUP_S)
        for number in range(times):
            stage.variables["HOLDFAST_BENCH_LIFE"] = str(number + 1)

            async def quiet() -> None:
                await asyncio.sleep(0.3)

            found = await restart(stage, watched, "keeper", quiet)
            restarts.append(found)
            sys.stdout.write(f"  agent {number}: {found}, {len(watched.keys)} keys\n")
    return restarts


async def restart_coordinator(stage: Stage, keys: int, times: int) -> list[Restart]:
    """Restart a coordinator with so many runs and tasks under way."""
    stage.start("coordinator", "coordinator", "--instance", "c1")
    stage.start("bench", "agent", "benchmarks.agents:bench", "--instance", "b1")
    restarts = []
    async with (
        watching(stage, "coordinator", events=True) as watched,
        Client(url=stage.bus, namespace=stage.namespace) as client,
    ):
        stage.kill("bench")
        work: list[object] = [{"text": TEXT}] * (keys // 2)
        await submit_all(client, "bench.one", work, "run")
        await until(lambda: len(watched.keys) >= keys, "all runs", SETUP_S)
        for number in range(times):

            async def another(number: int = number) -> object:
                await asyncio.sleep(0.3)
                return await client.submit("bench.one", {"text": TEXT}, run_id=f"late-{number}")

            found = await restart(stage, watched, "coordinator", another)
            restarts.append(found)
            sys.stdout.write(f"  coordinator {number}: {found}, {len(watched.keys)} keys\n")
    return restarts


def main(argv: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.restoring")
    parser.add_argument("url")
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--only", choices=["agent", "coordinator"], default=None)
    options = parser.parse_args(argv)
    (ROOT / "build").mkdir(exist_ok=True)
    for name, measure in (("agent", restart_agent), ("coordinator", restart_coordinator)):
        if options.only not in (None, name):
            continue
        with services(options.url, partitions=1) as stage:
            found = uvloop.run(measure(stage, options.keys, options.times))
        for what in ("committed_s", "progress_s", "cpu_s"):
            values = sorted(getattr(one, what) for one in found)
            sys.stdout.write(
                f"{name:<12} {options.keys:,} keys: {what} median "
                f"{statistics.median(values):.2f}, worst {values[-1]:.2f} s\n"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
