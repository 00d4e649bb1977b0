"""A slot in memory: a task topic, a control topic, a journal, and commits one at a time.

`commit` collects and acknowledges. `collect` and `acknowledge` do each half, so that a test can
crash in between: `crash` drops the machine, and keeps or loses the commit that was under way.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from holdfast.agents import Agent
from holdfast.agents.circuits import Circuits
from holdfast.agents.execution import Handler, Tools
from holdfast.agents.keyed_state import StateTypes
from holdfast.agents.ledger import Identity
from holdfast.agents.machine import AgentMachine, AgentSetup
from holdfast.agents.metrics import AgentMetrics
from holdfast.agents.payloads import Payloads
from holdfast.agents.places import Places
from holdfast.agents.published import PublishedTopics
from holdfast.agents.wire import AgentTopics
from holdfast.bus.errors import Rejected
from holdfast.bus.port import Bus, Environment, Received, Record, RunBlocking, Slot
from holdfast.bus.registry import Registry
from holdfast.bus.slot.machine import Commit, Opened
from holdfast.schemas import (
    Compatibility,
    DoesNotFit,
    Unencodable,
    check_compatible,
    decode,
    encode,
)
from holdfast.schemas.records import (
    AgentJournal,
    BlobReference,
    ControlAction,
    ControlEnvelope,
    CoordinatorEnvelope,
    StateDeletion,
    TaskEnvelope,
    TaskProgress,
    TaskResult,
)
from tests.unit.agents.virtual import START_MS

TOPICS = AgentTopics("ns.tasks.worker", "ns.control.worker", "ns.coordinator", "ns.dead-letters")
SLOT = Slot("ns.worker", 0)


class JsonCodec:
    """A model as JSON, with five bytes in front, like the frame."""

    def __init__(self, model: type[BaseModel] | None) -> None:
        self._model = model

    def encode(self, value: Any) -> bytes:
        if self._model is None:
            return b"\0\0\0\0\0null"
        if not isinstance(value, self._model):
            raise Unencodable(f"{value!r} is no {self._model.__name__}")
        return b"\0\0\0\0\0" + value.model_dump_json().encode()

    def decode(self, data: bytes) -> Any | None:
        if self._model is None:
            return False
        try:
            return self._model.model_validate_json(data[5:])
        except ValidationError as error:
            raise DoesNotFit(str(error)) from None

    async def learn(self, data: bytes) -> None:
        raise AssertionError("never asked")


class AnyTopic:
    """A bus that has every topic."""

    async def describe_topics(self, names: Collection[str]) -> dict[str, None]:
        return dict.fromkeys(names)


class MemoryBlobs:
    """A blob store that never fails."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    async def put(self, run_id: str, data: bytes) -> BlobReference:
        name = f"{run_id}/{len(self.blobs)}"
        self.blobs[name] = data
        return BlobReference(name, len(data))

    async def get(self, reference: BlobReference) -> bytes:
        return self.blobs[reference.name]


class MemoryRegistry(Registry):
    """A schema registry of one test."""

    def __init__(self) -> None:
        self.schemas: list[Any] = []
        self.newest: dict[str, Any] = {}

    def known(self, schema_id: int) -> Any | None:
        return self.schemas[schema_id - 1000]

    async def register(
        self, subject: str, schema: Any, mode: Compatibility = Compatibility.BACKWARD
    ) -> int:
        before = self.newest.get(subject)
        if before is not None:
            check_compatible(before, schema, mode, subject=subject, old_version=1)
        self.newest[subject] = schema
        if schema not in self.schemas:
            self.schemas.append(schema)
        return 1000 + self.schemas.index(schema)


@dataclass
class Log:
    """What stays when a process dies."""

    tasks: list[Received] = field(default_factory=list)
    control: list[Received] = field(default_factory=list)
    journal: list[tuple[str, bytes | None]] = field(default_factory=list)
    offsets: dict[str, int] = field(default_factory=lambda: {TOPICS.tasks: 0, TOPICS.control: 0})
    written: list[Record] = field(default_factory=list)
    commits: int = 0


