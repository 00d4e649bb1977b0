"""What comes before what: I7, I13."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from holdfast.coordinator.engine import (
    CALLED,
    OPEN_TASK_STATES,
    TASK_ENDS,
    UNDOING,
    Graph,
    Graphs,
    Node,
    call_id,
)
from holdfast.schemas.errors import HoldfastError
from holdfast.schemas.records import (
    Ask,
    Event,
    EventType,
    Outcome,
    PlanRevision,
    TaskEnvelope,
    TaskRow,
    TaskState,
)
from holdfast.testing.evidence import BodyStart, Evidence, Excused
from holdfast.testing.history import Attempt, Decoded, History, Result
from holdfast.testing.invariants.emitted import handed_out_once
from holdfast.testing.invariants.results import excused
from holdfast.testing.invariants.undone import undone_in_reverse
from holdfast.testing.invariants.verdict import Findings

__all__ = ["dependencies_first", "order_is_kept"]

FINISHED = frozenset({TaskState.SUCCEEDED, TaskState.SKIPPED, TaskState.CANCELLED})
"""In a run that goes on, what a change of its plan cancelled counts as skipped."""
BEGINS = frozenset({EventType.TASK_DISPATCHED, EventType.TASK_EXPANDED})


def dependencies_first(history: History, _evidence: Evidence, found: Findings) -> None:
    """A task starts only after all it depends on is committed.

    In the events of a run every `task.dispatched` and `task.expanded` stands behind the success
    (or skip) of each task that the plan, as it is then, lets it depend on (of as many as its join
    asks for); an item's behind those of its map, and behind its map's expansion; a called task's
    behind the ask of its caller. A run succeeds when all tasks of its last plan have ended, items
    and rounds too, and none of those that no other waits for has failed. What had succeeded in one
    that ends badly is undone in reverse order, see `undone`; what a task hands out is taken once,
    see `emitted`. (That no body starts before its task record is committed, which is in one commit
    with that event, is I5.)
    """
    graphs = Graphs(limit=1_000)
    for run_id, events in history.events_of.items():
        graph: Graph | None = None
        states: dict[str, TaskState] = {}
        for event in events:
            body = event.body
            if body.plan is not None:
                graph = _graph(graphs, body.plan, event, found)
            if body.revision is not None:
                graph = _changed(graphs, graph, body.revision, event, found)
            if body.type is EventType.RUN_SUCCEEDED and graph is not None:
                _all_ended(graph, states, event, found)
            if body.task is None:
                continue
            if body.type in BEGINS and graph is not None:
                if body.task.task_id.startswith(UNDOING):
                    pass  # looked at below
                elif body.task.task_id.startswith(CALLED):
                    if not _folds(graph, states, body.task):
                        _called(history, event, found)
                else:
                    _looked_for(graph, states, run_id, event, found)
            states[body.task.task_id] = body.task.state
        if graph is not None and graph.emitters:
            handed_out_once(run_id, graph, events, found)
    undone_in_reverse(history, found)


def _graph(graphs: Graphs, plan: str, event: Decoded[Event], found: Findings) -> Graph | None:
    try:
        return graphs.get(plan)
    except HoldfastError as error:
        found.cannot(f"the plan at {event.place} cannot be read: {error}")
        return None


def _all_ended(
    graph: Graph, states: Mapping[str, TaskState], event: Decoded[Event], found: Findings
) -> None:
    found.looked("plans of runs that succeeded")
    for name in graph.nodes:
        state = states.get(name, TaskState.PENDING)
        if state not in TASK_ENDS:
            found.violated(f"{event.body.run_id} succeeded while {name!r} was {state}", event.place)
    for name in graph.sinks:
        if states.get(name) is TaskState.FAILED:
            found.violated(f"{event.body.run_id} succeeded although {name!r} failed", event.place)
    for task_id, state in states.items():
        # A task that a handler called may be about to end: its caller does not wait for it.
        if state in OPEN_TASK_STATES and not task_id.startswith(CALLED):
            found.violated(f"{event.body.run_id} left {task_id!r} {state}", event.place)


def _folds(graph: Graph, states: Mapping[str, TaskState], row: TaskRow) -> bool:
    """Whether a task that no plan has is one of the reducer of a map that is open."""
    return any(
        (reducer := graph.nodes[name].reducer) is not None
        and (reducer.agent, reducer.task) == (row.agent, row.task)
        and states.get(name) is TaskState.EXPANDED
        for name in graph.maps
    )


def _changed(
    graphs: Graphs,
    graph: Graph | None,
    revision: PlanRevision,
    event: Decoded[Event],
    found: Findings,
) -> Graph | None:
    if graph is None:
        return None
    found.looked("changes of plans")
    try:
        return graphs.grown(graph, revision)
    except HoldfastError as error:
        found.violated(f"{event.body.run_id}: its plan cannot be changed so: {error}", event.place)
        return None


def _called(history: History, event: Decoded[Event], found: Findings) -> None:
    """The first attempt of a called task follows from the ask of a handler, or, where that came in
    a pause, from what ended the pause."""
    row, cause = event.body.task, event.body.cause
    assert row is not None
    if row.attempt != 1:
        return
    found.looked("calls")
    given = None if cause is None else history.input_at.get((cause.partition, cause.offset))
    ask = None if given is None else given.body.body
    if isinstance(ask, Ask) and call_id(ask) == row.task_id:
        return
    if not any(
        given.body.run_id == event.body.run_id
        and isinstance(given.body.body, Ask)
        and call_id(given.body.body) == row.task_id
        for given in history.inputs
    ):
        found.violated(f"{event.body.run_id}/{row.task_id} was called by nobody", event.place)


def _looked_for(
    graph: Graph,
    states: Mapping[str, TaskState],
    run_id: str,
    event: Decoded[Event],
    found: Findings,
) -> None:
    assert event.body.task is not None
    task_id = event.body.task.task_id
    name, item, _ = task_id.partition(".")
    node = graph.nodes.get(name)
    if node is None:
        found.violated(f"{run_id}/{task_id} is not in the plan", event.place)
        return
    found.looked("starts")
    if node.join != "all":
        _joined(node, states, event, found)
    for dependency in node.dependencies:
        found.looked("dependencies")
        if node.arrives_from == dependency and dependency in states:
            continue  # it hands out the items while it works
        if node.join == "all" and states.get(dependency) not in FINISHED:
            found.violated(
                f"{run_id}/{task_id} was started while {dependency!r} was "
                f"{states.get(dependency, TaskState.PENDING)}",
                event.place,
            )
    if item and states.get(name) is not TaskState.EXPANDED:
        found.violated(f"{run_id}/{task_id} was started before its map", event.place)


def _joined(
    node: Node, states: Mapping[str, TaskState], event: Decoded[Event], found: Findings
) -> None:
    """A task that does not wait for all starts when it has what it needs."""
    found.looked("joins")
    known = [states.get(name) for name in node.dependencies]
    succeeded = known.count(TaskState.SUCCEEDED)
    needed = node.join if isinstance(node.join, int) else 1
    failed = known.count(TaskState.FAILED) if node.join == "any" else 0
    if succeeded + failed < needed:
        found.violated(
            f"{event.body.run_id}/{node.id} was started when {succeeded} of "
            f"{len(known)} had succeeded (join: {node.join})",
            event.place,
        )


# --- I13 ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Turn:
    """One task among those of its order key at one agent."""

    task: Decoded[TaskEnvelope]
    attempts: list[Attempt] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.task.body.run_id}/{self.task.body.task_id}"

    def begun_ms(self, starts: Mapping[tuple[str, str], list[BodyStart]]) -> int | None:
        """When the first body that is known of began."""
        body = self.task.body
        seen = [start.at_ms for start in starts.get((body.run_id, body.task_id), ())]
        told = [r.body.started_ms for r in self.results if r.body.outcome is not Outcome.CANCELLED]
        return min(seen + told, default=None)

    def never_began(self, starts: Mapping[tuple[str, str], list[BodyStart]]) -> bool:
        """Tell whether it was cancelled before any body of it: there is nothing to wait for.

        Under `loose` only the attempt counts that the next one waits for.
        """
        end = self.end()
        if not self.task.body.loose_order or end is None:
            cancelled = any(r.body.outcome is Outcome.CANCELLED for r in self.results)
            return cancelled and self.begun_ms(starts) is None
        body = self.task.body
        bodies = starts.get((body.run_id, body.task_id), ())
        return end.body.outcome is Outcome.CANCELLED and all(
            start.attempt != end.body.attempt for start in bodies
        )

    def end(self) -> Result | None:
        """The result that lets the next one begin: of the last attempt; under `loose` the first."""

        def by_attempt(result: Result) -> tuple[int, int]:
            return result.body.attempt, result.body.finished_ms

        if self.task.body.loose_order:
            return min(self.results, key=by_attempt, default=None)
        results = [r for r in self.results if r.body.outcome is Outcome.SUCCEEDED]
        if not results:
            last = max(attempt.attempt for attempt in self.attempts)
            results = [r for r in self.results if r.body.attempt == last]
        return max(results, key=by_attempt, default=None)


def order_is_kept(history: History, evidence: Evidence, found: Findings) -> None:
    """Per order key, work happens in the order handed over, at each agent and across agents.

    At an agent: of two tasks of one key, in the order of their first records in the task topic, the
    second begins only after the last attempt of the first has ended (`loose`: its first attempt).
    Begins: the first body in the evidence, or what the results say; ends: what the result says, by
    commit where commits are known. Across agents: runs of one plan with one order key of the plan
    are started in the order of their submissions, and each task of theirs is handed over in that
    order (runs that were paused, cancelled, skipped a task or wait for people apart: they let
    others pass by right).
    """
    _across_agents(history, found)
    if history.commits is None and any(row.process == "*" for row in evidence.of(Excused)):
        found.cannot("clocks jumped: what began before what is not known")
        return
    starts: dict[tuple[str, str], list[BodyStart]] = defaultdict(list)
    for start in evidence.of(BodyStart):
        if start.step is None and not excused(evidence, start):
            starts[start.run_id, start.task_id].append(start)
    for agent in history.agents:
        for key, turns in _turns(history, agent).items():
            _in_turn(history, f"{agent} {key!r}", turns, starts, found)


def _turns(history: History, agent: str) -> dict[str, list[_Turn]]:
    """Return the tasks of each order key in the order of their first records."""
    by_key: dict[str, dict[tuple[str, str], _Turn]] = defaultdict(dict)
    for task in history.tasks(agent):
        body = task.body
        if body.order_key is None or history.misplaced(task.received):
            continue
        turn = by_key[body.order_key].setdefault((body.run_id, body.task_id), _Turn(task))
        attempt = Attempt(body.run_id, body.task_id, body.attempt)
        if attempt not in turn.attempts:
            turn.attempts.append(attempt)
            turn.results += history.results.get(attempt, ())
    return {key: list(turns.values()) for key, turns in by_key.items()}


def _in_turn(
    history: History,
    where: str,
    turns: Sequence[_Turn],
    starts: Mapping[tuple[str, str], list[BodyStart]],
    found: Findings,
) -> None:
    for before, turn in pairwise(turns):
        found.looked("pairs of tasks")
        begun_ms = turn.begun_ms(starts)
        if begun_ms is None or before.never_began(starts):
            continue
        end = before.end()
        if end is None and not history.whole(history.topics.coordinator):
            found.cannot("results are missing: when tasks of one order key ended")
        elif end is None:
            found.violated(f"{turn.name} began while {before.name} has not ended", where)
        elif history.commits is not None:
            _by_commit(history, where, before, turn, starts, found)  # clocks may be wrong
        elif begun_ms < end.body.finished_ms:
            found.violated(
                f"{turn.name} began at {begun_ms} ms, before {before.name} ended at "
                f"{end.body.finished_ms} ms ({end.place})",
                where,
            )


def _by_commit(
    history: History,
    where: str,
    before: _Turn,
    turn: _Turn,
    starts: Mapping[tuple[str, str], list[BodyStart]],
    found: Findings,
) -> None:
    end = before.end()
    if history.commits is None or end is None:
        return
    ended = history.commit_at.get(end.received.position)
    body = turn.task.body
    for start in starts.get((body.run_id, body.task_id), ()):
        if start.after_commit is None or ended is None:
            continue
        found.looked("starts by commit")
        if start.after_commit <= ended:
            found.violated(
                f"{turn.name} began after {start.after_commit} commits; the end of {before.name} "
                f"is commit {ended}",
                where,
            )


@dataclass(slots=True)
class _OrderedRun:
    """What is known of a run whose plan has an order key."""

    run_id: str
    submitted: int
    started: int
    place: str
    tasks: set[str]


_LETS_PASS = frozenset(
    {
        EventType.RUN_PAUSED,
        EventType.RUN_WAITING,
        EventType.RUN_CANCELLING,
        EventType.RUN_FAILING,
        EventType.TASK_SKIPPED,
        EventType.TASK_DEAD,
        EventType.COMMAND_ACCEPTED,
    }
)


def _across_agents(history: History, found: Findings) -> None:
    by_key: dict[tuple[str, str], list[_OrderedRun]] = defaultdict(list)
    for run_id, events in history.events_of.items():
        first = next((e for e in events if e.body.type is EventType.RUN_STARTED), None)
        if first is None or first.body.run is None or first.body.cause is None:
            continue
        key = first.body.run.order_key
        if key is None:
            continue
        tasks = _tasks_in_order(events, key)
        if tasks is None:
            continue
        run = _OrderedRun(
            run_id, first.body.cause.offset, first.received.offset, first.place, tasks
        )
        by_key[key, first.body.plan or ""].append(run)
    places = _first_records(history, {r.run_id for runs in by_key.values() for r in runs})
    for (key, _), runs in by_key.items():
        runs.sort(key=lambda run: run.submitted)
        _pass_in_order(key, runs, places, found)


def _tasks_in_order(events: Iterable[Decoded[Event]], key: str) -> set[str] | None:
    """Return the tasks of a run; None where others may pass it."""
    tasks: set[str] = set()
    for event in events:
        if event.body.type in _LETS_PASS:
            return None
        row = event.body.task
        if row is not None and event.body.type is EventType.TASK_DISPATCHED:
            if row.order_key != key:
                return None
            tasks.add(row.task_id)
    return tasks


def _first_records(
    history: History, run_ids: set[str]
) -> dict[tuple[str, str], tuple[int, bool, str]]:
    """Return where the first record of each task of these runs stands, and whether it is loose."""
    found: dict[tuple[str, str], tuple[int, bool, str]] = {}
    for attempt, tasks in history.attempts.items():
        if attempt.attempt == 1 and attempt.run_id in run_ids:
            task = tasks[0][1]
            name = (attempt.run_id, attempt.task_id)
            found[name] = (task.received.offset, task.body.loose_order, task.place)
    return found


def _pass_in_order(
    key: str,
    runs: Sequence[_OrderedRun],
    places: Mapping[tuple[str, str], tuple[int, bool, str]],
    found: Findings,
) -> None:
    for before, run in pairwise(runs):
        found.looked("pairs of runs")
        if run.started < before.started:
            found.violated(f"{run.run_id} was started before {before.run_id}", run.place)
        for task_id in before.tasks & run.tasks:
            first = places.get((before.run_id, task_id))
            second = places.get((run.run_id, task_id))
            if first is None or second is None or first[1]:
                continue
            found.looked("tasks across agents")
            if second[0] < first[0]:
                found.violated(
                    f"order key {key!r}: {run.run_id}/{task_id} was handed over before "
                    f"{before.run_id}/{task_id}",
                    second[2],
                )
