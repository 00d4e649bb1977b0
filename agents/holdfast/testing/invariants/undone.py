"""What is undone before a run ends badly: a part of I7."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from holdfast.coordinator.engine import (
    CALLED,
    RUN_ENDS,
    TASK_ENDS,
    UNDOING,
    Graph,
    Graphs,
    call_id,
)
from holdfast.schemas.errors import HoldfastError
from holdfast.schemas.records import (
    Ask,
    CommandAction,
    Event,
    EventType,
    FailureKind,
    RunRow,
    RunState,
    TaskRow,
    TaskState,
    UndoAsk,
)
from holdfast.testing.history import Decoded, History
from holdfast.testing.invariants.verdict import Findings

__all__ = ["undone_in_reverse"]

_BAD_ENDS = (TaskState.FAILED, TaskState.CANCELLED, TaskState.SKIPPED)
Asked: TypeAlias = Decoded[Ask]


@dataclass(slots=True)
class _Story:
    """What the events of one run have told so far. `done`: what can be undone, the oldest first."""

    graph: Graph | None = None
    done: list[str] = field(default_factory=list)
    begun: dict[str, TaskState] = field(default_factory=dict)
    state: RunState | None = None
    said: bool | None = None
    """What a cancel said of it."""
    partial: bool = False
    steps: Mapping[str, Sequence[Asked]] = field(default_factory=dict)
    """What was said of steps that can be undone, by the ids of what undoes them."""
    tasks: dict[str, TaskState] = field(default_factory=dict)
    whole: bool = False
    """Whether the run's first event is among those that were read."""


def undone_in_reverse(history: History, found: Findings) -> None:
    """Check each run: what had succeeded and can be undone is undone, once, the last one first.

    Only in a run that is compensating, and only if plan or cancel want it; items of one map may be
    undone side by side. A run ends when all of it is over. (One that ends because its records
    cannot be written, and one of which only a part is to be undone, may leave some.)
    """
    graphs = Graphs(limit=1_000)
    steps = _steps(history)
    for run_id, events in history.events_of.items():
        story = _Story(steps=steps.get(run_id, {}))
        for event in events:
            _follow(run_id, story, event, graphs, found)


def _steps(history: History) -> dict[str, dict[str, list[Asked]]]:
    found: dict[str, dict[str, list[Asked]]] = defaultdict(lambda: defaultdict(list))
    for given in history.inputs:
        ask = given.body.body
        if not isinstance(ask, Ask) or not isinstance(ask.what, UndoAsk):
            continue
        if not history.misplaced(given.received):
            name = f"{UNDOING}{call_id(ask)}"
            found[given.body.run_id][name].append(Asked(given.received, ask))
    return found


def _follow(
    run_id: str, story: _Story, event: Decoded[Event], graphs: Graphs, found: Findings
) -> None:
    body = event.body
    try:
        if body.plan is not None:
            story.graph = graphs.get(body.plan)
            story.whole = True
        if body.revision is not None and story.graph is not None:
            story.graph = graphs.grown(story.graph, body.revision)
    except HoldfastError:
        return  # said where plans are looked at
    if body.type is EventType.COMMAND_ACCEPTED and body.command is not None:
        _commanded(story, body.command.action, body.command.arguments)
    if body.run is not None:
        story.state = body.run.state
        if body.run.state in RUN_ENDS and story.whole:
            _ended(run_id, story, body.run, event, found)
    if body.task is None or story.graph is None:
        return
    story.tasks[body.task.task_id] = body.task.state
    if body.task.task_id.startswith(UNDOING):
        _undoing(run_id, story, body.task, event, found)
    elif body.type is EventType.TASK_SUCCEEDED and _can_be_undone(story.graph, body.task):
        story.done.append(body.task.task_id)


def _commanded(story: _Story, action: CommandAction, arguments: str) -> None:
    if action is not CommandAction.CANCEL:
        return
    said = json.loads(arguments or "{}")
    story.partial = said.get("compensate_from") is not None
    story.said = True if story.partial else said.get("compensate")


def _can_be_undone(graph: Graph, row: TaskRow) -> bool:
    """Whether a success is one that is undone: of an attempt, of a run, or by an operator."""
    node = graph.nodes.get(row.task_id.partition(".")[0])
    if node is None or node.undo is None or (node.has_parts and row.task_id == node.id):
        return False
    return row.attempt > 0 or row.child is not None or row.ruling is not None


