"""A slot and its agents in memory, for tests of the coordinator.

`Host` plays the slot: it feeds a real `CoordinatorMachine`, "commits" what it collects, keeps the
journal as compaction would, and can be restarted from it at any point. `Host.work` plays all
agents by the rules of docs/protocol.md. Nothing here decides anything for the engine.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from holdfast.bus.errors import Rejected
from holdfast.bus.port import Bus, Environment, Received, Record, Slot
from holdfast.bus.slot.machine import Change, Commit, Opened
from holdfast.bus.topics import Topics
from holdfast.coordinator.engine import EngineLimits, Graphs
from holdfast.coordinator.ports import CoordinatorContext
from holdfast.coordinator.service import CoordinatorMachine
from holdfast.coordinator.settings import CoordinatorSettings
from holdfast.schemas.codec import decode, decode_json, encode, encode_json
from holdfast.schemas.ids import OwnSchema
from holdfast.schemas.plan import Plan
from holdfast.schemas.plan_checks import as_document
from holdfast.schemas.records import (
    BlobReference,
    Command,
    CommandAction,
    ControlAction,
    ControlEnvelope,
    CoordinatorEnvelope,
    DeadLetter,
    Event,
    Failure,
    FailureKind,
    Outcome,
    Payload,
    RetryPolicy,
    Submission,
    TaskEnvelope,
    TaskProgress,
    TaskResult,
)
from holdfast.schemas.resolution import ResolvedPlan, ResolvedTask

TOPICS = Topics("test")
PARTITION = 3
START_MS = 1_700_000_000_000
NO_JITTER = RetryPolicy(attempts=3, initial_ms=1_000, factor=2.0, max_ms=60_000, jitter=0.0)

Handler = Callable[[TaskEnvelope], Any]


class Raised(Exception):
    """What a handler of a test raises to fail an attempt."""

    def __init__(self, kind: FailureKind = FailureKind.ERROR, *, retryable: bool = True) -> None:
        super().__init__(kind)
        self.failure = Failure(kind, "tests.Raised", f"{kind} raised", "", retryable)


def resolved(
    plan: Plan, *, retry: RetryPolicy = NO_JITTER, schema_id: int = OwnSchema.Json, **settings: Any
) -> str:
    """Return a plan as a submission carries it; all tasks take `schema_id` and give JSON."""
    document = as_document(plan)
    tasks = {}
    for name, node in document.tasks.items():
        agent, _, task = node.task.partition(".")
        tasks[name] = ResolvedTask(
            agent=agent,
            task=task,
            input_schema_id=schema_id,
            output_schema_id=OwnSchema.Json,
            retry=node.retry.policy() if node.retry else retry,
            timeout_ms=None,
            queue_timeout_ms=settings.get("queue_timeout_ms"),
        )
    return ResolvedPlan(plan=document, tasks=tasks).to_json()


class FakeSchemas:
    """Schemas that are known, and those that come when they are waited for."""

    def __init__(self) -> None:
        self.schemas: dict[int, Any] = {}
        self.coming: dict[int, Any] = {}
        self.waited: list[int] = []

    def known(self, schema_id: int) -> Any | None:
        return self.schemas.get(schema_id)

    async def find(self, schema_id: int, timeout_s: float) -> bool:
        self.waited.append(schema_id)
        if schema_id in self.coming:
            self.schemas[schema_id] = self.coming.pop(schema_id)
        return schema_id in self.schemas


class FakeBlobs:
    """A store that lives on when the machine does not."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.away = 0
        self.error: Exception | None = None

    def _reach(self) -> None:
        if self.error is not None:
            raise self.error
        if self.away:
            self.away -= 1
            raise ConnectionError("the store is away")

    async def get(self, reference: BlobReference) -> bytes | None:
        self._reach()
        return self.blobs.get(reference.name)

    async def put(self, reference: BlobReference, data: bytes) -> None:
        self._reach()
        self.blobs[reference.name] = data