class FakeControl:
    """What a machine asks of its slot."""

    def __init__(self, refuse: Callable[[Record], bool]) -> None:
        self.woken = False
        self.proofs = 0
        self.refuse = refuse
        self.before_proof: Callable[[], None] = lambda: None
        self.elsewhere: set[bytes] = set()

    @property
    def slot(self) -> Slot:
        return SLOT

    def wake(self) -> None:
        self.woken = True

    def journal(self, key: str, value: bytes | None) -> Record:
        return Record("journal", key.encode(), value, (), 0)

    def check(self, record: Record) -> None:
        if self.refuse(record):
            raise Rejected(record, "it is too large")

    def owns(self, key: bytes) -> bool:
        return key not in self.elsewhere

    def misplaced(self, received: Received) -> Record | None:
        if received.key is None or self.owns(received.key):
            return None
        return Record(received.topic, received.key, received.value, received.headers)

    async def confirm(self) -> None:
        return

    async def prove(self) -> None:
        self.before_proof()
        self.proofs += 1


def _blocking_inline(call: Callable[[], Any]) -> Any:
    async def run() -> Any:
        return call()

    return run()


class FakeSlot:
    """One slot of one process; `boot` starts it, `crash` ends it, the log stays."""

    def __init__(
        self,
        agent: Agent,
        *,
        threads: RunBlocking | None = None,
        concurrency: int | None = None,
    ) -> None:
        self.agent = agent
        self.log = Log()
        self.blobs = MemoryBlobs()
        self.registry = MemoryRegistry()
        self.refuse: Callable[[Record], bool] = lambda record: False
        self.concurrency = concurrency or agent.concurrency
        self.run_blocking = threads or cast(RunBlocking, _blocking_inline)
        self.under_way: Commit | None = None
        self.machine: AgentMachine
        self.control: FakeControl
        self.places: Places
        self._read = {TOPICS.tasks: 0, TOPICS.control: 0}

    def boot(self, *, clean: bool = False, places: Places | None = None) -> None:
        loop = asyncio.get_running_loop()
        environment = Environment(
            bus=cast(Bus, None),
            now_ms=lambda: START_MS + round(loop.time() * 1000),
            monotonic=loop.time,
            run_blocking=self.run_blocking,
        )
        self.places = places or Places(self.concurrency)
        handlers = {
            name: Handler(
                task,
                JsonCodec(cast(Any, task.input_type)),
                JsonCodec(cast(Any, task.output_type)),
            )
            for name, task in self.agent.tasks.items()
        }
        setup = AgentSetup(
            self.agent.name,
            Identity("worker-1", "build-1"),
            TOPICS,
            handlers,
            Tools(
                environment,
                Payloads(self.blobs),
                PublishedTopics(cast(Bus, AnyTopic())),
                cast(Any, None),
                StateTypes(self.agent.name, self.registry, self.agent.state),
            ),
            self.places,
            AgentMetrics(self.agent.name),
            Circuits(environment, self.agent.name, self.places.offer),
            self.agent.breaker,
        )
        self.control = FakeControl(lambda record: self.refuse(record))
        self.machine = AgentMachine(setup, self.control)
        for key, value in self.log.journal:
            self.machine.restore(key, value)
        self._read = dict(self.log.offsets)
        self.machine.opened(Opened(dict(self.log.offsets), clean, environment.now_ms()))
        self.deliver()

    def deliver(self) -> None:
        """Hand over what was sent and not read yet."""
        for topic, log in ((TOPICS.control, self.log.control), (TOPICS.tasks, self.log.tasks)):
            fresh = log[self._read[topic] :]
            self._read[topic] = len(log)
            if fresh:
                self.machine.receive(fresh)

    def crash(self, *, keep: bool = False) -> None:
        """The process dies; the commit under way had happened (`keep`), or not."""
        commit, self.under_way = self.under_way, None
        if commit is not None and keep:
            self._write(commit)
        self.machine.lost()

    # --- commits -------------------------------------------------------------------------------

    def collect(self) -> bool:
        assert self.under_way is None
        self.machine.due(self._now_ms())
        self.under_way = self.machine.collect(self._now_ms())
        return self.under_way is not None

    def acknowledge(self) -> None:
        commit, self.under_way = self.under_way, None
        assert commit is not None
        self._write(commit)
        for change in commit.changes:
            change.apply()

    def commit(self) -> bool:
        if not self.collect():
            return False
        self.acknowledge()
        return True

    def _write(self, commit: Commit) -> None:
        self.log.commits += 1
        for change in commit.changes:
            for record in change.records:
                if record.topic == "journal":
                    assert record.key is not None
                    self.log.journal.append((record.key.decode(), record.value))
                else:
                    self.log.written.append(record)
        for topic, offset in commit.offsets.items():
            assert offset >= self.log.offsets[topic]
            self.log.offsets[topic] = offset

    async def settle(self, rounds: int = 50) -> None:
        """Let handlers run as far as they come, without a commit and without time passing."""
        for _ in range(rounds):
            await asyncio.sleep(0)

    async def work(self, until: Callable[[], bool] = lambda: False, seconds: float = 0.0) -> None:
        """Commit whenever something waits, until `until()`, or for `seconds` of the loop's time."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not until():
            await self.settle()
            if until():
                return
            if self.commit():
                continue
            if loop.time() >= end:
                return
            await asyncio.sleep(min(0.01, max(0.0, end - loop.time())))

    # --- records -------------------------------------------------------------------------------

    def send(
        self,
        task: str,
        task_id: str = "t",
        *,
        run_id: str = "r",
        attempt: int = 1,
        deliver: bool = True,
        value: BaseModel | None = None,
        **more: Any,
    ) -> TaskEnvelope:
        payload = b"\0\0\0\0\0" + (value.model_dump_json().encode() if value else b"{}")
        envelope = TaskEnvelope(
            run_id, task_id, task, attempt, payload, run_id, run_id, self._now_ms(), **more
        )
        self.append(TOPICS.tasks, encode(envelope))
        if deliver:
            self.deliver()
        return envelope

    def append(self, topic: str, value: bytes | None, headers: Any = (), key: bytes = b"k") -> None:
        log = self.log.tasks if topic == TOPICS.tasks else self.log.control
        log.append(Received(topic, 0, len(log), key, value, headers, self._now_ms()))

    def delete_state(self, order_key: str, name: str | None = None) -> None:
        """Have what is kept under an order key deleted."""
        deletion = StateDeletion("d", order_key, name, "ada", "she asked", 0)
        control = ControlEnvelope("", "", 0, ControlAction.DELETE_STATE, "", "", 0, None, deletion)
        self.append(TOPICS.control, encode(control), key=b"o:" + order_key.encode())
        self.deliver()

    def tell(
        self, action: ControlAction, task_id: str = "t", *, attempt: int = 1, run_id: str = "r"
    ) -> None:
        control = ControlEnvelope(run_id, task_id, attempt, action, "because", run_id, 0)
        self.append(TOPICS.control, encode(control))
        self.deliver()

    # --- what came of it -----------------------------------------------------------------------

    @property
    def results(self) -> list[TaskResult]:
        return [b for b in self._coordinator() if isinstance(b, TaskResult)]

    @property
    def progress(self) -> list[TaskProgress]:
        return [b for b in self._coordinator() if isinstance(b, TaskProgress)]

    def result(self, task_id: str = "t", attempt: int = 1) -> TaskResult:
        found = [r for r in self.results if (r.task_id, r.attempt) == (task_id, attempt)]
        assert len(found) == 1, f"{len(found)} results of {task_id}#{attempt}"
        return found[0]

    def output(self, task_id: str = "t", attempt: int = 1) -> Any:
        output = self.result(task_id, attempt).output
        assert isinstance(output, bytes)
        return json.loads(output[5:])

    @property
    def journal(self) -> dict[str, Any]:
        """The journal as compaction leaves it: key to body."""
        newest: dict[str, Any] = {}
        for key, value in self.log.journal:
            newest.pop(key, None)
            if value is not None:
                newest[key] = decode(AgentJournal, value).body
        return newest

    @property
    def deletions(self) -> list[StateDeletion]:
        """What the audit trail is told."""
        return [b for b in self._coordinator() if isinstance(b, StateDeletion)]

    def _coordinator(self) -> list[Any]:
        return [
            decode(CoordinatorEnvelope, record.value or b"").body
            for record in self.log.written
            if record.topic == TOPICS.coordinator
        ]

    def _now_ms(self) -> int:
        return START_MS + round(asyncio.get_running_loop().time() * 1000)
