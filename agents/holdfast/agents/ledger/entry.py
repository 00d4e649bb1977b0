"""What a slot knows of one task, and the life of an attempt.

               read, restored
    (unknown) ----------------> WAITING --------> STARTING --------> RUNNING
                                  |  ^  accept      |   accepted        |
                        cancelled |  |  first       | cancelled         | returned or raised
                                  |  |              v                   |
                                  +--|-----------> ENDED <--------------+
                                     |               | collected
                      attempt n+1    |   release     v          success, or released
                    FAILED ----------+----------> CLOSING -----------------------> (unknown)
                      ^                              |
                      +------------------------------+ failure, cancelled

STARTING and RUNNING go back to WAITING when the slot is given up, or an attempt is superseded.
RUNNING goes to ASLEEP when its handler only waits for answers, and its body was dropped; ASLEEP to
WAITING with the first answer. While steps of it are on their way into the journal it does not
sleep: it goes to WAITING, and starts when they are settled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from holdfast.agents.ledger.folded import StepRecords
from holdfast.agents.ledger.keys import task_key
from holdfast.bus.port import Record
from holdfast.schemas.records import (
    Accepted,
    Failed,
    Failure,
    Outcome,
    Payload,
    StepEntry,
    StepSummary,
    TaskEnvelope,
)

__all__ = ["OPEN_PHASES", "TRANSITIONS", "Ending", "Entry", "Incoming", "Phase", "StepWrite"]

ALONE_AFTER_RESUMES = 2
"""A task resumed this often since its last step runs alone in its process."""
STRIKES_MAX = 3
"""So many deaths while it ran alone make a task poison."""


class Phase(Enum):
    """Where the newest attempt of a task stands; see the drawing above."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    ASLEEP = "asleep"
    ENDED = "ended"
    CLOSING = "closing"
    FAILED = "failed"


TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.WAITING: frozenset({Phase.STARTING, Phase.RUNNING, Phase.ENDED, Phase.CLOSING}),
    Phase.STARTING: frozenset({Phase.RUNNING, Phase.WAITING, Phase.ENDED, Phase.CLOSING}),
    Phase.RUNNING: frozenset({Phase.ENDED, Phase.WAITING, Phase.ASLEEP, Phase.CLOSING}),
    Phase.ASLEEP: frozenset({Phase.WAITING, Phase.ENDED, Phase.CLOSING}),
    Phase.ENDED: frozenset({Phase.CLOSING}),
    Phase.CLOSING: frozenset({Phase.FAILED, Phase.CLOSING}),
    Phase.FAILED: frozenset({Phase.WAITING, Phase.CLOSING}),
}
"""A forgotten task has no phase: CLOSING ends there too. Straight to CLOSING goes an open task, one
of whose records the bus has refused."""

OPEN_PHASES = frozenset({Phase.WAITING, Phase.STARTING, Phase.RUNNING, Phase.ASLEEP})
"""Those in which an attempt can still be cancelled: it has not ended."""


@dataclass(slots=True)
class Ending:
    """How an attempt ended; `published` and `state` go into the same commit, on success.

    `state`: what its handler keeps under the order key, by name, as framed bytes; None deletes.
    """

    outcome: Outcome
    output: Payload = None
    failure: Failure | None = None
    steps: list[StepSummary] = field(default_factory=list)
    started_ms: int = 0
    finished_ms: int = 0
    published: Sequence[Record] = ()
    state: Mapping[str, bytes | None] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class StepWrite:
    """A step to be journaled, or removed (`entry` None); `done` tells whoever waits for it.

    `record` goes with it: the ask that it journals. `control`: the word from the coordinator, by
    topic and offset, that is dealt with once this is written; `dealt`: the slot's offset may pass
    it.
    """

    name: str
    key: str
    entry: StepEntry | None
    settled: bool = False
    record: Record | None = None
    control: tuple[str, int] | None = None
    dealt: bool = False


@dataclass(slots=True)
class Incoming:
    """A task record as it was read."""

    envelope: TaskEnvelope
    offset: int
    size_bytes: int
    trace: bytes | None = None