def _undoing(
    run_id: str, story: _Story, row: TaskRow, event: Decoded[Event], found: Findings
) -> None:
    undone = row.task_id.removeprefix(UNDOING)
    if row.task_id not in story.begun and undone.startswith(CALLED):
        _step_begins(run_id, story, row, event, found)
    elif row.task_id not in story.begun:
        found.looked("compensations")
        if story.state is not RunState.COMPENSATING:
            found.violated(
                f"{run_id}/{row.task_id} began in a run that is {story.state}", event.place
            )
        if undone not in story.done:
            if story.whole:
                found.violated(f"{run_id}/{row.task_id} undoes what had not succeeded", event.place)
        else:
            _in_turn(run_id, story, undone, event, found)
    story.begun[row.task_id] = row.state


def _step_begins(
    run_id: str, story: _Story, row: TaskRow, event: Decoded[Event], found: Findings
) -> None:
    found.looked("compensations of steps")
    name = f"{run_id}/{row.task_id}"
    owners = {noted.body.task_id for noted in story.steps.get(row.task_id, ())}
    if not owners and story.whole:
        found.violated(f"{name} undoes a step that was not done", event.place)
    in_bad_end = story.state is RunState.COMPENSATING
    if not in_bad_end and any(story.tasks.get(owner) not in _BAD_ENDS for owner in owners):
        found.violated(f"{name} undoes a step of a task that has not failed", event.place)


def _steps_left(story: _Story, row: RunRow, event: Decoded[Event]) -> list[str]:
    """Return which steps, noted before the run ended, should have been undone and were not."""
    cause = event.body.cause
    if story.graph is None or cause is None:
        return []
    left = []
    for name, noted in story.steps.items():
        owner = noted[0].body.task_id
        node = story.graph.nodes.get(owner.partition(".")[0])
        succeeded = story.tasks.get(owner) is TaskState.SUCCEEDED
        kept = succeeded and (row.state is RunState.SUCCEEDED or (node and node.undo is not None))
        late = all(given.received.offset >= cause.offset for given in noted)
        if name not in story.begun and not kept and not late:
            left.append(f"{owner}, step {noted[0].body.name}")
    return left


def _in_turn(
    run_id: str, story: _Story, undone: str, event: Decoded[Event], found: Findings
) -> None:
    later = story.done[story.done.index(undone) + 1 :]
    for other in later:
        state = story.begun.get(f"{UNDOING}{other}")
        same_map = "." in undone and other.partition(".")[0] == undone.partition(".")[0]
        if state is None and not story.partial:
            found.violated(
                f"{run_id}/{undone} is undone before {other!r}, which succeeded later", event.place
            )
        if state is not None and state not in TASK_ENDS and not same_map:
            found.violated(
                f"{run_id}/{undone} is undone while the undoing of {other!r} is {state}",
                event.place,
            )
    earlier = [
        name for name in story.done[: story.done.index(undone)] if f"{UNDOING}{name}" in story.begun
    ]
    if earlier:
        found.violated(f"{run_id}/{undone} is undone after {earlier[-1]!r}", event.place)


def _ended(run_id: str, story: _Story, row: RunRow, event: Decoded[Event], found: Findings) -> None:
    if row.state is RunState.SUCCEEDED:
        for step in _steps_left(story, row, event):
            found.violated(f"{run_id} succeeded, and {step!r} was not undone", event.place)
    if row.state is RunState.SUCCEEDED or story.graph is None:
        return
    for name, state in story.begun.items():
        if state not in TASK_ENDS:
            found.violated(f"{run_id} ended while {name!r} was {state}", event.place)
    broken = row.failure is not None and row.failure.kind is FailureKind.TOO_LARGE
    if story.partial or broken or not _wanted(story, row.state):
        return
    left = [name for name in story.done if f"{UNDOING}{name}" not in story.begun]
    left += _steps_left(story, row, event)
    found.looked("runs that ended badly with something to undo", bool(story.done))
    if left:
        found.violated(f"{run_id} ended, and {_shown(left)} not undone", event.place)


def _wanted(story: _Story, end: RunState) -> bool:
    on = "both" if story.graph is None else story.graph.compensate_on
    if end is RunState.CANCELLED:
        return story.said if story.said is not None else on in ("cancel", "both")
    return on in ("failure", "both")


def _shown(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:5]))
    return f"{shown} was" if len(names) == 1 else f"{shown} ({len(names)} in all) were"