class FakeAgents:
    """Answers what the test says of a plan."""

    trouble: str | None = None

    started: bool = False
    """Whether looking again finds the agent that was missing."""

    def problem(self, plan: str) -> str | None:
        return self.trouble

    async def refresh(self) -> None:
        if self.started:
            self.trouble = None


class FakeEnds:
    """Says that the event topic ends where the host has written to."""

    def __init__(self) -> None:
        self.end = 0

    def lower_bound(self, partition: int) -> int:
        return self.end


@dataclass
class Control:
    """The slot, as the machine sees it. Refuses records above `limit` bytes."""

    limit: int = 1_000_000
    refused_topics: set[str] = field(default_factory=set)
    misplaced_keys: set[bytes] = field(default_factory=set)
    woken: int = 0
    slot: Slot = field(default_factory=lambda: Slot("test.coordinator", PARTITION))

    def wake(self) -> None:
        self.woken += 1

    def journal(self, key: str, value: bytes | None) -> Record:
        return Record("test.journal.coordinator", key.encode(), value, (), PARTITION)

    def check(self, record: Record) -> None:
        size = len(record.key or b"") + len(record.value or b"")
        if size > self.limit:
            raise Rejected(record, f"{size} bytes are more than {self.limit}")
        if record.topic in self.refused_topics:
            raise Rejected(record, "no such topic")

    def misplaced(self, received: Received) -> Record | None:
        if received.key in self.misplaced_keys:
            return Record(received.topic, received.key, received.value, received.headers)
        return None

    async def confirm(self) -> None:
        return

    async def prove(self) -> None:
        return


