"""Reads the bus from outside, as it is written: journals and events, for the checks."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from holdfast.bus.connect import open_bus
from holdfast.bus.port import Bus, Received, TopicPartition
from holdfast.bus.topics import Topics
from holdfast.schemas.codec import decode
from holdfast.schemas.records import DeadLetter, Event, EventType
from tests.acceptance.deployment import Deployment

ENDS = {EventType.RUN_SUCCEEDED, EventType.RUN_FAILED, EventType.RUN_CANCELLED}
POLL_S = 0.2


@dataclass
class Observer:
    """What stands on the bus so far. `steps`: journal key to when its record was made (ms)."""

    bus: Bus
    topics: Topics
    steps: dict[str, int] = field(default_factory=dict)
    restepped: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)

    def take(self, record: Received) -> None:
        if record.value is None:
            return
        if record.topic == self.topics.events:
            self.events.append(decode(Event, record.value))
        elif record.topic == self.topics.dead_letters:
            self.dead_letters.append(decode(DeadLetter, record.value))
        elif record.key is not None and b"/step/" in record.key:
            key = record.key.decode()
            self.steps.setdefault(key, record.timestamp_ms)

    def ends(self) -> dict[str, list[EventType]]:
        found: dict[str, list[EventType]] = defaultdict(list)
        for event in self.events:
            if event.type in ENDS:
                found[event.run_id].append(event.type)
        return found

    def dispatched(self) -> set[str]:
        """Which runs have handed a task to an agent."""
        return {e.run_id for e in self.events if e.type is EventType.TASK_DISPATCHED}

    def results(self) -> dict[tuple[str, str], int]:
        """How many accepted successes stand in the events, per (run, task)."""
        found: dict[tuple[str, str], int] = defaultdict(int)
        for event in self.events:
            if event.type is EventType.TASK_SUCCEEDED and event.task is not None:
                found[event.run_id, event.task.task_id] += 1
        return found

    def check_steps(self, witnessed: list[list[str]], kills: int) -> None:
        """No body of a step started after that step's commit; second bodies only by kills.

        A line is: journal key of the step, process id, time in ms.
        """
        bodies: dict[str, list[int]] = defaultdict(list)
        for key, *_, at_ms in witnessed:
            bodies[key].append(int(at_ms))
        late = {
            key: (starts, self.steps[key])
            for key, starts in bodies.items()
            if key in self.steps and max(starts) > self.steps[key]
        }
        assert not late, f"bodies that started after their step's commit: {late}"
        again = sum(len(starts) - 1 for starts in bodies.values())
        assert kills or not again, f"{again} bodies ran twice though nothing was killed"


@asynccontextmanager
async def observing(
    place: Deployment, agents: Collection[str] = (), *, dead_letters: bool = False
) -> AsyncIterator[Observer]:
    """Follow `events`, and the journals of `agents`, from now to the end of the block."""
    bus = open_bus(place.bus)
    await bus.start()
    topics = Topics(place.namespace)
    names = [topics.events, *(topics.journal(agent) for agent in agents)]
    if dead_letters:
        names.append(topics.dead_letters)
    found = await bus.describe_topics(names)
    assert set(names) <= found.keys(), f"missing: {set(names) - found.keys()}"
    partitions = [TopicPartition(n, p) for n in names for p in range(found[n].partitions)]
    reader = await bus.open_reader(await bus.begin_offsets(partitions))
    observer = Observer(bus, topics)
    ended = False

    async def follow() -> None:
        while not ended:
            for record in await reader.poll(POLL_S, 2_000):
                observer.take(record)

    following = asyncio.create_task(follow())
    try:
        yield observer
    finally:
        ended = True
        await following
        await reader.close()
        await bus.close()
