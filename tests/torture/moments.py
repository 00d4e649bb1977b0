"""What a process is about to do, told by what flows through its bus.

An agent and a coordinator pass different points with the same calls: a commit that holds an
`Accepted` record is an acceptance, one that holds `TASK_DISPATCHED` events is a dispatch, one with
a `TaskResult` (an agent's) or the event of a task's end (a coordinator's) a result. Nothing is
decoded unless the point in question is armed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from holdfast.bus.port import Received, Record, TopicPartition
from holdfast.bus.topics import COORDINATOR_GROUP, Topics
from holdfast.schemas.codec import decode
from holdfast.schemas.errors import HoldfastError
from holdfast.schemas.records import (
    Accepted,
    AgentJournal,
    CoordinatorEnvelope,
    Event,
    EventType,
    Submission,
    TaskResult,
)
from tests.torture.points import Control, Point

__all__ = ["AgentMoments", "CoordinatorMoments", "Moments"]

Offsets = Mapping[TopicPartition, int]

RESULTS = frozenset(
    {
        EventType.TASK_SUCCEEDED,
        EventType.TASK_FAILED,
        EventType.TASK_RETRYING,
        EventType.TASK_CANCELLED,
        EventType.TASK_DEAD,
    }
)


class Moments(Protocol):
    """Hears of each call that a process makes on its bus, before and after."""

    def polling(self) -> None:
        """A poll begins."""
        ...

    def polled(self, records: Sequence[Received]) -> None:
        """A poll has brought records; they are not handed over yet."""
        ...

    def committing(self, records: Sequence[Record], offsets: Offsets) -> None:
        """A commit is about to be handed to the adapter."""
        ...

    def committed(self, records: Sequence[Record], offsets: Offsets) -> None:
        """The adapter has acknowledged it; whoever waits does not know it yet."""
        ...

    def reading(self, topic: str) -> None:
        """A log is about to be read from an offset."""
        ...

    def read(self, topic: str) -> None:
        """It was read to the end that was asked for."""
        ...


class AgentMoments:
    """Derives an agent's points."""

    def __init__(self, control: Control, topics: Topics, agent: str) -> None:
        self._control = control
        self._journal = topics.journal(agent)
        self._coordinator = topics.coordinator

    def polling(self) -> None:
        """See `Moments`."""
        self._control.reached(Point.BEFORE_POLL)

    def polled(self, records: Sequence[Received]) -> None:
        """See `Moments`."""
        if records:
            self._control.reached(Point.AFTER_POLL)

    def committing(self, records: Sequence[Record], offsets: Offsets) -> None:
        """See `Moments`."""
        self._pass(records, Point.BEFORE_ACCEPT, Point.BEFORE_RESULT)

    def committed(self, records: Sequence[Record], offsets: Offsets) -> None:
        """See `Moments`."""
        self._pass(records, Point.AFTER_ACCEPT, Point.AFTER_RESULT)

    def reading(self, topic: str) -> None:
        """See `Moments`."""
        if topic == self._journal:
            self._control.reached(Point.BEFORE_RESTORE)

    def read(self, topic: str) -> None:
        """See `Moments`."""
        if topic == self._journal:
            self._control.reached(Point.AFTER_RESTORE)

    def _pass(self, records: Sequence[Record], accept: Point, result: Point) -> None:
        if self._control.armed is accept and self._accepts(records):
            self._control.reached(accept)
        elif self._control.armed is result and self._answers(records):
            self._control.reached(result)

    def _answers(self, records: Sequence[Record]) -> bool:
        return any(
            isinstance(decode(CoordinatorEnvelope, record.value).body, TaskResult)
            for record in records
            if record.topic == self._coordinator and record.value is not None
        )

    def _accepts(self, records: Sequence[Record]) -> bool:
        for record in records:
            if record.topic != self._journal or record.value is None or record.key == b"offset":
                continue
            if isinstance(decode(AgentJournal, record.value).body, Accepted):
                return True
        return False


class CoordinatorMoments:
    """Derives a coordinator's points."""

    def __init__(self, control: Control, topics: Topics) -> None:
        self._control = control
        self._events = topics.events
        self._journal = topics.journal(COORDINATOR_GROUP)

    def polling(self) -> None:
        """See `Moments`."""

    def polled(self, records: Sequence[Received]) -> None:
        """See `Moments`."""
        if self._control.armed is Point.BEFORE_SUBMIT and _submits(records):
            self._control.reached(Point.BEFORE_SUBMIT)

    def committing(self, records: Sequence[Record], offsets: Offsets) -> None:
        """See `Moments`."""
        self._pass(
            records,
            Point.BEFORE_PLAN,
            Point.BEFORE_DISPATCH,
            Point.BEFORE_RESULT,
            Point.BEFORE_TIMER,
        )

    def committed(self, records: Sequence[Record], offsets: Offsets) -> None:
        """See `Moments`."""
        self._pass(
            records,
            Point.AFTER_SUBMIT,
            Point.AFTER_PLAN,
            Point.AFTER_DISPATCH,
            Point.AFTER_RESULT,
            Point.AFTER_TIMER,
        )

    def reading(self, topic: str) -> None:
        """See `Moments`."""
        if topic == self._journal:
            self._control.reached(Point.BEFORE_RESTORE)

    def read(self, topic: str) -> None:
        """See `Moments`."""
        if topic == self._journal:
            self._control.reached(Point.AFTER_RESTORE)

    def _pass(self, records: Sequence[Record], *points: Point) -> None:
        armed = self._control.armed
        if armed is None or armed not in points:
            return
        events = (
            decode(Event, record.value)
            for record in records
            if record.topic == self._events and record.value is not None
        )
        if _shows(armed, events):
            self._control.reached(armed)


def _shows(point: Point, events: Iterable[Event]) -> bool:
    if point is Point.AFTER_SUBMIT:
        return any(event.type is EventType.RUN_STARTED for event in events)
    if point in (Point.BEFORE_PLAN, Point.AFTER_PLAN):
        return any(event.type is EventType.TASK_EXPANDED for event in events)
    if point in (Point.BEFORE_DISPATCH, Point.AFTER_DISPATCH):
        return any(event.type is EventType.TASK_DISPATCHED for event in events)
    if point in (Point.BEFORE_RESULT, Point.AFTER_RESULT):
        return any(event.type in RESULTS for event in events)
    return any(event.cause is None for event in events)


def _submits(records: Sequence[Received]) -> bool:
    for record in records:
        if record.value is None:
            continue
        try:
            envelope = decode(CoordinatorEnvelope, record.value)
        except HoldfastError:
            continue  # bytes that the harness has damaged
        if isinstance(envelope.body, Submission):
            return True
    return False
