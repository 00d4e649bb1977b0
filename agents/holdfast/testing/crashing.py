"""The moments at which a process can die, told apart by counting: one seed, one history.

    a body begins        before a handler, step or effect has done anything
    a body has returned  it was done, and nobody knows yet
    a commit is under way  written and not decided: none of it will ever be seen
    a commit is done     all of it stands, and its process has not heard so

A first run without any crash finds them; then each is visited in a simulation of its own, which
has the same history up to there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from holdfast.bus.port import Position, Slot, TopicPartition
from holdfast.bus.topics import COORDINATOR_GROUP, SOURCE_PREFIX, Topics
from holdfast.schemas.codec import decode
from holdfast.schemas.records import CoordinatorEnvelope, Event, Submission
from holdfast.testing.sim import Process, Request, RequestKind, World

__all__ = ["CrashPoint", "Deaths", "Moment"]

OFFSET_KEY = b"offset"
TOLD_MAX = 4
"""So much of what is in a commit is told by name."""


class Moment(Enum):
    """Which kind of moment."""

    BODY_BEGINS = "as it begins"
    BODY_RETURNED = "when it has returned"
    COMMIT_UNDER_WAY = "in its commit, which is lost"
    COMMIT_DONE = "behind its commit, before it hears of it"


@dataclass(frozen=True, slots=True)
class CrashPoint:
    """The `number`-th moment of its kind in a process, over all its starts. `text`: for people."""

    process: str
    moment: Moment
    number: int
    text: str = ""

    @property
    def place(self) -> tuple[str, Moment, int]:
        """What tells it from others."""
        return self.process, self.moment, self.number

    def __str__(self) -> str:
        return f"{self.process} dies {self.text}"


class Deaths:
    """Counts the moments of a world, and kills a process at one of them.

    `armed`: where; `met`: what stood there, once it has happened. While `recording`, every moment
    is kept in `points`.
    """

    def __init__(self, world: World, namespace: str, kill: Callable[[Process, str], None]) -> None:
        self.armed: CrashPoint | None = None
        self.met: str | None = None
        self.recording = False
        self.points: list[CrashPoint] = []
        self._world = world
        self._topics = Topics(namespace)
        self._journals = f"{namespace}.journal."
        self._kill = kill
        self._counts: Counter[tuple[str, Moment]] = Counter()
        self._under_way: dict[Slot, int] = {}
        world.broker.network.watchers.append(self._look)

    def reach(self, process: Process, moment: Moment, what: str) -> bool:
        """Count a moment; True if its process was killed at it."""
        self._counts[process.name, moment] += 1
        number = self._counts[process.name, moment]
        point = CrashPoint(process.name, moment, number, what)
        if self.recording:
            self.points.append(point)
        if self.armed is None or self.armed.place != point.place:
            return False
        self.armed, self.met = None, what
        self._kill(process, f"killed {what}")
        return True

    def _look(self, request: Request, moment: str) -> None:
        if moment != "applied" or request.kind not in (RequestKind.PRODUCE, RequestKind.END):
            return
        process = self._world.processes.get(request.link.name.rpartition("-")[0])
        if process is None or process.bus.link is not request.link or not process.alive:
            return
        slot = request.subject
        if request.kind is RequestKind.PRODUCE:
            if self.recording:
                self._under_way[slot] = len(self.points)
            self.reach(process, Moment.COMMIT_UNDER_WAY, f"in a commit of slot {slot.partition}")
            return
        what = self._told(slot) if self.recording or self.armed is not None else ""
        self._name(self._under_way.pop(slot, None), what)
        self.reach(process, Moment.COMMIT_DONE, f"behind the commit of {what}")

    def _name(self, index: int | None, what: str) -> None:
        """Now that it is decided, what was under way can be read."""
        if index is not None and index < len(self.points):
            point = self.points[index]
            text = f"in the commit of {what}, which is lost"
            self.points[index] = CrashPoint(point.process, point.moment, point.number, text)

    def _told(self, slot: Slot) -> str:
        commits = self._world.broker.commits
        if not commits or commits[-1].slot != slot:
            return "nothing new"
        told = [text for where in commits[-1].written if (text := self._record(where))]
        more = f" and {len(told) - TOLD_MAX} more" if len(told) > TOLD_MAX else ""
        return ", ".join(told[:TOLD_MAX]) + more if told else "its offsets"

    def _record(self, where: Position) -> str:
        log = self._world.broker.log(TopicPartition(where.topic, where.partition))
        found, _ = log.read(where.offset, 1, where.offset + 1)
        if not found:
            return ""
        record = found[0]
        if where.topic == self._topics.events:
            event = decode(Event, record.value or b"")
            return f"{event.type.value} {event.task.task_id if event.task else event.run_id}"
        if where.topic == self._topics.coordinator:
            envelope = decode(CoordinatorEnvelope, record.value or b"")
            submitted = isinstance(envelope.body, Submission)
            return f"the submission of {envelope.run_id}" if submitted else ""
        if where.topic.startswith(self._journals + SOURCE_PREFIX):
            return ""
        own = where.topic == self._topics.journal(COORDINATOR_GROUP)  # told by its events
        if own or not where.topic.startswith(self._journals) or record.key == OFFSET_KEY:
            return ""
        return _journaled((record.key or b"").decode(), ends=record.value is None)


def _journaled(key: str, *, ends: bool) -> str:
    """Tell of an agent's journal record: `<run>/<task>`, or with `/step/<name>/<key>` behind it."""
    task, is_step, step = key.partition("/step/")
    if ends:
        return "" if is_step else f"the end of {task}"
    if not is_step:
        return f"{task}, accepted"
    name, _, step_key = step.partition("/")
    return f"step {name!r}{f' (key {step_key!r})' if step_key else ''} of {task}"
