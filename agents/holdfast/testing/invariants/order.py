"""What comes before what: I7, I13."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from holdfast.coordinator.engine import Graph, Graphs
from holdfast.schemas.errors import HoldfastError
from holdfast.schemas.records import Event, EventType, Outcome, TaskEnvelope, TaskState
from holdfast.testing.evidence import BodyStart, Evidence, Excused
from holdfast.testing.history import Attempt, Decoded, History, Result
from holdfast.testing.invariants.results import excused
from holdfast.testing.invariants.verdict import Findings

__all__ = ["dependencies_first", "order_is_kept"]

FINISHED = frozenset({TaskState.SUCCEEDED, TaskState.SKIPPED})
BEGINS = frozenset({EventType.TASK_DISPATCHED, EventType.TASK_EXPANDED})


def dependencies_first(history: History, _evidence: Evidence, found: Findings) -> None:
    """A task starts only after all it depends on is committed.

    In the events of a run every `task.dispatched` and `task.expanded` stands behind the success
    (or skip) of each task that the plan lets it depend on; an item's behind those of its map, and
    behind its map's expansion. (That no body starts before its task record is committed, which is
    in one commit with that event, is I5.)
    """
    graphs = Graphs(limit=1_000)
    for run_id, events in history.events_of.items():
        graph: Graph | None = None
        states: dict[str, TaskState] = {}
        for event in events:
            body = event.body
            if body.plan is not None:
                graph = _graph(graphs, body.plan, event, found)
            if body.task is None:
                continue
            if body.type in BEGINS and graph is not None:
                _looked_for(graph, states, run_id, event, found)
            states[body.task.task_id] = body.task.state


def _graph(graphs: Graphs, plan: str, event: Decoded[Event], found: Findings) -> Graph | None:
    try:
        return graphs.get(plan)
    except HoldfastError as error:
        found.cannot(f"the plan at {event.place} cannot be read: {error}")
        return None


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
    for dependency in node.dependencies:
        found.looked("dependencies")
        if states.get(dependency) not in FINISHED:
            found.violated(
                f"{run_id}/{task_id} was started while {dependency!r} was "
                f"{states.get(dependency, TaskState.PENDING)}",
                event.place,
            )
    if item and states.get(name) is not TaskState.EXPANDED:
        found.violated(f"{run_id}/{task_id} was started before its map", event.place)


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
