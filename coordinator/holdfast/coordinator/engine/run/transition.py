"""One event being taken by one run: what it sees, what it changes, what it says.

Everything below `engine/run` works on a `Transition`. It reads through the overlay, gathers the
effects, and counts the records that the event makes, so that none makes more than allowed: who
has more to do sets `more` and finds what is left in the state, when the continuation enters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from holdfast.coordinator.engine.counting import EVERY, PLANS, UNDOING
from holdfast.coordinator.engine.effects import (
    Effect,
    Emit,
    Park,
    Report,
    SendControl,
    SendTask,
    Tell,
)
from holdfast.coordinator.engine.graph import Graph, Node, call_node
from holdfast.coordinator.engine.graphs import Graphs
from holdfast.coordinator.engine.limits import EngineLimits
from holdfast.coordinator.engine.run.lists import EvaluatedLists, item_input
from holdfast.coordinator.engine.run.rows import copy_task_row, crowded, next_run, touch_run
from holdfast.coordinator.engine.state import Overlay
from holdfast.coordinator.engine.templates import MappingFailed, Template
from holdfast.coordinator.engine.values import Values
from holdfast.schemas.errors import HoldfastError
from holdfast.schemas.records import (
    Ask,
    AskRow,
    Cause,
    Command,
    ControlAction,
    ControlEnvelope,
    CoordinatorEnvelope,
    DeadLetter,
    DeadLetterReason,
    Event,
    EventType,
    Failure,
    Marker,
    Payload,
    PlanRevision,
    Reply,
    RunEnded,
    RunEntry,
    RunState,
    Signal,
    SourceSlot,
    Submission,
    TaskEntry,
    TaskEnvelope,
    TaskRow,
    TaskState,
)

__all__ = ["Scope", "Transition"]

SWEEPING = (RunState.CANCELLING, RunState.FAILING)
ENDING = (*SWEEPING, RunState.COMPENSATING)
STARTING = (RunState.RUNNING, RunState.WAITING, RunState.COMPENSATING)


@dataclass(frozen=True, slots=True)
class Scope:
    """What all transitions of an engine share."""

    limits: EngineLimits
    values: Values
    graphs: Graphs
    lists: EvaluatedLists


class Transition:
    """See the module's docstring."""

    __slots__ = (
        "_graph",
        "cause",
        "effects",
        "markers",
        "more",
        "now_ms",
        "overlay",
        "run_id",
        "scope",
    )

    def __init__(
        self, scope: Scope, run_id: str, overlay: Overlay, now_ms: int, cause: Cause | None
    ) -> None:
        self.scope = scope
        self.run_id = run_id
        self.overlay = overlay
        self.now_ms = now_ms
        self.cause = cause
        self.effects: list[Effect] = []
        self.markers: dict[str, Marker | None] = {}
        self.more = False
        self._graph: Graph | None = None

    # --- reading -------------------------------------------------------------------------------

    @property
    def run(self) -> RunEntry:
        """The run; it must exist."""
        entry = self.overlay.get("")
        assert isinstance(entry, RunEntry), f"there is no run {self.run_id}"
        return entry

    @property
    def graph(self) -> Graph:
        """Its plan, compiled."""
        if self._graph is None:
            self._graph = self._find_graph()
        return self._graph

    def _find_graph(self) -> Graph:
        run, graphs = self.run, self.scope.graphs
        if not run.plan_key:
            return graphs.get(run.plan)
        return graphs.version(self.plan_source, run.plan_key, self.revisions)

    @property
    def plan_source(self) -> str:
        """The plan as it was submitted."""
        return self.run.plan or self._revision(1).change

    def _revision(self, version: int) -> PlanRevision:
        return cast(PlanRevision, self.overlay.get(f"{PLANS}{version}"))

    def revisions(self) -> Iterator[PlanRevision]:
        """Yield the changes of the plan, in their order."""
        for version in range(2, self.run.row.plan_version + 1):
            yield self._revision(version)

    @property
    def ending(self) -> bool:
        """Whether it was decided that the run ends badly: nothing of its plan is begun any more."""
        return self.run.row.state in ENDING

    @property
    def sweeping(self) -> bool:
        """Whether all that is open is being ended."""
        return self.run.row.state in SWEEPING

    @property
    def compensating(self) -> bool:
        """Whether all is still, and what was done is being undone."""
        return self.run.row.state is RunState.COMPENSATING

    @property
    def starting(self) -> bool:
        """Whether tasks may be handed out."""
        return self.run.row.state in STARTING and not self._delayed()

    def _delayed(self) -> bool:
        """Whether the run is to start later. It begins by its timer alone, whoever comes first."""
        start_ms = self.run.row.start_ms
        if start_ms is None:
            return False
        return self.now_ms < start_ms or self.run.timer_ms == start_ms

    def task(self, task_id: str) -> TaskEntry | None:
        """Return a task, if anything was journaled of it."""
        entry = self.overlay.get(task_id)
        # Ids come from outside: one may name the run's own record, or a chunk of a list.
        return entry if isinstance(entry, TaskEntry) else None

    def node_of(self, task_id: str) -> Node:
        """Return the plan's node of a task or of an item, or what the plan says of undoing one."""
        entry = self.task(task_id)
        if entry is not None and entry.call is not None:
            return call_node(entry)
        if task_id.startswith(UNDOING):
            undo = self.graph.nodes[task_id.removeprefix(UNDOING).partition(".")[0]].undo
            assert undo is not None, f"{self.run_id}/{task_id} undoes nothing"
            return undo
        return self.graph.nodes[task_id.partition(".")[0]]

    def count(self, states: Iterable[TaskState], group: str = "") -> int:
        """Return how many tasks of the plan, or items of a map, are in one of `states`."""
        counted, found = self.overlay.count, 0
        for state in states:
            found += counted(group, state)
        return found

    def count_all(self, states: Iterable[TaskState]) -> int:
        """Return how many tasks, items too, are in one of `states`."""
        return self.count(states, EVERY)

    def room(self) -> int:
        """Return how many more records this event may make."""
        used = len(self.effects) + len(self.overlay.changes) + len(self.markers)
        return self.scope.limits.records_per_event - used

    def document(
        self,
        template: Template,
        bound: Mapping[str, Any] | None = None,
        *,
        node: Node | None = None,
    ) -> Mapping[str, Any]:
        """Return what a template is evaluated on: only what it reads is decoded.

        `bound`: the item, the round and what came before, where there are such. `node`: whose
        template it is; one that did not wait for all reads what had succeeded when it was started,
        however late that is asked for. Raises `MappingFailed` when a value it needs cannot be read.
        """
        document: dict[str, Any] = {}
        if template.input:
            document["input"] = self.readable("the run's input", self.run.row.input)
        if template.tasks:
            document["tasks"] = {
                name: self.readable(f"the output of task {name!r}", self._output(name, node))
                for name in template.tasks
            }
        for name in template.bound:
            document[name] = None if bound is None else bound.get(name)
        return document

    def _output(self, name: str, node: Node | None) -> Payload:
        entry = self.task(name)
        if entry is None or entry.row.state is not TaskState.SUCCEEDED:
            return None
        if node is not None and node.join != "all":
            started = self.task(node.id)
            if started is not None and name not in started.joined:
                return None
        return entry.row.output

    def readable(self, what: str, payload: Payload) -> Any:
        """Return a payload's document; `what` names it in the `MappingFailed` it may raise."""
        try:
            return self.scope.values.document(payload)
        except HoldfastError as error:
            raise MappingFailed(f"{what} cannot be read: {error}") from error

    # --- writing -------------------------------------------------------------------------------

    def put(self, entry: TaskEntry) -> None:
        """Set a task."""
        self.overlay.put(entry.row.task_id, entry)

    def move_run(self, state: RunState) -> RunEntry:
        """Set the run to a copy in `state`, and return it to be filled in."""
        entry = next_run(self.run, state)
        self.overlay.put("", entry)
        return entry

    def change_plan(self, revision: PlanRevision, graph: Graph) -> RunEntry:
        """Give the run another plan, and return its copy to be filled in."""
        entry = touch_run(self.run)
        if entry.plan:
            # The plan goes into a part of its own: the run's record is written with each change.
            first = PlanRevision(1, entry.plan, "", entry.row.created_ms)
            self.overlay.put(f"{PLANS}1", first)
            entry.plan = ""
        entry.row.plan_version = revision.version
        entry.plan_key = graph.key
        self.overlay.put("", entry)
        self.overlay.put(f"{PLANS}{revision.version}", revision)
        self._graph = graph
        return entry

    def emit_change(self, revision: PlanRevision, message: str) -> None:
        """Say what became of the plan."""
        kind, row = EventType.PLAN_CHANGED, self.run.row
        if crowded(row.input, revision.change.encode()):
            row = touch_run(self.run).row
            row.version, row.input = self.run.row.version, None  # it stands in the rows before
        event = Event(self.run_id, kind, self.now_ms, self.cause, row, None, message)
        event.revision = revision
        self._emit(event)

    def emit_run(self, kind: EventType, message: str = "", *, plan: str | None = None) -> None:
        """Say what the run is now."""
        row = self.run.row
        self._emit(Event(self.run_id, kind, self.now_ms, self.cause, row, None, message, plan))

    def emit_task(self, kind: EventType, row: TaskRow, message: str = "") -> None:
        """Say what a task is now; an item's row gets its input, which stands in the list."""
        if row.input is None and "." in row.task_id:
            payload = self.item_input(row.task_id)
            if not crowded(payload, row.output):
                row = copy_task_row(row)
                row.input = payload
        self._emit(Event(self.run_id, kind, self.now_ms, self.cause, None, row, message))

    def emit_ask(
        self, kind: EventType, row: AskRow, message: str = "", signal: Signal | None = None
    ) -> None:
        """Say what a task waits for, or that it does not any more."""
        event = Event(self.run_id, kind, self.now_ms, self.cause, None, None, message)
        event.ask, event.signal = row, signal
        self._emit(event)

    def emit_signal(self, kind: EventType, signal: Signal, message: str = "") -> None:
        """Say what became of a signal."""
        event = Event(self.run_id, kind, self.now_ms, self.cause, None, None, message)
        event.signal = signal
        self._emit(event)

    def emit_note(self, kind: EventType, message: str, command: Command | None = None) -> None:
        """Say something that changes nothing."""
        entry = self.overlay.get("")
        row = entry.row if isinstance(entry, RunEntry) else None
        self._emit(
            Event(self.run_id, kind, self.now_ms, self.cause, row, None, message, command=command)
        )

    def emit_answer(self, kind: EventType, message: str, events_from: int) -> None:
        """Answer a submission whose run id was used before."""
        entry = self.overlay.get("")
        row = entry.row if isinstance(entry, RunEntry) else None
        event = Event(self.run_id, kind, self.now_ms, self.cause, row, None, message)
        event.events_from = events_from
        self._emit(event)

    def _emit(self, event: Event) -> None:
        self.effects.append(Emit(event))

    def item_input(self, task_id: str) -> Payload:
        """Return the input of a map's item, from its list."""
        map_id, _, index = task_id.partition(".")
        return item_input(self.overlay, map_id, int(index), self.scope.limits.chunk_items)

    # --- speaking to agents --------------------------------------------------------------------

    def record_key(self, row: TaskRow) -> str:
        """Return the key of the task's records on its agent's topics."""
        if row.order_key is not None:
            return f"o:{row.order_key}"
        return f"t:{self.run_id}/{row.task_id}"

    def send_task(self, node: Node, row: TaskRow, payload: Payload) -> None:
        """Hand an attempt to its agent."""
        run, entry = self.run, self.task(row.task_id)
        envelope = TaskEnvelope(
            run_id=self.run_id,
            task_id=row.task_id,
            task=row.task,
            attempt=row.attempt,
            input=payload,
            reply_key=run.reply_key,
            origin=run.row.origin,
            sent_ms=self.now_ms,
            order_key=row.order_key,
            loose_order=node.loose_order,
            timeout_ms=node.timeout_ms,
            deadline_ms=None if self.compensating else run.row.deadline_ms,
            progress_timeout_ms=node.progress_timeout_ms,
            journal_from=0 if entry is None else entry.journal_from,
        )
        self.effects.append(SendTask(row.agent, self.record_key(row), envelope))

    def send_control(self, row: TaskRow, action: ControlAction, reason: str) -> None:
        """Tell the task's agent to cancel its newest attempt, or to forget the task."""
        envelope = ControlEnvelope(
            self.run_id,
            row.task_id,
            row.attempt,
            action,
            reason,
            self.run.reply_key,
            self.now_ms,
        )
        self.effects.append(SendControl(row.agent, self.record_key(row), envelope))

    def send_reply(self, row: TaskRow, ask: Ask, result: Payload, failure: Failure | None) -> None:
        """Answer an ask of a task."""
        reply = Reply(ask.name, ask.key, result, failure)
        self.send_control(row, ControlAction.REPLY, ask.name)
        sent = self.effects[-1]
        assert isinstance(sent, SendControl), "it was just added"
        sent.envelope.reply = reply

    def tell(self, key: str, run_id: str, body: Submission | Command) -> None:
        """Speak to another run, under its record key."""
        self.effects.append(Tell(key, CoordinatorEnvelope(run_id, self.now_ms, body)))

    def report(self, source: SourceSlot | None, state: RunState | None) -> None:
        """Tell the source that submitted the run, if one did, how it ended; None: it never was."""
        if source is not None:
            self.effects.append(Report(source, RunEnded(self.run_id, state, self.now_ms)))

    def release(self, row: TaskRow, reason: str) -> None:
        """Tell the agent to forget the task, if it was ever handed to it."""
        if row.attempt:
            self.send_control(row, ControlAction.RELEASE, reason)

    def park(self, row: TaskRow, reason: DeadLetterReason, failure: Failure) -> None:
        """Write a task to the dead letters."""
        payload = row.input
        if payload is None and "." in row.task_id:
            payload = self.item_input(row.task_id)
        letter = DeadLetter(
            dead_letter_id=f"{self.run_id}/{row.task_id}/{row.attempt}",
            reason=reason,
            failure=failure,
            run_id=self.run_id,
            task_id=row.task_id,
            agent=row.agent,
            task=row.task,
            attempt=row.attempt,
            input=payload,
            source=None,
            at_ms=self.now_ms,
        )
        self.effects.append(Park(letter))
