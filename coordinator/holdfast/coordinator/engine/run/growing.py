"""Changes of a run's plan by its own tasks. See docs/adr/0010.

What can be checked without the state (references, cycles, bounds) the graph checks as it grows;
what has been started is known here. A change is taken as a whole or not at all: all checks come
before the first write. What it entails (skips, cancels, starts) may take more than one event, and
is found in the graph and the tasks' states by each of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from holdfast.coordinator.engine.inputs import Arrival
from holdfast.coordinator.engine.run.arriving import has_emitted
from holdfast.coordinator.engine.run.asks import answer, take_ask
from holdfast.coordinator.engine.run.dropping import DROPPED_RECORDS, drop
from holdfast.coordinator.engine.run.ending import settle
from holdfast.coordinator.engine.run.failing import failure_of
from holdfast.coordinator.engine.run.starting import advance, carry_on, fail_node
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.coordinator.engine.states import TASK_ENDS
from holdfast.schemas.codec import encode_json
from holdfast.schemas.errors import PlanError
from holdfast.schemas.plan import TaskNode
from holdfast.schemas.plan_checks import emitter_of
from holdfast.schemas.plan_versions import ResolvedChange
from holdfast.schemas.records import (
    Ask,
    FailureKind,
    PlanRevision,
    TaskState,
)
from holdfast.schemas.resolution import ResolvedPlan

__all__ = ["cancel_tasks", "on_plan_ask"]

TEXTS_MAX = 8
_MARKS: dict[str, Any] = {"added_by": None, "dropped": None}
"""What plans say of changes that were made, and no change says."""


def on_plan_ask(t: Transition, arrival: Arrival, ask: Ask) -> None:
    """Change the plan, or say why it cannot be changed so; the answer is the plan's version."""
    entry = take_ask(t, arrival, ask)
    if entry is None:
        return
    resolved = arrival.resolved
    assert isinstance(resolved, ResolvedChange), "the service has resolved it"
    try:
        change = _effective(t, ask, resolved)
        if change.change:
            _take(t, ask, change)
    except PlanError as error:
        answer(t, entry, None, failure_of(FailureKind.SCHEMA, str(error)))
        return
    answer(t, entry, encode_json(t.run.row.plan_version))
    cancel_tasks(t, change.change.cancel)
    advance(t, [*change.change.nodes, *change.change.dropped])
    _fail_by_dropped(t, change.change.dropped)
    settle(t)


def _fail_by_dropped(t: Transition, dropped: Iterable[str]) -> None:
    """Fail the run by what had failed, if those that could have gone on without it are dropped."""
    names = dict.fromkeys(n for each in dropped for n in t.graph.nodes[each].dependencies)
    for name in names:
        entry = t.task(name)
        if entry is not None and entry.row.failure is not None:
            fail_node(t, entry, entry.row.failure)


def _take(t: Transition, ask: Ask, resolved: ResolvedChange) -> None:
    """Make the next version of the plan; raises `PlanError` before anything is written."""
    version = t.run.row.plan_version + 1
    revision = PlanRevision(version, resolved.to_json(), ask.task_id, t.now_ms)
    entry = t.change_plan(revision, t.scope.graphs.grown(t.graph, revision))
    gone = {*resolved.change.replace, *resolved.change.dropped}
    if not gone.isdisjoint(entry.reused):
        # The output that a fork took over is that of the task as it was before.
        entry.reused = {name: each for name, each in entry.reused.items() if name not in gone}
    t.emit_change(revision, _told(ask.task_id, resolved))


def _told(task_id: str, resolved: ResolvedChange) -> str:
    change = resolved.change
    counts = {
        "added": len(change.add),
        "replaced": len(change.replace),
        "skipped": len(change.skip),
        "cancelled": len(change.cancel),
    }
    return f"{task_id}: " + ", ".join(f"{n} {what}" for what, n in counts.items() if n)


# --- checks ------------------------------------------------------------------------------------


