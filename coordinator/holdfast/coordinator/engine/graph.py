"""Resolved plans, compiled once for all runs of the same plan.

What the engine asks of a plan in its hot path (who waits for whom, what an input is made of) is
precomputed here; pydantic models and plan texts are left behind.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from holdfast.coordinator.engine.templates import Template, compile_condition, compile_template
from holdfast.schemas.plan_checks import check_plan, condition_in
from holdfast.schemas.records import RetryPolicy, TaskEntry
from holdfast.schemas.resolution import ResolvedPlan, ResolvedTask

__all__ = ["Graph", "Graphs", "Node", "call_node", "compile_graph"]

GRAPHS_MAX = 256
"""Plans that are kept compiled."""
_SHOWN_CHARS = 160


@dataclass(frozen=True, slots=True)
class Node:
    """One task of a plan. `over` is set for a map; `wait`: a dead letter leaves the run open."""

    id: str
    agent: str
    task: str
    input: Template
    input_text: str
    input_schema_id: int
    when: Template | None
    over: Template | None
    max_parallel: int
    collect: bool
    retry: RetryPolicy
    timeout_ms: int | None
    queue_timeout_ms: int | None
    order_key: Template | None
    loose_order: bool
    wait: bool
    dependencies: tuple[str, ...]
    dependants: tuple[str, ...]
    reads: frozenset[str]
    """Tasks whose outputs its expressions name."""


@dataclass(frozen=True, slots=True)
class Graph:
    """A compiled plan. `source` is its text, one object for all runs that share it."""

    source: str
    name: str
    nodes: dict[str, Node]
    maps: tuple[str, ...]
    sinks: tuple[str, ...]
    output: Template | None
    deadline_ms: int | None


class Graphs:
    """Compiled plans by their text; the least recently used are dropped."""

    def __init__(self, limit: int = GRAPHS_MAX) -> None:
        self._limit = limit
        self._graphs: OrderedDict[str, Graph] = OrderedDict()

    def get(self, source: str) -> Graph:
        """Return the graph of a resolved plan's JSON; raises `PlanError`."""
        graph = self._graphs.get(source)
        if graph is None:
            graph = self._graphs[source] = compile_graph(source)
            if len(self._graphs) > self._limit:
                self._graphs.popitem(last=False)
        else:
            self._graphs.move_to_end(source)
        return graph


def compile_graph(source: str) -> Graph:
    """Compile a resolved plan's JSON; raises `PlanError` for one that cannot be run."""
    plan = ResolvedPlan.from_json(source)
    shape = check_plan(plan.plan)
    dependants: dict[str, list[str]] = {name: [] for name in shape.dependencies}
    for name, waited_for in shape.dependencies.items():
        for other in waited_for:
            dependants[other].append(name)
    nodes = {
        name: _node(name, plan, shape.dependencies[name], dependants[name])
        for name in shape.dependencies
    }
    document = plan.plan
    return Graph(
        source=source,
        name=document.name,
        nodes=nodes,
        maps=tuple(name for name, node in nodes.items() if node.over is not None),
        sinks=shape.leaves,
        output=None if document.output is None else compile_template(document.output, "output"),
        deadline_ms=None if document.deadline_s is None else round(document.deadline_s * 1_000),
    )


_NO_TEMPLATE = compile_template({}, "input")


def call_node(entry: TaskEntry) -> Node:
    """Return what a plan would say of a called task."""
    spec, row = entry.call, entry.row
    assert spec is not None, f"{row.task_id} was not called"
    return Node(
        id=row.task_id,
        agent=row.agent,
        task=row.task,
        input=_NO_TEMPLATE,
        input_text="",
        input_schema_id=spec.input_schema_id,
        when=None,
        over=None,
        max_parallel=1,
        collect=False,
        retry=spec.retry,
        timeout_ms=spec.timeout_ms,
        queue_timeout_ms=spec.queue_timeout_ms,
        order_key=None,
        loose_order=False,
        wait=False,  # its caller hears of the failure, and decides
        dependencies=(),
        dependants=(),
        reads=frozenset(),
    )


def _node(
    name: str, plan: ResolvedPlan, dependencies: Iterable[str], dependants: Iterable[str]
) -> Node:
    spec, resolved = plan.plan.tasks[name], plan.tasks[name]
    input_ = _input(spec.input, is_map=spec.map is not None)
    when = None if spec.when is None else compile_condition(condition_in(spec.when), "when")
    over = None if spec.map is None else compile_template(spec.map.over, "over")
    order_key = None if spec.order_key is None else compile_template(spec.order_key, "order_key")
    used = [template for template in (input_, when, over, order_key) if template is not None]
    return Node(
        id=name,
        input=input_,
        input_text=_shown(spec.input),
        when=when,
        over=over,
        max_parallel=1 if spec.map is None else spec.map.max_parallel,
        collect=spec.map is not None and spec.map.on_failure == "collect",
        order_key=order_key,
        loose_order=spec.order == "loose",
        wait=(spec.on_dead_letter or plan.plan.on_dead_letter) == "wait",
        dependencies=tuple(dependencies),
        dependants=tuple(dependants),
        reads=frozenset().union(*(template.tasks for template in used)),
        **_resolved(resolved),
    )


def _resolved(task: ResolvedTask) -> dict[str, Any]:
    return {
        "agent": task.agent,
        "task": task.task,
        "input_schema_id": task.input_schema_id,
        "retry": task.retry,
        "timeout_ms": task.timeout_ms,
        "queue_timeout_ms": task.queue_timeout_ms,
    }


def _input(template: Any, *, is_map: bool) -> Template:
    if template is None:
        template = "${item}" if is_map else {}
    return compile_template(template, "input")


def _shown(template: Any) -> str:
    text = json.dumps(template, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 3] + "..."
