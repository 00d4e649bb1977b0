"""A run is submitted: made, refused, or answered from what is known of it already."""

from __future__ import annotations

from datetime import UTC, datetime

from holdfast.coordinator.engine.graph import Graph
from holdfast.coordinator.engine.inputs import Arrival
from holdfast.coordinator.engine.run.children import tell_parent
from holdfast.coordinator.engine.run.ending import settle
from holdfast.coordinator.engine.run.failing import failure_of
from holdfast.coordinator.engine.run.starting import advance
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.schemas.errors import HoldfastError
from holdfast.schemas.records import (
    EventType,
    FailureKind,
    Marker,
    RunEntry,
    RunRow,
    RunState,
    Submission,
)

__all__ = ["on_submission", "refuse"]

REASON_CHARS_MAX = 16_384
"""Of why a run was submitted: an event repeats it."""


def on_submission(
    t: Transition, arrival: Arrival, submission: Submission, marker: Marker | None
) -> None:
    """Make the run, unless its id was used before."""
    known = t.overlay.get("")
    if isinstance(known, RunEntry):
        _answer(t, submission, known.row.input_hash, known.row.state, known.events_from)
    elif marker is not None:
        _answer(t, submission, marker.input_hash, marker.state, marker.events_from)
    elif arrival.problem is not None:
        refuse(t, submission, arrival.problem)
    else:
        _start(t, arrival, submission)


def _answer(
    t: Transition, submission: Submission, input_hash: str, state: RunState, events_from: int
) -> None:
    if submission.parent is not None:
        _tell(
            t, submission, f"run {t.run_id!r} was there before ({state}): it needs an id of its own"
        )
    t.report(submission.source, None)
    if submission.input_hash == input_hash:
        t.emit_answer(EventType.RUN_REPEATED, f"run {t.run_id!r} is {state}", events_from)
        return
    t.emit_answer(
        EventType.RUN_CONFLICTED,
        f"run {t.run_id!r} exists ({state}) with another plan or input; choose another run id",
        events_from,
    )


def refuse(t: Transition, submission: Submission, reason: str) -> None:
    """Make no run of a submission; whoever waits for its end hears of it."""
    t.emit_note(EventType.RUN_REFUSED, reason)
    _tell(t, submission, reason)
    t.report(submission.source, None)


def _tell(t: Transition, submission: Submission, reason: str) -> None:
    """Let the task that asked for the run hear that it will not be."""
    if submission.parent is not None:
        failure = failure_of(FailureKind.UPSTREAM, reason)
        t.effects.append(tell_parent(submission.parent, t.run_id, None, failure, t.now_ms))


def _start(t: Transition, arrival: Arrival, submission: Submission) -> None:
    try:
        graph = t.scope.graphs.get(submission.plan)
    except HoldfastError as error:
        refuse(t, submission, str(error))
        return
    unknown = sorted(set(submission.reused) - set(graph.nodes))
    if unknown:
        what = f"results to be reused name task {unknown[0]!r}, which the plan does not have"
        refuse(t, submission, what)
        return
    t.scope.lists.forget_run(t.run_id)
    start_ms = _start_ms(t, submission)
    begins_ms = t.now_ms if start_ms is None else start_ms
    bounds = [] if graph.deadline_ms is None else [begins_ms + graph.deadline_ms]
    if submission.deadline_ms is not None:
        bounds.append(submission.deadline_ms)
    deadline = min(bounds, default=None)
    t.overlay.put(
        "",
        RunEntry(
            row=_row(t, submission, graph, start_ms, deadline),
            plan=graph.source,
            reply_key=arrival.record_key,
            events_from=arrival.events_from,
            reused=submission.reused,
            timer_ms=min((each for each in (start_ms, deadline) if each is not None), default=None),
            parent=submission.parent,
            source=submission.source,
        ),
    )
    told = [submission.reason[:REASON_CHARS_MAX]] if submission.reason else []
    if start_ms is not None:
        told.append(f"nothing of it starts before {_utc(start_ms)}")
    t.emit_run(EventType.RUN_STARTED, "; ".join(told), plan=graph.source)
    advance(t, graph.nodes)
    settle(t)


def _start_ms(t: Transition, submission: Submission) -> int | None:
    """Return when the run is to start, if that is yet to come."""
    start_ms = submission.start_ms
    if submission.start_in_ms is not None:
        start_ms = t.now_ms + submission.start_in_ms
    return None if start_ms is None or start_ms <= t.now_ms else start_ms


def _utc(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1_000, UTC).isoformat(timespec="milliseconds")


def _row(
    t: Transition,
    submission: Submission,
    graph: Graph,
    start_ms: int | None,
    deadline: int | None,
) -> RunRow:
    return RunRow(
        run_id=t.run_id,
        version=1,
        plan_name=graph.name,
        state=RunState.RUNNING,
        input=submission.input,
        output=None,
        failure=None,
        order_key=submission.order_key,
        origin=submission.origin,
        submitted_by=submission.submitted_by,
        input_hash=submission.input_hash,
        created_ms=t.now_ms,
        deadline_ms=deadline,
        finished_ms=None,
        predecessor=submission.predecessor,
        start_ms=start_ms,
    )
