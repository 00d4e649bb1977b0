"""Histories made by hand: real records, put on the topics by the rules, one partition each.

`Made` plays coordinator and agent with the pure engine, commit by commit; a test then drops, adds
or alters a record, and the checker must say so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.bus.port import Position, Received, Record, Slot, TopicPartition
from holdfast.bus.topics import COORDINATOR_GROUP, Topics
from holdfast.coordinator.engine import (
    Arrival,
    Engine,
    EngineLimits,
    Graphs,
    Input,
    State,
    TimerDue,
    Values,
    View,
)
from holdfast.coordinator.writing import Writing
from holdfast.schemas import Plan
from holdfast.schemas.codec import decode, encode, encode_json
from holdfast.schemas.documents import DocumentCodec
from holdfast.schemas.records import (
    Accepted,
    AgentJournal,
    Cause,
    Command,
    CommandAction,
    ConsumedOffset,
    ControlEnvelope,
    CoordinatorEnvelope,
    CoordinatorJournal,
    Event,
    EventType,
    Failed,
    Failure,
    FailureKind,
    Outcome,
    SlotOffset,
    StepEntry,
    StepKind,
    Submission,
    TaskEnvelope,
    TaskResult,
)
from holdfast.testing import (
    BodyEnd,
    BodyStart,
    CommitSeen,
    Evidence,
    Gap,
    History,
    Quiet,
    Verdict,
    check,
)
from holdfast.testing import Submission as Submitted
from tests.unit.coordinator.host import resolved

NAMESPACE = "ns"
TOPICS = Topics(NAMESPACE)
AGENT = "a"
TASKS, CONTROL, EVENTS = TOPICS.tasks(AGENT), TOPICS.control(AGENT), TOPICS.events
LETTERS, INPUTS = TOPICS.dead_letters, TOPICS.coordinator
AGENT_JOURNAL, JOURNAL = TOPICS.journal(AGENT), TOPICS.journal(COORDINATOR_GROUP)
ALL = (INPUTS, EVENTS, LETTERS, TASKS, CONTROL, AGENT_JOURNAL, JOURNAL, TOPICS.schemas)
START_MS = 1_700_000_000_000
STEP = "say"

Alter = Callable[[Any], None]


@dataclass
class Process:
    """Who commits for a slot."""

    group: str
    name: str
    epoch: int = 1
    number: int = 0
    offsets: dict[str, int] = field(default_factory=dict)


class Made:
    """A broker's log, and two services that fill it."""

    def __init__(self) -> None:
        self.logs: dict[str, list[Received]] = {topic: [] for topic in ALL}
        self.commits: list[CommitSeen] = []
        self.evidence = Evidence()
        self.now_ms = START_MS
        self.coordinator = Process(COORDINATOR_GROUP, "c1", offsets={INPUTS: 0})
        self.agent = Process(AGENT, "w1", offsets={TASKS: 0, CONTROL: 0})
        self.state = State()
        self._engine = Engine(EngineLimits(), Values(DocumentCodec(lambda _: None)), Graphs())
        self._writing = Writing(TOPICS, 0)
        self.journaled: set[str] = set()

    # --- the broker ------------------------------------------------------------------------------

    def put(self, record: Record) -> Position:
        log = self.logs[record.topic]
        at = log[-1].offset + 1 if log else 0
        log.append(
            Received(record.topic, 0, at, record.key, record.value, record.headers, self.now_ms)
        )
        return Position(record.topic, 0, at)

    def commit(self, who: Process, records: Sequence[Record]) -> None:
        """One commit: the records, and the slot's own, with the offsets as they are."""
        who.number += 1
        consumed = [ConsumedOffset(topic, at) for topic, at in sorted(who.offsets.items())]
        own = SlotOffset(who.number, consumed, who.name, f"{who.name}-id", False, self.now_ms)
        journal = Record(TOPICS.journal(who.group), b"offset", encode(own), (), 0)
        places = tuple(self.put(record) for record in (*records, journal))
        offsets = {TopicPartition(topic, 0): at for topic, at in who.offsets.items()}
        slot = Slot(TOPICS.group(who.group), 0)
        self.commits.append(CommitSeen(slot, who.epoch, places, offsets))
        self.now_ms += 10

    # --- the client ------------------------------------------------------------------------------

    def submit(self, run_id: str, plan: Plan, order_key: str | None = None, **given: Any) -> None:
        body = Submission(
            resolved(plan), encode_json(given), f"h-{run_id}", run_id, "test", order_key
        )
        self.send(run_id, body, order_key)
        self.evidence.add(Submitted(run_id, True, plan.name, order_key=order_key))

    def send(self, run_id: str, body: Any, order_key: str | None = None) -> None:
        value = encode(CoordinatorEnvelope(run_id, self.now_ms, body))
        self.put(Record(INPUTS, (order_key or run_id).encode(), value))

    def command(self, run_id: str, action: CommandAction, task_id: str | None = None) -> None:
        self.send(run_id, Command("c", action, task_id, "{}", "me", ""))

    # --- the coordinator -------------------------------------------------------------------------

    def coordinate(self) -> None:
        """Take all inputs, each in a commit of its own."""
        while (at := self.coordinator.offsets[INPUTS]) < len(self.logs[INPUTS]):
            received = self.logs[INPUTS][at]
            envelope = decode(CoordinatorEnvelope, received.value or b"")
            key = (received.key or b"").decode()
            self._decide(Arrival(envelope, Cause(0, at), key), at + 1)

    def timer(self, run_id: str, task_id: str, after_ms: int) -> None:
        self.now_ms += after_ms
        self._decide(TimerDue(f"run/{run_id}", task_id), self.coordinator.offsets[INPUTS])

    def _decide(self, input_: Input, moved_to: int) -> None:
        view = View(self.state)
        reaction = self._engine.react(view, input_, self.now_ms)
        assert not reaction.needs
        records = [self._writing.effect(effect) for effect in reaction.effects]
        for name, value in reaction.overlay.changes.items():
            key = f"{reaction.entity}/{name}" if name else reaction.entity
            if value is None and key not in self.journaled:
                continue
            self.journaled.add(key)
            data = None if value is None else encode(CoordinatorJournal(value))
            records.append(Record(JOURNAL, key.encode(), data))
        for name, marker in reaction.markers.items():
            data = None if marker is None else encode(CoordinatorJournal(marker))
            records.append(Record(JOURNAL, f"closed/{name}".encode(), data))
        self.coordinator.offsets[INPUTS] = moved_to
        view.absorb(reaction)
        view.apply()
        self.commit(self.coordinator, records)

    # --- the agent -------------------------------------------------------------------------------

    def work(self, failure: Failure | None = None, *, accept: bool = True) -> TaskEnvelope:
        """Take the next task: accept it with a step, and end it; with `failure` as failed."""
        self._read_control()
        at = self.agent.offsets[TASKS]
        task = decode(TaskEnvelope, self.logs[TASKS][at].value or b"")
        name = f"{task.run_id}/{task.task_id}"
        started_ms = self.now_ms
        self.body(task, None)
        self.agent.offsets[TASKS] = at + 1
        if accept:
            if task.attempt == 1:
                self.body(task, STEP)
            entry = StepEntry(STEP, "", StepKind.STEP, task.attempt, "d", None, started_ms, 1)
            self.now_ms += 1
            self.commit(
                self.agent,
                [
                    journal(name, Accepted(task, at, 0, 0, 0, False, at)),
                    *([journal(f"{name}/step/{STEP}/", entry)] if task.attempt == 1 else []),
                ],
            )
        self._end(task, failure, started_ms, accepted=accept)
        return task

    def _end(
        self, task: TaskEnvelope, failure: Failure | None, started_ms: int, *, accepted: bool
    ) -> None:
        name = f"{task.run_id}/{task.task_id}"
        outcome = Outcome.SUCCEEDED if failure is None else Outcome.FAILED
        output = None if failure else encode_json({"text": task.task_id})
        result = TaskResult(
            task.task_id, task.attempt, outcome, output, failure, [],
            started_ms, self.now_ms, 0, "w1", "b",
        )  # fmt: skip
        answer = encode(CoordinatorEnvelope(task.run_id, self.now_ms, result))
        records = [Record(INPUTS, task.reply_key.encode(), answer)]
        if failure is not None:
            records.append(journal(name, Failed(task.attempt, task.order_key, 0)))
        elif accepted:
            records += [journal(name, None), journal(f"{name}/step/{STEP}/", None)]
        self.commit(self.agent, records)
        self.evidence.add(
            BodyEnd(task.run_id, task.task_id, task.attempt, None, "", "w1", "w1-id", self.now_ms)
        )

    def _read_control(self) -> None:
        """Forget what was released."""
        at = self.agent.offsets[CONTROL]
        for received in self.logs[CONTROL][at:]:
            control = decode(ControlEnvelope, received.value or b"")
            name = f"{control.run_id}/{control.task_id}"
            self.agent.offsets[CONTROL] = received.offset + 1
            self.commit(self.agent, [journal(name, None), journal(f"{name}/step/{STEP}/", None)])

    def body(self, task: TaskEnvelope, step: str | None, key: str = "") -> None:
        self.evidence.add(
            BodyStart(
                task.run_id, task.task_id, task.attempt, step, key, "w1", "w1-id",
                self.now_ms, len(self.commits),
            )
        )  # fmt: skip

    # --- the end ---------------------------------------------------------------------------------

    def finish(self, *, quiet: bool = True) -> Made:
        """Let all go on until nothing is left."""
        self.coordinate()
        while self.agent.offsets[TASKS] < len(self.logs[TASKS]):
            self.work()
            self.coordinate()
        self._read_control()
        if quiet:
            self.evidence.add(Quiet(self.now_ms))
        return self

    def history(self, *, commits: bool = False) -> History:
        offsets = {
            TOPICS.group(who.group): {TopicPartition(t, 0): at for t, at in who.offsets.items()}
            for who in (self.coordinator, self.agent)
        }
        records = {TopicPartition(topic, 0): log for topic, log in self.logs.items()}
        return History(NAMESPACE, records, offsets, commits=self.commits if commits else None)

    def with_a_gap(self, topic: str) -> History:
        """Return the same history, of which the first record of `topic` may have been missed."""
        whole = self.history()
        gap = Gap(TopicPartition(topic, 0), 0, 1, "purged")
        return History(whole.namespace, whole.records, whole.offsets, gaps=[gap])

    def check(self, *only: str, commits: bool = False) -> Verdict:
        return check(self.history(commits=commits), self.evidence, only=only or None)

    # --- breaking it -----------------------------------------------------------------------------

    def find(
        self, topic: str, kind: type, which: Callable[[Any], bool] = lambda _: True
    ) -> Received:
        for received in self.logs[topic]:
            if received.value is None:
                continue
            if kind is SlotOffset and received.key != b"offset":
                continue
            if kind in (AgentJournal, CoordinatorJournal) and received.key == b"offset":
                continue
            if which(decode(kind, received.value)):
                return received
        raise AssertionError(f"no such record on {topic}")

    def event(self, kind: EventType, task_id: str | None = None) -> Received:
        return self.find(
            EVENTS,
            Event,
            lambda e: (
                e.type is kind
                and (task_id is None or (e.task is not None and e.task.task_id == task_id))
            ),
        )

    def drop(self, received: Received) -> None:
        self.logs[received.topic].remove(received)

    def again(self, received: Received) -> Position:
        """Write a record once more, at the end of its topic."""
        return self.put(Record(received.topic, received.key, received.value, received.headers))

    def alter(self, received: Received, kind: type, change: Alter) -> None:
        body = decode(kind, received.value or b"")
        change(body)
        log = self.logs[received.topic]
        log[log.index(received)] = received._replace(value=encode(body))