def _effective(t: Transition, ask: Ask, resolved: ResolvedChange) -> ResolvedChange:
    """Return a change without what is so already; raises `PlanError` for what has begun.

    What is said twice is no mistake: a planner that is worked again in a fork says all of it again.
    """
    task = t.task(ask.task_id)
    if task is not None and task.row.state is TaskState.CANCELLING:
        raise PlanError(f"task {ask.task_id!r} is being cancelled: it changes the plan no more")
    change = resolved.change
    _check_emitters(t, change.nodes)
    so = [name for name, node in change.add.items() if _stands(t, name, node)]
    for name, node in change.replace.items():
        if _stands(t, name, node):
            so.append(name)
        else:
            _check_untouched(t, name, "replaced")
    for name in change.skip:
        if _dropped(t, name):
            so.append(name)
        else:
            _check_untouched(t, name, "skipped")
    for name in change.cancel:
        if name == ask.task_id.partition(".")[0]:
            raise PlanError(f"task {name!r} cannot cancel itself: let it return, or raise `Fatal`")
        entry = t.task(name)
        if _dropped(t, name) or (entry is not None and entry.row.state in TASK_ENDS):
            so.append(name)
    return resolved.without(so)


def _check_emitters(t: Transition, nodes: Mapping[str, TaskNode]) -> None:
    """Refuse a new map over items of which some were handed out before: nobody has kept those."""
    for name, spec in nodes.items():
        emitter = None if spec.map is None else emitter_of(spec.map.over)
        if emitter is not None and has_emitted(t, emitter) and not _stands(t, name, spec):
            raise PlanError(
                f"task {name!r}: over: task {emitter!r} has handed out items already, which it"
                " would not get: let the map be in the plan before the task begins"
            )


def _stands(t: Transition, name: str, node: TaskNode) -> bool:
    """Whether the plan has this very task, word for word."""
    known = t.graph.nodes.get(name)
    if known is None or known.dropped is not None:
        return False
    found = _plan(t.plan_source).plan.tasks.get(name)
    for revision in t.revisions():
        if f'"{name}"' in revision.change:  # to read all of them takes long
            found = _change(revision.change).change.nodes.get(name, found)
    return found is not None and found.model_copy(update=_MARKS) == node.model_copy(update=_MARKS)


# A planner that is worked again says a thousand times what stands: each is looked up in the same
# few texts, and to read one takes 50 ms.
@lru_cache(maxsize=TEXTS_MAX)
def _plan(text: str) -> ResolvedPlan:
    return ResolvedPlan.from_json(text)


@lru_cache(maxsize=TEXTS_MAX)
def _change(text: str) -> ResolvedChange:
    return ResolvedChange.from_json(text)


def _dropped(t: Transition, name: str) -> bool:
    node, entry = t.graph.nodes.get(name), t.task(name)
    if entry is not None and entry.row.state is TaskState.SKIPPED:
        return True
    return node is not None and node.dropped is not None


def _check_untouched(t: Transition, name: str, what: str) -> None:
    entry = t.task(name)
    node = t.graph.nodes.get(name)
    state = None if entry is None else str(entry.row.state)
    if node is not None and node.dropped is not None:
        state = state or "taken out of the plan"
    if state is not None:
        raise PlanError(
            f"task {name!r} is {state}: only a task that has not been started can be {what}; add"
            " one with another id, or cancel it"
        )


# --- cancelling --------------------------------------------------------------------------------


def cancel_tasks(t: Transition, names: Iterable[str]) -> None:
    """Let tasks end that changes of the plan cancelled; what does not fit is left for later."""
    for name in names:
        node, entry = t.graph.nodes[name], t.task(name)
        if entry is None:
            continue  # it is skipped, when its turn comes
        if t.room() < DROPPED_RECORDS + t.scope.limits.reserve:
            t.more = True
            return
        if entry.row.state not in TASK_ENDS:
            drop(t, entry, FailureKind.CANCELLED)
            if not node.has_parts and _ended(t, name):
                advance(t, node.dependants)
        if node.has_parts:
            carry_on(t, node)


def _ended(t: Transition, name: str) -> bool:
    entry = t.task(name)
    return entry is not None and entry.row.state in TASK_ENDS