class Host:
    """See the module's docstring."""

    def __init__(
        self, limits: EngineLimits | None = None, settings: CoordinatorSettings | None = None
    ) -> None:
        self.now_ms = START_MS
        self.monotonic_s = 1_000.0
        self.limits = limits or EngineLimits()
        self.settings = settings or CoordinatorSettings()
        self.control = Control()
        self.schemas, self.blobs = FakeSchemas(), FakeBlobs()
        self.agents, self.ends = FakeAgents(), FakeEnds()
        self.log: list[Received] = []
        self.position = 0
        self.journal: dict[str, bytes] = {}
        self.told_ms = 0
        self.events: list[Event] = []
        self.dead_letters: list[DeadLetter] = []
        self.forwarded: list[Record] = []
        self.tasks: deque[tuple[str, TaskEnvelope]] = deque()
        self.sent: list[tuple[str, TaskEnvelope]] = []
        self.controls: deque[tuple[str, ControlEnvelope]] = deque()
        self.controlled: list[tuple[str, ControlEnvelope]] = []
        self.commits: list[list[Record]] = []
        self.refuse_next: Callable[[Record], bool] | None = None
        self.after_commit: Callable[[], None] = lambda: None
        self.restart()

    # --- the slot ------------------------------------------------------------------------------

    def restart(self) -> None:
        """Drop the machine without a word, and open a new one from the journal."""
        environment = Environment(
            cast(Bus, None),
            now_ms=lambda: self.now_ms,
            monotonic=lambda: self.monotonic_s,
            random=random.Random(7),
        )
        context = CoordinatorContext(
            environment,
            TOPICS,
            _Settings(self.settings, self.limits),  # type: ignore[arg-type]
            self.schemas,
            self.blobs,
            self.agents,
            self.ends,
            Graphs(),
        )
        self.machine = CoordinatorMachine(self.control, context)
        for key, value in self.journal.items():
            self.machine.restore(key, value)
        positions = {TOPICS.coordinator: self.position}
        opened = Opened(positions, clean=False, now_ms=self.now_ms, told_ms=self.told_ms)
        self.machine.opened(opened)
        self.machine.receive(self.log[self.position :])

    def deliver(self, envelope: CoordinatorEnvelope, key: str | None = None) -> Received:
        """Append a record to the coordinator's topic and hand it to the machine."""
        return self.deliver_bytes(encode(envelope), key or envelope.run_id)

    def deliver_bytes(
        self, value: bytes, key: str, headers: tuple[tuple[str, bytes], ...] = ()
    ) -> Received:
        received = Received(
            TOPICS.coordinator, PARTITION, len(self.log), key.encode(), value, headers, self.now_ms
        )
        self.log.append(received)
        self.machine.receive([received])
        return received

    def step(self) -> bool:
        """Do one commit; False if there was nothing to be written, and nothing will be soon."""
        due_ms = self.machine.due(self.now_ms)
        commit = self.machine.collect(self.now_ms)
        if commit is None:
            return due_ms is not None and due_ms <= self.now_ms
        changes = [self._accepted(change) for change in commit.changes]
        for change in changes:
            self._write(list(change.records))
        self.position = commit.offsets.get(TOPICS.coordinator, self.position)
        assert commit.told_ms is not None
        self.told_ms = commit.told_ms
        for change in changes:
            change.apply()
        self.after_commit()
        return True

    def pump(self, limit: int = 100_000) -> None:
        """Commit until nothing waits."""
        for _ in range(limit):
            if not self.step():
                return
        raise AssertionError(f"still busy after {limit} commits")

    async def settle(self) -> None:
        """Let the machine's own tasks do what they can, and commit what follows."""
        for _ in range(200):
            self.pump()
            if not self.machine._lanes.parked():
                return
            await asyncio.sleep(0)
        raise AssertionError("the machine still waits")

    def pass_time(self, ms: int) -> None:
        """Let time pass on both clocks, and do what is due."""
        self.now_ms += ms
        self.monotonic_s += ms / 1_000
        self.pump()

    def collect(self) -> Commit | None:
        return self.machine.collect(self.now_ms)

    def _accepted(self, change: Change) -> Change:
        while self.refuse_next is not None:
            culprit = next((r for r in change.records if self.refuse_next(r)), None)
            if culprit is None:
                break
            change = change.refuse(Rejected(culprit, "refused by the test"))
        return change

    def _write(self, records: list[Record]) -> None:
        self.commits.append(records)
        for record in records:
            assert record.key is not None
            kind = record.topic.removeprefix("test.").partition(".")[0]
            if kind == "journal":
                self._journal(record.key.decode(), record.value)
                continue
            assert record.value is not None
            key = record.key.decode()
            if kind == "events":
                assert record.partition == PARTITION
                self.events.append(decode(Event, record.value))
            elif kind == "tasks":
                self.sent.append((key, decode(TaskEnvelope, record.value)))
                self.tasks.append(self.sent[-1])
            elif kind == "control":
                self.controlled.append((key, decode(ControlEnvelope, record.value)))
                self.controls.append(self.controlled[-1])
            elif kind == "dead-letters":
                self.dead_letters.append(decode(DeadLetter, record.value))
            else:
                self.forwarded.append(record)

    def _journal(self, key: str, value: bytes | None) -> None:
        self.journal.pop(key, None)
        if value is not None:
            self.journal[key] = value

    # --- clients and agents --------------------------------------------------------------------

    def submit(
        self,
        plan: str,
        run_input: Any = None,
        run_id: str = "run-1",
        *,
        order_key: str | None = None,
        reused: dict[str, Payload] | None = None,
        pump: bool = True,
    ) -> None:
        data = encode_json({} if run_input is None else run_input)
        submission = Submission(
            plan, data, f"hash of {plan}{data!r}", run_id, "test", order_key, reused or {}
        )
        self.deliver(CoordinatorEnvelope(run_id, self.now_ms, submission), order_key or run_id)
        if pump:
            self.pump()

    def command(
        self, action: CommandAction, task_id: str | None = None, run_id: str = "run-1"
    ) -> Event:
        """Send a command; return the event that answered it."""
        command = Command("c1", action, task_id, "{}", "ann", "because")
        self.deliver(CoordinatorEnvelope(run_id, self.now_ms, command))
        seen = len(self.events)
        self.pump()
        return next(e for e in self.events[seen:] if e.command is not None)

    def answer(
        self,
        envelope: TaskEnvelope,
        output: Any = None,
        *,
        outcome: Outcome = Outcome.SUCCEEDED,
        failure: Failure | None = None,
        payload: Payload = None,
    ) -> TaskResult:
        """Send the end of an attempt; not pumped."""
        if outcome is Outcome.SUCCEEDED and payload is None:
            payload = encode_json(output)
        result = TaskResult(
            task_id=envelope.task_id,
            attempt=envelope.attempt,
            outcome=outcome,
            output=payload,
            failure=failure,
            steps=[],
            started_ms=self.now_ms,
            finished_ms=self.now_ms,
            resumes=0,
            instance="agent-1",
            build_id="b1",
        )
        self.deliver(CoordinatorEnvelope(envelope.run_id, self.now_ms, result), envelope.reply_key)
        return result

    def progress(self, envelope: TaskEnvelope, message: str) -> None:
        body = TaskProgress(envelope.task_id, envelope.attempt, message, 0.5)
        self.deliver(CoordinatorEnvelope(envelope.run_id, self.now_ms, body), envelope.reply_key)
        self.pump()

    def work_one(self, handler: Handler, index: int = 0) -> None:
        """Let an agent work one of the tasks that were sent, by the handler."""
        self.tasks.rotate(-index)
        _, envelope = self.tasks.popleft()
        self.tasks.rotate(index)
        try:
            output = handler(envelope)
        except Raised as raised:
            self.answer(envelope, outcome=Outcome.FAILED, failure=raised.failure)
        else:
            self.answer(envelope, output)

    def answer_cancels(self) -> None:
        """Let the agents answer each cancel, and each expiry of what they have not begun: the
        task's record is dropped, if it was not worked."""
        while self.controls:
            _, control = self.controls.popleft()
            if control.action not in (ControlAction.CANCEL, ControlAction.EXPIRE):
                continue
            mine = [e for _, e in self.tasks if self._is(e, control)]
            self.tasks = deque(t for t in self.tasks if not self._is(t[1], control))
            envelope = mine[0] if mine else self._sent(control)
            self.answer(envelope, outcome=Outcome.CANCELLED)

    @staticmethod
    def _is(envelope: TaskEnvelope, control: ControlEnvelope) -> bool:
        return (envelope.run_id, envelope.task_id) == (control.run_id, control.task_id)

    def _sent(self, control: ControlEnvelope) -> TaskEnvelope:
        return next(
            e for _, e in self.sent if self._is(e, control) and e.attempt == control.attempt
        )

    def work(self, handler: Handler, limit: int = 100_000) -> None:
        """Work and commit until no task and no cancel is left; retries come when time passes."""
        self.pump()
        for _ in range(limit):
            if self.controls:
                self.answer_cancels()
            elif self.tasks:
                self.work_one(handler)
            else:
                return
            self.pump()
        raise AssertionError(f"still at work after {limit} tasks")

    # --- what came out -------------------------------------------------------------------------

    def told(self, run_id: str = "run-1") -> list[str]:
        """Return what the events say, in short: `type` or `type task`."""
        return [
            f"{e.type} {e.task.task_id}" if e.task else str(e.type)
            for e in self.events
            if e.run_id == run_id
        ]

    def last_run(self, run_id: str = "run-1") -> Event:
        return [e for e in self.events if e.run is not None and e.run_id == run_id][-1]

    def output(self, run_id: str = "run-1") -> Any:
        event = self.last_run(run_id)
        assert event.run is not None
        assert event.type == "run.succeeded", f"{event.type}: {event.message}"
        return self.read(event.run.output)

    def read(self, payload: Payload) -> Any:
        if payload is None:
            return None
        data = self.blobs.blobs[payload.name] if isinstance(payload, BlobReference) else payload
        return decode_json(data)


class _Settings:
    """The settings of a coordinator with the limits of a test."""

    def __init__(self, settings: CoordinatorSettings, limits: EngineLimits) -> None:
        self._settings, self._limits = settings, limits

    def limits(self) -> EngineLimits:
        return self._limits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._settings, name)


def given(envelope: TaskEnvelope) -> Any:
    """Return the document that a task was given."""
    assert isinstance(envelope.input, bytes)
    return decode_json(envelope.input)
