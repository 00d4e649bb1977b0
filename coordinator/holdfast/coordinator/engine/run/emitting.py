"""What comes of items that a handler hands out: checked, and given to the maps over them."""

from __future__ import annotations

from holdfast.coordinator.engine.inputs import Arrival
from holdfast.coordinator.engine.run.arriving import (
    ARRIVING_MAX,
    answer_taken,
    emission_of,
    takers,
)
from holdfast.coordinator.engine.run.asks import answer, ask_name, take_ask
from holdfast.coordinator.engine.run.ending import settle
from holdfast.coordinator.engine.run.failing import failure_of
from holdfast.coordinator.engine.run.starting import advance
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.schemas.records import (
    EMIT_ITEMS_MAX,
    EMIT_NAME,
    Ask,
    EmitAsk,
    EventType,
    Failure,
    FailureKind,
    TaskEntry,
)

__all__ = ["on_emit"]


def on_emit(t: Transition, arrival: Arrival, ask: Ask, what: EmitAsk) -> None:
    """Take items that a handler hands out; it is answered once all maps over them have them.

    Where no map goes over them, at once: the task may stand in plans that want only its output.
    """
    entry = take_ask(t, arrival, ask)
    task = t.task(ask.task_id)
    if entry is None or task is None:
        return
    names = [node.id for node in takers(t, ask.task_id)]
    problem = _problem(task, ask, what, bool(names))
    if problem is not None:
        answer(t, entry, None, problem)
        return
    t.overlay.put(ask_name(ask.task_id, ask.name, ask.key), entry)
    advance(t, names)
    answer_taken(t, ask.task_id)
    if emission_of(t, ask.task_id) is not None:
        t.emit_ask(EventType.TASK_ASKED, entry.row())
    settle(t)


def _problem(task: TaskEntry, ask: Ask, what: EmitAsk, taken: bool) -> Failure | None:
    """Return why items cannot be taken, or None."""
    if ask.name != EMIT_NAME or ask.key != str(what.first) or what.first != task.emitted:
        return failure_of(
            FailureKind.MISMATCH,
            f"task {ask.task_id!r} has handed out {task.emitted} items, and these begin with number"
            f" {what.first}: hand out one after the other (await each `emit`)",
        )
    if not 1 <= what.count <= EMIT_ITEMS_MAX:
        return failure_of(
            FailureKind.TOO_LARGE,
            f"task {ask.task_id!r} hands out {what.count} items at once, not 1 to {EMIT_ITEMS_MAX}",
        )
    if taken and what.first + what.count > ARRIVING_MAX:
        return failure_of(
            FailureKind.TOO_LARGE,
            f"task {ask.task_id!r} has handed out {what.first} items; a map goes over at most"
            f" {ARRIVING_MAX}",
        )
    return None
