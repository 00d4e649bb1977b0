"""A run is submitted: made, refused, or answered from what is known of it already."""

from __future__ import annotations

from holdfast.coordinator.engine.graph import Graph
from holdfast.coordinator.engine.inputs import Arrival
from holdfast.coordinator.engine.run.ending import settle
from holdfast.coordinator.engine.run.starting import advance
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.schemas.errors import HoldfastError
from holdfast.schemas.records import (
    EventType,
    Marker,
    RunEntry,
    RunRow,
    RunState,
    Submission,
)

__all__ = ["on_submission"]


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
        t.emit_note(EventType.RUN_REFUSED, arrival.problem)
    else:
        _start(t, arrival, submission)


def _answer(
    t: Transition, submission: Submission, input_hash: str, state: RunState, events_from: int
) -> None:
    if submission.input_hash == input_hash:
        t.emit_answer(EventType.RUN_REPEATED, f"run {t.run_id!r} is {state}", events_from)
        return
    t.emit_answer(
        EventType.RUN_CONFLICTED,
        f"run {t.run_id!r} exists ({state}) with another plan or input; choose another run id",
        events_from,
    )


def _start(t: Transition, arrival: Arrival, submission: Submission) -> None:
    try:
        graph = t.scope.graphs.get(submission.plan)
    except HoldfastError as error:
        t.emit_note(EventType.RUN_REFUSED, str(error))
        return
    unknown = sorted(set(submission.reused) - set(graph.nodes))
    if unknown:
        t.emit_note(
            EventType.RUN_REFUSED,
            f"results to be reused name task {unknown[0]!r}, which the plan does not have",
        )
        return
    t.scope.lists.forget_run(t.run_id)
    deadline = None if graph.deadline_ms is None else t.now_ms + graph.deadline_ms
    t.overlay.put(
        "",
        RunEntry(
            row=_row(t, submission, graph, deadline),
            plan=graph.source,
            reply_key=arrival.record_key,
            events_from=arrival.events_from,
            reused=submission.reused,
            timer_ms=deadline,
        ),
    )
    t.emit_run(EventType.RUN_STARTED, plan=graph.source)
    advance(t, graph.nodes)
    settle(t)


def _row(t: Transition, submission: Submission, graph: Graph, deadline: int | None) -> RunRow:
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
    )
