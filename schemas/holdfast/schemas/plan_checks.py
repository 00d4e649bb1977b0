"""What must hold of any plan, whoever the agents are: references, cycles, bounds.

Pure: a `PlanDocument` in, a `Graph` out, or a `PlanError` that names the task and the remedy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.schemas.errors import PlanError, did_you_mean
from holdfast.schemas.expressions import CompiledExpression, compile_expression, expression_in
from holdfast.schemas.expressions import expressions_in as _expressions_in
from holdfast.schemas.plan import WIDTH_MAX, Plan, PlanDocument, TaskNode, split_task_name

__all__ = ["DEPTH_MAX", "Graph", "as_document", "check_plan", "check_run_fields", "condition_in"]

DEPTH_MAX = 1_000
"""The longest chain of tasks that wait for each other."""


@dataclass(frozen=True, slots=True)
class Graph:
    """What a plan's tasks wait for: ids by id, in the plan's order."""

    dependencies: Mapping[str, tuple[str, ...]]

    @property
    def leaves(self) -> tuple[str, ...]:
        """The tasks that no other waits for."""
        waited_for = {name for names in self.dependencies.values() for name in names}
        return tuple(name for name in self.dependencies if name not in waited_for)


def as_document(plan: Plan | PlanDocument) -> PlanDocument:
    """Return the plan as data, however it was written."""
    return plan.document() if isinstance(plan, Plan) else plan


def condition_in(when: str) -> str:
    """Return the expression of a `when`, which may but need not stand in `${...}`."""
    whole = when.strip()
    if whole.startswith("${"):
        return expression_in(whole) or whole
    return whole


def check_plan(plan: Plan | PlanDocument) -> Graph:
    """Check everything that can be checked without knowing the agents; raises `PlanError`."""
    document = as_document(plan)
    dependencies = {
        node_id: _dependencies(document, node_id, node) for node_id, node in document.tasks.items()
    }
    _check_order(document.name, dependencies)
    for expression in _located(f"plan {document.name!r}, output", document.output):
        _check_references(expression, document, f"plan {document.name!r}, output", item=False)
    _check_order_key(document)
    return Graph(dependencies)


def check_run_fields(plan: Plan | PlanDocument, run_input: Any) -> None:
    """Raise `PlanError` if the plan reads a field that the run's input does not have.

    Only plain paths (`input.folder`) ask for their field; `input.folder || '.'` brings its own.
    """
    document = as_document(plan)
    for place, expression in _all_expressions(document):
        for reference in expression.references:
            if reference.root != "input" or not reference.required or reference.name is None:
                continue
            given = run_input if isinstance(run_input, Mapping) else {}
            if reference.name not in given:
                raise PlanError(
                    f"{place} needs the run's input {reference.name!r}, which is not given"
                    f"{did_you_mean(reference.name, given)}"
                )


def _all_expressions(document: PlanDocument) -> Iterator[tuple[str, CompiledExpression]]:
    for node_id, node in document.tasks.items():
        for what, template in _templates(node):
            yield from (
                (f"task {node_id!r}, {what},", expression)
                for expression in _expressions_in(template)
            )
        if node.when is not None:
            yield f"task {node_id!r}, when,", compile_expression(condition_in(node.when))
    for template in (document.order_key, document.output):
        yield from ((f"plan {document.name!r}", found) for found in _expressions_in(template))


def _templates(node: TaskNode) -> Iterator[tuple[str, Any]]:
    yield "input", node.input
    yield "order_key", node.order_key
    if node.map is not None:
        yield "over", node.map.over


def _dependencies(document: PlanDocument, node_id: str, node: TaskNode) -> tuple[str, ...]:
    place = f"plan {document.name!r}, task {node_id!r}"
    try:
        split_task_name(node.task)
    except PlanError as error:
        raise PlanError(f"{place}: {error}") from None
    found: dict[str, None] = {}
    for waited_for in node.after:
        if waited_for not in document.tasks:
            raise PlanError(
                f"{place}: after names an unknown task {waited_for!r}"
                f"{did_you_mean(waited_for, document.tasks)}"
            )
        found[waited_for] = None
    for what, expression in _node_expressions(place, node):
        in_items = node.map is not None and what in ("input", "order_key")
        for name in _check_references(expression, document, f"{place}, {what}", item=in_items):
            found[name] = None
    if node.map is not None:
        _check_over(place, node.map.over)
    if node_id in found:
        raise PlanError(f"{place}: it waits for itself")
    return tuple(found)


def _node_expressions(place: str, node: TaskNode) -> Iterator[tuple[str, CompiledExpression]]:
    for what, template in _templates(node):
        for expression in _located(f"{place}, {what}", template):
            yield what, expression
    if node.when is not None:
        try:
            yield "when", compile_expression(condition_in(node.when))
        except PlanError as error:
            raise PlanError(f"{place}, when: {error}") from None


def _located(place: str, template: Any) -> list[CompiledExpression]:
    try:
        return list(_expressions_in(template))
    except PlanError as error:
        raise PlanError(f"{place}: {error}") from None


def _check_references(
    expression: CompiledExpression, document: PlanDocument, place: str, *, item: bool
) -> list[str]:
    names = []
    for reference in expression.references:
        if reference.root == "item" and not item:
            raise PlanError(f"{place}: 'item' exists only in the inputs and order key of a map")
        if reference.root != "tasks" or reference.name is None:
            continue
        if reference.name not in document.tasks:
            raise PlanError(
                f"{place}: unknown task {reference.name!r}"
                f"{did_you_mean(reference.name, document.tasks)}"
            )
        names.append(reference.name)
    return names


def _check_over(place: str, over: Any) -> None:
    if isinstance(over, str) and expression_in(over) is not None:
        return
    if not isinstance(over, list):
        raise PlanError(f"{place}: over is neither a list nor an expression (${{...}})")
    if len(over) > WIDTH_MAX:
        raise PlanError(f"{place}: over has {len(over)} items; at most {WIDTH_MAX} are allowed")


def _check_order_key(document: PlanDocument) -> None:
    place = f"plan {document.name!r}, order_key"
    for expression in _located(place, document.order_key):
        if any(reference.root != "input" for reference in expression.references):
            raise PlanError(f"{place}: it is needed before any task has run; use input only")


def _check_order(name: str, dependencies: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse cycles and chains that are too long (Kahn's algorithm, no recursion)."""
    waiting = {node: len(names) for node, names in dependencies.items()}
    dependents: dict[str, list[str]] = {node: [] for node in dependencies}
    for node, names in dependencies.items():
        for waited_for in names:
            dependents[waited_for].append(node)
    depth = {node: 1 for node, count in waiting.items() if count == 0}
    ready = list(depth)
    while ready:
        node = ready.pop()
        del waiting[node]
        for dependent in dependents[node]:
            depth[dependent] = max(depth.get(dependent, 0), depth[node] + 1)
            waiting[dependent] -= 1
            if waiting[dependent] == 0:
                ready.append(dependent)
    if waiting:
        raise PlanError(
            f"plan {name!r}: tasks wait for each other: {_cycle(waiting, dependencies)}"
        )
    longest = max(depth.values(), default=0)
    if longest > DEPTH_MAX:
        raise PlanError(
            f"plan {name!r}: a chain of {longest} tasks; at most {DEPTH_MAX} are allowed"
        )


def _cycle(waiting: Mapping[str, int], dependencies: Mapping[str, tuple[str, ...]]) -> str:
    """Return one cycle as text: from anywhere among the rest, back along what is waited for."""
    node = next(iter(waiting))
    seen: dict[str, int] = {}
    walk: list[str] = []
    while node not in seen:
        seen[node] = len(walk)
        walk.append(node)
        node = next(name for name in dependencies[node] if name in waiting)
    cycle = [*walk[seen[node] :], node]
    shown = cycle if len(cycle) <= 12 else [*cycle[:6], "...", *cycle[-5:]]
    return " -> ".join(shown)