@dataclass(slots=True, eq=False)
class Entry:
    """One task of a slot. Only the ledger changes it.

    `consumed`: its record is dealt with, the slot's offset may pass it. `journaled`: `<task>`
    exists in the journal, or will by the commit under way; `accepted`: as this attempt. `wanted`,
    `drafted`, `written`: how often `<task>` was asked to be rewritten, drafted, and written.
    `controls`: cancels that its end answers. `released`: nothing is kept once it has ended.
    `asleep_bytes`: what it was counted with when it fell asleep. `roused`: it is asleep, and an
    answer is on its way into the journal. `writes`: steps to be written, `writing`: those of the
    commit under way. `asking`: asks on their way; the answer to one may be read before its commit
    is acknowledged.
    """

    name: str
    phase: Phase
    attempt: int
    envelope: TaskEnvelope | None
    input_offset: int
    order_key: str | None = None
    order_offset: int = -1
    size_bytes: int = 0
    asleep_bytes: int = 0
    consumed: bool = False
    journaled: bool = False
    accepted: bool = False
    wanted: int = 0
    drafted: int = 0
    written: int = 0
    released: bool = False
    roused: bool = False
    resumes: int = 0
    resumes_since_step: int = 0
    strikes: int = 0
    alone: bool = False
    steps: StepRecords = field(default_factory=StepRecords)
    controls: list[tuple[str, int]] = field(default_factory=list)
    writes: list[StepWrite] = field(default_factory=list)
    writing: list[StepWrite] = field(default_factory=list)
    asking: dict[tuple[str, str], StepEntry] = field(default_factory=dict)
    trace: bytes | None = None
    ending: Ending | None = None
    successor: Incoming | None = None

    @classmethod
    def first(cls, incoming: Incoming) -> Entry:
        """Return the entry of a task that was not known before."""
        envelope, offset = incoming.envelope, incoming.offset
        entry = cls(task_key(envelope.run_id, envelope.task_id), Phase.WAITING, 0, None, offset)
        entry.order_key = envelope.order_key
        entry.order_offset = offset
        entry.arm(incoming)
        return entry

    def arm(self, incoming: Incoming) -> None:
        """Take up a new attempt; the steps stay."""
        self.phase = Phase.WAITING
        self.envelope = incoming.envelope
        self.attempt = incoming.envelope.attempt
        self.input_offset = incoming.offset
        self.size_bytes = incoming.size_bytes
        self.trace = incoming.trace
        self.consumed = self.accepted = self.released = self.alone = self.roused = False
        self.resumes = self.resumes_since_step = self.strikes = 0
        self.written = self.drafted = self.wanted
        self.ending = None
        self.writes = []
        # What the commit under way asks for is asked, whichever attempt hears of it.
        self.asking = {
            (write.name, write.key): write.entry
            for write in self.writing
            if write.record is not None and write.entry is not None
        }

    def move(self, phase: Phase) -> None:
        """Change the phase; a transition that is not in the table is a bug."""
        assert phase in TRANSITIONS[self.phase], f"{self.name}: {self.phase} -> {phase}"
        self.phase = phase

    @property
    def task_id(self) -> str:
        """The task's id in its run."""
        return self.name.partition("/")[2]

    @property
    def unsettled(self) -> bool:
        """Whether steps of it are on their way into the journal.

        No handler starts before they are there: it would not find them, and do them again.
        """
        return bool(self.writes or self.writing)

    @property
    def suspect(self) -> bool:
        """Whether it may have killed its process: it runs alone."""
        return self.resumes_since_step >= ALONE_AFTER_RESUMES

    @property
    def leaving(self) -> bool:
        """Whether the commit under way removes all of its keys."""
        succeeded = self.ending is not None and self.ending.outcome is Outcome.SUCCEEDED
        return self.phase is Phase.CLOSING and (self.released or succeeded)

    @property
    def begun(self) -> bool:
        """Whether its handler has begun: a queue time-out comes too late."""
        return self.phase is Phase.RUNNING or bool(self.steps)

    @property
    def strict(self) -> bool:
        """Whether its order key stays closed between attempts."""
        return self.order_key is not None and not (
            self.envelope is not None and self.envelope.loose_order
        )

    def as_accepted(self) -> Accepted:
        """Return what the journal holds of an open attempt."""
        assert self.envelope is not None
        return Accepted(
            self.envelope,
            self.input_offset,
            self.resumes,
            self.resumes_since_step,
            self.strikes,
            self.alone,
            self.order_offset,
            self.phase is Phase.ASLEEP and not self.roused,
        )

    def as_failed(self) -> Failed:
        """Return what the journal holds between two attempts."""
        key = self.order_key if self.strict else None
        return Failed(self.attempt, key, self.order_offset)
