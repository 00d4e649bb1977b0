"""A run as a kind of entity: which input leads to what."""

from __future__ import annotations

from holdfast.coordinator.engine.effects import Reaction
from holdfast.coordinator.engine.inputs import (
    Arrival,
    Broken,
    Continuation,
    Input,
    TimerDue,
)
from holdfast.coordinator.engine.run.asks import on_ask, on_signal
from holdfast.coordinator.engine.run.broken import on_broken
from holdfast.coordinator.engine.run.commands import on_command
from holdfast.coordinator.engine.run.continuing import on_continuation
from holdfast.coordinator.engine.run.emitting import on_emit
from holdfast.coordinator.engine.run.ending import settle
from holdfast.coordinator.engine.run.growing import on_plan_ask
from holdfast.coordinator.engine.run.results import on_child, on_progress, on_result
from holdfast.coordinator.engine.run.signals import unusable
from holdfast.coordinator.engine.run.submission import on_submission
from holdfast.coordinator.engine.run.timers import on_timer
from holdfast.coordinator.engine.run.transition import Scope, Transition
from holdfast.coordinator.engine.run.undoing import note_step
from holdfast.coordinator.engine.state import Overlay
from holdfast.coordinator.engine.states import RUN_ENDS
from holdfast.schemas.records import (
    Ask,
    Cause,
    ChildEnded,
    Command,
    EmitAsk,
    EventType,
    Marker,
    PlanAsk,
    RunEntry,
    Signal,
    Submission,
    TaskProgress,
    TaskResult,
    UndoAsk,
)

__all__ = ["RunKind"]


class RunKind:
    """Reacts for entities `run/<run id>`."""

    name = "run"

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def react(
        self, overlay: Overlay, marker: Marker | None, input_: Input, now_ms: int
    ) -> Reaction:
        """Take one input on `overlay`; `marker` is the run's, if it was closed."""
        cause = _cause(input_)
        run_id = input_.entity.partition("/")[2]
        t = Transition(self._scope, run_id, overlay, now_ms, cause)
        if isinstance(input_, Arrival):
            _arrive(t, input_, marker)
        elif isinstance(input_, Broken):
            on_broken(t, input_)
        elif isinstance(overlay.get(""), RunEntry):
            if isinstance(input_, TimerDue):
                on_timer(t, input_.name)
            elif isinstance(input_, Continuation):
                on_continuation(t)
        return Reaction(input_.entity, overlay, t.markers, t.effects, more=t.more)


def _cause(input_: Input) -> Cause | None:
    if isinstance(input_, Arrival):
        return input_.cause
    if isinstance(input_, Broken) and input_.arrival is not None:
        return input_.arrival.cause
    return None


def _arrive(t: Transition, arrival: Arrival, marker: Marker | None) -> None:
    body = arrival.envelope.body
    if isinstance(body, Submission):
        on_submission(t, arrival, body, marker)
        return
    if isinstance(body, Command):
        on_command(t, body, marker)
        return
    if isinstance(body, Signal) and (problem := unusable(body)) is not None:
        t.emit_note(EventType.SIGNAL_REFUSED, problem)
        return
    known = t.overlay.get("")
    if isinstance(known, RunEntry) and known.row.state not in RUN_ENDS:
        if isinstance(body, TaskResult):
            on_result(t, body, buried=arrival.buried)
        elif isinstance(body, TaskProgress):
            on_progress(t, body)
        elif isinstance(body, Ask) and isinstance(body.what, UndoAsk):
            note_step(t, arrival, body, body.what)
            settle(t)
        elif isinstance(body, Ask) and isinstance(body.what, PlanAsk):
            on_plan_ask(t, arrival, body)
        elif isinstance(body, Ask) and isinstance(body.what, EmitAsk):
            on_emit(t, arrival, body, body.what)
        elif isinstance(body, Ask):
            on_ask(t, arrival, body)
        elif isinstance(body, ChildEnded):
            on_child(t, body)
        elif isinstance(body, Signal):
            on_signal(t, body)
    elif isinstance(body, Signal):
        message = f"no run {t.run_id!r} is known here; if its plan has an order key, name that key"
        if marker is not None:
            message = f"run {t.run_id!r} is closed ({marker.state}): it takes no more signals"
        if marker is not None and marker.successor is not None:
            message = f"run {t.run_id!r} is closed; it goes on as {marker.successor!r}"
        t.emit_signal(EventType.SIGNAL_REFUSED, body, message)
    elif isinstance(body, TaskResult | Ask | ChildEnded):
        how = "is not known here" if marker is None else f"is closed ({marker.state})"
        t.emit_note(EventType.RESULT_IGNORED, f"{_described(body)}: the run {how}")


def _described(body: TaskResult | Ask | ChildEnded) -> str:
    if isinstance(body, TaskResult):
        return f"attempt {body.attempt} of {body.task_id!r} ({body.outcome}) from {body.instance!r}"
    if isinstance(body, Ask):
        return f"ask {body.name!r} (key {body.key!r}) of {body.task_id!r}, attempt {body.attempt}"
    return f"the end of run {body.child_run_id!r}, which {body.task_id!r} waited for"
