"""What the journal topic of an agent tells of its tasks, those in flight and those that have ended.

Of a task that has ended all keys are tombstoned. Until compaction removes what is behind them, its
records can still be read: from the topic's start, in order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from holdfast.agents.ledger import parse_key
from holdfast.bus.port import Bus, Received, TopicPartition
from holdfast.schemas import Undecodable, decode
from holdfast.schemas.records import Accepted, AgentJournal, Failed, StepEntry, TaskEnvelope

__all__ = ["TaskJournal", "TaskStanding", "read_journals"]

OFFSET_KEY = "offset"


class TaskStanding(StrEnum):
    """How a task stands, by its journal."""

    OPEN = "open"  # an attempt of it is with the agent
    BETWEEN = "between"  # its newest attempt has failed
    ENDED = "ended"


@dataclass(slots=True)
class TaskJournal:
    """One task's journal. `envelope` None: it was never accepted, so its input is not known here.

    `problem`: why it cannot be read.
    """

    task: str  # `<run id>/<task id>`
    envelope: TaskEnvelope | None = None
    standing: TaskStanding = TaskStanding.OPEN
    failed: bool = False
    """Whether an attempt of it has failed, after its newest acceptance."""
    steps: dict[tuple[str, str], StepEntry] = field(default_factory=dict)
    newest_ms: int = 0
    problem: str | None = None

    @property
    def run_id(self) -> str:
        """The run that it belongs to."""
        return self.task.partition("/")[0]


async def read_journals(bus: Bus, topic: str) -> list[TaskJournal]:
    """Return the journals of all tasks that a journal topic tells of, the newest first.

    Raises `TopicMissing`, `BusUnavailable`.
    """
    reading = _Reading()
    partitions = (await bus.describe_topics([topic]))[topic].partitions
    places = [TopicPartition(topic, partition) for partition in range(partitions)]
    ends = await bus.end_offsets(places)
    for place in places:
        async for batch in bus.read(topic, place.partition, 0, ends[place]):
            for received in batch:
                reading.take(received)
    found = [*reading.ended, *reading.open.values()]
    return sorted(found, key=lambda journal: (-journal.newest_ms, journal.task))


class _Reading:
    """Takes the records of one partition after another, each in order."""

    def __init__(self) -> None:
        self.open: dict[str, TaskJournal] = {}
        self.ended: list[TaskJournal] = []

    def take(self, received: Received) -> None:
        """Take one record."""
        key = (received.key or b"").decode("utf-8", "replace")
        if key == OFFSET_KEY or key.startswith("/"):
            return
        place = parse_key(key)
        if place is None or place.cancelled:
            return
        known = self.open.get(place.task)
        if received.value is None:
            self._remove(known, place.step)
            return
        if known is None:
            known = self.open[place.task] = TaskJournal(place.task)
        known.newest_ms = max(known.newest_ms, received.timestamp_ms)
        try:
            journal = decode(AgentJournal, received.value)
        except Undecodable as error:
            known.problem = f"{key}: {error}"
            return
        self._put(known, journal)

    def _remove(self, known: TaskJournal | None, step: tuple[str, str] | None) -> None:
        if known is None:
            return  # what is left of one that has ended
        if step is not None:
            known.steps.pop(step, None)
            return
        # Its own key goes first: the steps are there still.
        known.standing = TaskStanding.ENDED
        self.ended.append(self.open.pop(known.task))

    def _put(self, known: TaskJournal, journal: AgentJournal) -> None:
        body = journal.body
        if isinstance(body, StepEntry):
            body.build_id = body.build_id or journal.build_id
            known.steps[body.name, body.key] = body
        elif isinstance(body, Accepted):
            known.envelope, known.standing, known.failed = body.envelope, TaskStanding.OPEN, False
            begun = body.envelope.journal_from
            stale = [name for name, step in known.steps.items() if step.attempt < begun]
            for name in stale:
                del known.steps[name]
        elif isinstance(body, Failed):
            known.standing, known.failed = TaskStanding.BETWEEN, True
