"""What a run answers in the end."""

from __future__ import annotations

from typing import Any

from holdfast.coordinator.engine.run.transition import Transition
from holdfast.schemas.codec import encode_json
from holdfast.schemas.records import Payload

__all__ = ["run_output"]


def run_output(t: Transition) -> Payload:
    """Return the run's output: the plan's template, or the outputs of the tasks no other waits for.

    A single such task's output is passed on as it is, without being decoded. Raises
    `MappingFailed`, `Undecodable`, `Unencodable`; `Blocked` while something must be fetched.
    """
    graph = t.graph
    if graph.output is not None:
        return _payload(t, graph.output.make(t.document(graph.output)))
    if len(graph.sinks) == 1:
        return _output(t, graph.sinks[0])
    outputs = [(name, _output(t, name)) for name in graph.sinks]
    t.scope.values.require(payload for _, payload in outputs)
    return _payload(t, {name: t.scope.values.document(output) for name, output in outputs})


def _output(t: Transition, name: str) -> Payload:
    entry = t.task(name)
    return None if entry is None else entry.row.output


def _payload(t: Transition, document: Any) -> Payload:
    return t.scope.values.payload(t.run_id, encode_json(document))