def journal(key: str, body: Any) -> Record:
    value = None if body is None else encode(AgentJournal(body, "b"))
    return Record(AGENT_JOURNAL, key.encode(), value)


def error(*, retryable: bool = True) -> Failure:
    return Failure(FailureKind.ERROR, "E", "no", "", retryable)


def chain(name: str = "chain", **options: Any) -> Plan:
    plan = Plan(name, **options)
    one = plan.task("one", f"{AGENT}.t", text="a")
    plan.task("two", f"{AGENT}.t", text=one["text"])
    return plan


def happy() -> Made:
    """A chain that succeeds, one with a retry, one that fails with a dead letter."""
    made = Made()
    made.submit("r1", chain())
    made.coordinate()
    made.work()
    made.coordinate()
    made.submit("r2", chain())
    made.coordinate()
    made.finish(quiet=False)
    made.submit("r3", chain())
    made.coordinate()
    made.work(error())
    made.coordinate()
    made.timer("r3", "one", 2_000)
    made.finish(quiet=False)
    made.submit("r4", chain())
    made.coordinate()
    made.work(error(retryable=False))
    return made.finish()


def ordered(runs: int = 3) -> Made:
    """Runs of one plan with an order key, one behind the other at each task."""
    made = Made()
    for number in range(runs):
        made.submit(f"o{number}", chain("ordered", order_key="k"), order_key="k")
    return made.finish()
