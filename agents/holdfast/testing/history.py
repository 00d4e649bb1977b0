"""What a bus has seen of one namespace: all committed records, and how far each group has read.

A `History` is a value. A simulated bus builds one from its own log, which forgets nothing; from
any other bus a `Recorder` collects it live. Views decode each topic once, on first use.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from holdfast.bus.partition import partition_for
from holdfast.bus.port import Position, Received, Slot, TopicPartition
from holdfast.bus.topics import COORDINATOR_GROUP, SOURCE_PREFIX, Topics
from holdfast.coordinator.engine import EngineLimits
from holdfast.schemas.codec import decode
from holdfast.schemas.errors import Undecodable
from holdfast.schemas.records import (
    Accepted,
    AgentJournal,
    AgentPause,
    AskEntry,
    Cancelled,
    ControlAction,
    ControlEnvelope,
    CoordinatorEnvelope,
    CoordinatorJournal,
    DeadLetter,
    Event,
    Failed,
    FiringEntry,
    ListChunk,
    Marker,
    Parked,
    PlanRevision,
    RunEnded,
    RunEntry,
    ScheduleEntry,
    SignalEntry,
    SlotOffset,
    SourceJournal,
    StateDeletion,
    StateEntry,
    StepEntry,
    TaskEntry,
    TaskEnvelope,
    TaskResult,
    UndoEntry,
)
from holdfast.schemas.schedules import SCHEDULE_PREFIX

__all__ = [
    "Attempt",
    "CommitSeen",
    "Decoded",
    "Gap",
    "History",
    "JournalBody",
    "JournalEntry",
    "Result",
    "place",
]

B = TypeVar("B")

OFFSET_KEY = b"offset"
"""The journal key under which a slot writes of itself."""

JournalBody: TypeAlias = (
    SlotOffset
    | Accepted
    | Failed
    | StepEntry
    | StateEntry
    | StateDeletion
    | Cancelled
    | RunEntry
    | TaskEntry
    | ListChunk
    | Marker
    | Parked
    | AskEntry
    | SignalEntry
    | PlanRevision
    | UndoEntry
    | SourceJournal
    | ScheduleEntry
    | FiringEntry
    | AgentPause
)


def place(received: Received) -> str:
    """Return where a record stands, for people: `topic/partition/offset`."""
    return f"{received.topic}/{received.partition}/{received.offset}"


class Decoded(NamedTuple, Generic[B]):
    """A record, and what it says."""

    received: Received
    body: B

    @property
    def place(self) -> str:
        """Where it stands: `topic/partition/offset`."""
        return place(self.received)


class Attempt(NamedTuple):
    """One attempt of one task."""

    run_id: str
    task_id: str
    attempt: int

    def __str__(self) -> str:
        return f"{self.run_id}/{self.task_id} attempt {self.attempt}"


class Result(NamedTuple):
    """The end of an attempt, as its agent told it."""

    received: Received
    body: TaskResult

    @property
    def place(self) -> str:
        """Where it stands: `topic/partition/offset`."""
        return place(self.received)


class JournalEntry(NamedTuple):
    """A journal record: `body` None removes the key. `key` `offset` holds a `SlotOffset`."""

    received: Received
    key: str
    body: JournalBody | None

    @property
    def place(self) -> str:
        """Where it stands: `topic/partition/offset`."""
        return place(self.received)


class Gap(NamedTuple):
    """Records of a partition that may be missing from a history, from `start` to before `end`."""

    partition: TopicPartition
    start: int
    end: int
    why: str


@dataclass(frozen=True, slots=True)
class CommitSeen:
    """One commit as the broker made it visible; only a simulated one can tell.

    `epoch` grows with each writer that is opened for the slot. `offsets`: those that moved.
    """

    slot: Slot
    epoch: int
    records: tuple[Position, ...]
    offsets: Mapping[TopicPartition, int]


class History:
    """All committed records of a namespace.

    `records` holds every partition of every topic, those without a record too (their number is the
    topic's), each in the order of its offsets. `offsets`: by whole group name, the last committed
    ones. `gaps`: what may be missing; a check that would need it says so, instead of judging.
    `commits`: all commits of all slots in the order in which they became visible, where known.
    `begins`: where the history begins in partitions whose earlier records were forgotten while all
    was quiet (`Recorder.forget`): nothing needs them any more, so that they are no gaps.

    To be set where they are not the defaults: `limits`, the bounds that the coordinators' engine
    had, and `blobs`, payloads above 512 KiB by name; both are needed to replay decisions.
    """

    def __init__(
        self,
        namespace: str,
        records: Mapping[TopicPartition, Sequence[Received]],
        offsets: Mapping[str, Mapping[TopicPartition, int]] | None = None,
        *,
        gaps: Iterable[Gap] = (),
        commits: Sequence[CommitSeen] | None = None,
        begins: Mapping[TopicPartition, int] | None = None,
    ) -> None:
        self.namespace = namespace
        self.topics = Topics(namespace)
        self.records = records
        self.offsets = offsets or {}
        self.gaps = tuple(gaps)
        self.commits = commits
        self.begins = begins or {}
        self.limits = EngineLimits()
        self.blobs: Mapping[str, bytes] = {}
        self._unreadable: dict[Position, Received] = {}
        self._tasks: dict[str, list[Decoded[TaskEnvelope]]] = {}
        self._control: dict[str, list[Decoded[ControlEnvelope]]] = {}
        self._journals: dict[str, dict[int, list[JournalEntry]]] = {}
        self._ended: dict[str, list[Decoded[RunEnded]]] = {}

    def __len__(self) -> int:
        return sum(len(log) for log in self.records.values())

    # --- topics --------------------------------------------------------------------------------

    @cached_property
    def partitions(self) -> dict[str, int]:
        """How many partitions each topic has."""
        counts: dict[str, int] = {}
        for topic, partition in self.records:
            counts[topic] = max(counts.get(topic, 0), partition + 1)
        return counts

    @cached_property
    def agents(self) -> tuple[str, ...]:
        """The names of all agents that have a task topic."""
        return self._named(self.topics.tasks("x")[:-1])

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The names (without the namespace) of all groups that have a journal."""
        return self._named(self.topics.journal("x")[:-1])

    def _named(self, prefix: str) -> tuple[str, ...]:
        return tuple(
            sorted(t.removeprefix(prefix) for t in self.partitions if t.startswith(prefix))
        )

    def log(self, topic: str) -> list[tuple[TopicPartition, Sequence[Received]]]:
        """Return the partitions of a topic with their records, by number."""
        found = (TopicPartition(topic, number) for number in range(self.partitions.get(topic, 0)))
        return [(partition, self.records.get(partition, ())) for partition in found]

    def consumed_by(self, group: str) -> tuple[str, ...]:
        """Return the topics that a group (its name without the namespace) consumes."""
        if group == COORDINATOR_GROUP:
            return (self.topics.coordinator,)
        if group.startswith(SOURCE_PREFIX):
            return self._consumed_by_source(group)
        return (self.topics.tasks(group), self.topics.control(group))

    def _consumed_by_source(self, group: str) -> tuple[str, ...]:
        """What it reads is a user's: its journal names it."""
        named = {
            consumed.topic
            for entries in self.journal(group).values()
            for entry in entries
            if isinstance(entry.body, SlotOffset)
            for consumed in entry.body.offsets
        }
        return tuple(sorted(named | {self.topics.control(group)}))

    def at(self, where: Position) -> Received | None:
        """Return the record at a position, or None."""
        log = self.records.get(TopicPartition(where.topic, where.partition), ())
        index = bisect_left(log, where.offset, key=attrgetter("offset"))
        if index < len(log) and log[index].offset == where.offset:
            return log[index]
        return None

    def whole(self, *topics: str) -> bool:
        """Tell whether nothing of these topics may be missing."""
        return not any(gap.partition.topic in topics for gap in self.gaps)

    def misplaced(self, received: Received) -> bool:
        """Tell whether a record stands in another partition than its key belongs to.

        A user's topic is written by whomever, and a source is told by number.
        """
        if received.topic not in self._keyed:
            return False
        count = self.partitions[received.topic]
        key = received.key
        return key is not None and partition_for(key, count) != received.partition

    @cached_property
    def _keyed(self) -> frozenset[str]:
        """The topics whose records stand where their keys belong."""
        consumed = {self.topics.coordinator}
        for agent in self.agents:
            consumed |= {self.topics.tasks(agent), self.topics.control(agent)}
        return frozenset(consumed)

    # --- decoded views -------------------------------------------------------------------------

    @cached_property
    def events(self) -> list[Decoded[Event]]:
        """All events, partition by partition in order; those of a run stand in one partition."""
        return self._decoded(self.topics.events, Event)

    @cached_property
    def events_of(self) -> dict[str, list[Decoded[Event]]]:
        """The events of each run, in order."""
        found: dict[str, list[Decoded[Event]]] = {}
        for event in self.events:
            if "/" not in event.body.run_id:  # other entities have their key there
                found.setdefault(event.body.run_id, []).append(event)
        return found

    @cached_property
    def events_of_schedules(self) -> dict[str, list[Decoded[Event]]]:
        """The events of each schedule (`schedule/<name>`), in order."""
        found: dict[str, list[Decoded[Event]]] = {}
        for event in self.events:
            if event.body.run_id.startswith(SCHEDULE_PREFIX):
                found.setdefault(event.body.run_id, []).append(event)
        return found

    @cached_property
    def inputs(self) -> list[Decoded[CoordinatorEnvelope]]:
        """What the coordinators consume, partition by partition in order; forwarded ones too."""
        return self._decoded(self.topics.coordinator, CoordinatorEnvelope)

    @cached_property
    def input_at(self) -> dict[tuple[int, int], Decoded[CoordinatorEnvelope]]:
        """The same by (partition, offset), as causes name them."""
        return {(i.received.partition, i.received.offset): i for i in self.inputs}

    @cached_property
    def dead_letters(self) -> list[Decoded[DeadLetter]]:
        """All dead letters."""
        return self._decoded(self.topics.dead_letters, DeadLetter)

    # --- indices -------------------------------------------------------------------------------

    @cached_property
    def attempts(self) -> dict[Attempt, list[tuple[str, Decoded[TaskEnvelope]]]]:
        """Every attempt that was handed over, with its agent; forwarded records at their goal."""
        found: dict[Attempt, list[tuple[str, Decoded[TaskEnvelope]]]] = {}
        for agent in self.agents:
            for task in self.tasks(agent):
                if not self.misplaced(task.received):
                    body = task.body
                    name = Attempt(body.run_id, body.task_id, body.attempt)
                    found.setdefault(name, []).append((agent, task))
        return found

    @cached_property
    def restarts(self) -> dict[tuple[str, str], list[int]]:
        """The attempts with which tasks began anew, by run and task; without them, nothing."""
        found: dict[tuple[str, str], set[int]] = {}
        for attempt, sent in self.attempts.items():
            for _, envelope in sent:
                if envelope.body.journal_from:
                    task = (attempt.run_id, attempt.task_id)
                    found.setdefault(task, set()).add(envelope.body.journal_from)
        return {task: sorted(attempts) for task, attempts in found.items()}

    def begun_anew(self, run_id: str, task_id: str, attempt: int) -> int:
        """Return the attempt with which the journal that `attempt` has was begun; 0: the first."""
        begun = self.restarts.get((run_id, task_id), ())
        return max((first for first in begun if first <= attempt), default=0)

    @cached_property
    def cancels(self) -> dict[Attempt, list[Decoded[ControlEnvelope]]]:
        """Every word that asks for the end of an attempt (cancel, expire)."""
        found: dict[Attempt, list[Decoded[ControlEnvelope]]] = {}
        for agent in self.agents:
            for control in self.control(agent):
                body = control.body
                if body.action in (
                    ControlAction.CANCEL,
                    ControlAction.EXPIRE,
                ) and not self.misplaced(control.received):
                    name = Attempt(body.run_id, body.task_id, body.attempt)
                    found.setdefault(name, []).append(control)
        return found

    @cached_property
    def results(self) -> dict[Attempt, list[Result]]:
        """What agents said of the end of each attempt; forwarded records at their goal."""
        found: dict[Attempt, list[Result]] = {}
        for given in self.inputs:
            body = given.body.body
            if isinstance(body, TaskResult) and not self.misplaced(given.received):
                name = Attempt(given.body.run_id, body.task_id, body.attempt)
                found.setdefault(name, []).append(Result(given.received, body))
        return found

    @cached_property
    def unreadable_inputs(self) -> dict[Position, Received]:
        """Records of the topics that groups consume which are not what their topic holds."""
        _ = self.inputs
        for agent in self.agents:
            self.tasks(agent)
            self.control(agent)
        for group in self.groups:
            if group.startswith(SOURCE_PREFIX):
                self.ended_runs(group)
        consumed = {topic for group in self.groups for topic in self.consumed_by(group)}
        return {where: r for where, r in self._unreadable.items() if where.topic in consumed}

    @cached_property
    def commit_at(self) -> dict[Position, int]:
        """Which commit made a record visible, by its number in `commits`; {} where unknown."""
        return {
            position: number
            for number, commit in enumerate(self.commits or ())
            for position in commit.records
        }

    # --- topics of agents ----------------------------------------------------------------------

    def tasks(self, agent: str) -> list[Decoded[TaskEnvelope]]:
        """Return the tasks handed to an agent, partition by partition; forwarded ones too."""
        if agent not in self._tasks:
            self._tasks[agent] = self._decoded(self.topics.tasks(agent), TaskEnvelope)
        return self._tasks[agent]

    def control(self, agent: str) -> list[Decoded[ControlEnvelope]]:
        """Return the words about an agent's tasks."""
        if agent not in self._control:
            self._control[agent] = self._decoded(self.topics.control(agent), ControlEnvelope)
        return self._control[agent]

    def ended_runs(self, group: str) -> list[Decoded[RunEnded]]:
        """Return what the coordinators told a source."""
        if group not in self._ended:
            self._ended[group] = self._decoded(self.topics.control(group), RunEnded)
        return self._ended[group]

    def journal(self, group: str) -> dict[int, list[JournalEntry]]:
        """Return every record of a group's journal, by partition, in order.

        Raises `Undecodable` for one that cannot be read: only its own slots write there.
        """
        if group not in self._journals:
            self._journals[group] = {
                partition.partition: [_journal_entry(received, group) for received in log]
                for partition, log in self.log(self.topics.journal(group))
            }
        return self._journals[group]

    def _decoded(self, topic: str, kind: type[B]) -> list[Decoded[B]]:
        found: list[Decoded[B]] = []
        for _, log in self.log(topic):
            for received in log:
                try:
                    found.append(Decoded(received, decode(kind, received.value or b"")))
                except Undecodable:
                    self._unreadable[received.position] = received
        return found


def _journal_entry(received: Received, group: str) -> JournalEntry:
    key, value = received.key or b"", received.value
    if value is None:
        return JournalEntry(received, key.decode(), None)
    if key == OFFSET_KEY:
        return JournalEntry(received, "offset", decode(SlotOffset, value))
    if group == COORDINATOR_GROUP:
        return JournalEntry(received, key.decode(), decode(CoordinatorJournal, value).body)
    if group.startswith(SOURCE_PREFIX):
        return JournalEntry(received, key.decode(), decode(SourceJournal, value))
    return JournalEntry(received, key.decode(), decode(AgentJournal, value).body)
