"""What must hold of any plan, whoever the agents are: references, cycles, bounds.

Pure: a `PlanDocument` in, a `Graph` out, or a `PlanError` that names the task and the remedy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.schemas.errors import PlanError, did_you_mean
from holdfast.schemas.expressions import (
    CompiledExpression,
    Root,
    compile_expression,
    expression_in,
)
from holdfast.schemas.expressions import expressions_in as _expressions_in
from holdfast.schemas.plan import (
    NODES_MAX,
    WIDTH_MAX,
    Plan,
    PlanDocument,
    TaskNode,
    split_task_name,
)
from holdfast.schemas.plan_turns import Worker, check_turns

__all__ = [
    "DEPTH_MAX",
    "NESTING_MAX",
    "Graph",
    "as_document",
    "check_plan",
    "check_run_fields",
    "condition_in",
    "cycle_in",
    "dependencies_of",
    "emitter_of",
    "nested_plans",
]

DEPTH_MAX = 1_000
"""The longest chain of tasks that wait for each other."""
NESTING_MAX = 8
"""How deep plans may stand within plans."""


@dataclass(frozen=True, slots=True)
class Graph:
    """What a plan's tasks wait for: ids by id, in the plan's order."""

    dependencies: Mapping[str, tuple[str, ...]]
    depths: Mapping[str, int]
    """How many tasks stand in the longest chain that ends with each, itself among them."""

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
    dependencies = dependencies_of(document.name, document.tasks, document.tasks)
    depths = _check_order(document.name, dependencies)
    for expression in _located(f"plan {document.name!r}, output", document.output):
        place = f"plan {document.name!r}, output"
        _check_references(expression, document.tasks, place, ())
    _check_order_key(document)
    _check_continuation(document)
    for node_id, node in document.tasks.items():
        _check_emitter(document, f"plan {document.name!r}, task {node_id!r}", node)
    workers = {
        node_id: _worker(document, node, dependencies[node_id])
        for node_id, node in document.tasks.items()
    }
    check_turns(document.name, workers)
    return Graph(dependencies, depths)


def nested_plans(document: PlanDocument) -> Iterator[tuple[str, PlanDocument]]:
    """Yield the plans that stand in a plan's tasks, by task id."""
    for node_id, node in document.tasks.items():
        if node.plan is not None:
            yield node_id, node.plan


def _check_nested(plan: PlanDocument) -> None:
    """Check a plan that stands in another one; measured first, without recursion."""
    nodes, depth, level = 0, 0, [plan]
    while level:
        depth += 1
        nodes += sum(len(each.tasks) for each in level)
        if depth > NESTING_MAX:
            raise PlanError(f"plans are nested too deep; at most {NESTING_MAX} are allowed")
        if nodes > NODES_MAX:
            raise PlanError(f"{nodes} tasks in plans within plans; at most {NODES_MAX} are allowed")
        level = [inner for each in level for _, inner in nested_plans(each)]
    check_plan(plan)


def _check_continuation(document: PlanDocument) -> None:
    after = document.continue_as_new
    if after is None:
        return
    place = f"plan {document.name!r}, continue_as_new"
    conditions = _located(place, f"${{{condition_in(after.when)}}}")
    for expression in (*conditions, *_located(place, after.input)):
        _check_references(expression, document.tasks, place, _AFTER)


def dependencies_of(
    plan: str, nodes: Mapping[str, TaskNode], known: Collection[str]
) -> dict[str, tuple[str, ...]]:
    """Return what each of `nodes` waits for, in the order in which they name it.

    `plan`: its name, for messages; `known`: the ids of all its tasks. Raises `PlanError`.
    """
    return {node_id: _dependencies(plan, known, node_id, node) for node_id, node in nodes.items()}


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
        for what, condition in _conditions(node):
            yield f"task {node_id!r}, {what},", compile_expression(condition_in(condition))
    after = document.continue_as_new
    if after is not None:
        place = f"plan {document.name!r}, continue_as_new,"
        yield place, compile_expression(condition_in(after.when))
        yield from ((place, found) for found in _expressions_in(after.input))
    for template in (document.order_key, document.output):
        yield from ((f"plan {document.name!r}", found) for found in _expressions_in(template))


def _templates(node: TaskNode) -> Iterator[tuple[str, Any]]:
    yield "input", node.input
    yield "order_key", node.order_key
    if node.map is not None:
        yield "over", node.map.over
    if node.compensate:
        yield "compensate", node.compensate.input


def _dependencies(
    plan: str, known: Collection[str], node_id: str, node: TaskNode
) -> tuple[str, ...]:
    place = f"plan {plan!r}, task {node_id!r}"
    try:
        _check_work(node)
    except PlanError as error:
        raise PlanError(f"{place}: {error}") from None
    found: dict[str, None] = {}
    for waited_for in node.after:
        if waited_for not in known:
            raise PlanError(
                f"{place}: after names an unknown task {waited_for!r}"
                f"{did_you_mean(waited_for, known)}"
            )
        found[waited_for] = None
    for what, expression in _node_expressions(place, node):
        bound = _bound(node, what)
        names = _check_references(expression, known, f"{place}, {what}", bound)
        if what == "compensate" and names:
            raise PlanError(
                f"{place}, compensate: it reads 'output' and 'given' (of the task that it undoes)"
                " and 'input' (the run's), no other tasks: let the task pass on what is needed"
            )
        for name in names:
            found[name] = None
    if node.map is not None:
        _check_over(place, node, node.map.over)
    if node_id in found:
        raise PlanError(f"{place}: it waits for itself")
    _check_join(place, node, len(found))
    return tuple(found)


def _check_work(node: TaskNode) -> None:
    if node.plan is None:
        split_task_name(node.task)
    else:
        _check_nested(node.plan)
    if node.map is not None and node.map.reduce is not None:
        split_task_name(node.map.reduce.task)
    if node.compensate:
        split_task_name(node.compensate.task)


def _check_join(place: str, node: TaskNode, dependencies: int) -> None:
    if node.join == "all":
        if node.losers != "cancel":
            raise PlanError(f"{place}: losers has a meaning only with a join other than 'all'")
    elif not dependencies:
        raise PlanError(f"{place}: join is {node.join!r}, but it waits for no task")
    elif isinstance(node.join, int) and node.join > dependencies:
        raise PlanError(
            f"{place}: join is {node.join}, but it waits for {dependencies} tasks only:"
            " it could never be met"
        )


_AFTER: tuple[Root, ...] = ("output",)
_WHERE: Mapping[Root, str] = {
    "item": "the inputs and order key of a map",
    "previous": "the input and order key of a task that is repeated",
    "round": "the input, order key and 'until' of a task that is repeated",
    "output": "the 'until' of a task that is repeated, in 'compensate' and in continue_as_new",
    "given": "the input of a compensation",
    "emitted": "what a map goes over (over: ${emitted.<task id>})",
}


def _bound(node: TaskNode, what: str) -> tuple[Root, ...]:
    if what == "until":
        return ("output", "round")
    if what == "compensate":
        return ("output", "given")
    if what == "over":
        return ("emitted",)
    if what not in ("input", "order_key"):
        return ()
    in_items: tuple[Root, ...] = () if node.map is None else ("item",)
    return in_items if node.repeat is None else ("previous", "round")


def _node_expressions(place: str, node: TaskNode) -> Iterator[tuple[str, CompiledExpression]]:
    for what, template in _templates(node):
        for expression in _located(f"{place}, {what}", template):
            yield what, expression
    for what, condition in _conditions(node):
        try:
            yield what, compile_expression(condition_in(condition))
        except PlanError as error:
            raise PlanError(f"{place}, {what}: {error}") from None


def _conditions(node: TaskNode) -> Iterator[tuple[str, str]]:
    if node.when is not None:
        yield "when", node.when
    if node.repeat is not None:
        yield "until", node.repeat.until


def _located(place: str, template: Any) -> list[CompiledExpression]:
    try:
        return list(_expressions_in(template))
    except PlanError as error:
        raise PlanError(f"{place}: {error}") from None


def _check_references(
    expression: CompiledExpression, known: Collection[str], place: str, bound: Collection[Root]
) -> list[str]:
    """Return the tasks that an expression reads. `bound`: what else it may, where it stands."""
    names = []
    for reference in expression.references:
        if reference.root in _WHERE and reference.root not in bound:
            raise PlanError(f"{place}: {reference.root!r} exists only in {_WHERE[reference.root]}")
        if reference.root not in ("tasks", "emitted") or reference.name is None:
            continue
        if reference.name not in known:
            raise PlanError(
                f"{place}: unknown task {reference.name!r}{did_you_mean(reference.name, known)}"
            )
        names.append(reference.name)
    return names


def emitter_of(over: Any) -> str | None:
    """Return the task over whose emitted items a map goes, by its `over`; None: over a list."""
    text = expression_in(over) if isinstance(over, str) else None
    found = () if text is None else compile_expression(text).references
    return next((each.name for each in found if each.root == "emitted"), None)


def _check_emitter(document: PlanDocument, place: str, node: TaskNode) -> None:
    """Check what a map needs of the task over whose items it goes, which works meanwhile."""
    name = None if node.map is None else emitter_of(node.map.over)
    if name is None:
        return
    emitter = document.tasks[name]
    if emitter.map is not None or emitter.repeat is not None or emitter.plan is not None:
        what = "a plan" if emitter.plan is not None else "worked in parts"
        raise PlanError(
            f"{place}: over: task {name!r} is {what}; only a task that is worked once, by an agent,"
            " hands out items that a map can go over"
        )
    reads = {
        reference.name
        for _, expression in _node_expressions(place, node)
        for reference in expression.references
        if reference.root == "tasks"
    }
    if name in node.after or name in reads:
        raise PlanError(
            f"{place}: it begins while {name!r} is still at work, whose output cannot be read yet:"
            f" leave tasks.{name} and after out, or put the work into a task behind the map"
        )


def _worker(document: PlanDocument, node: TaskNode, dependencies: tuple[str, ...]) -> Worker:
    """Return where a task's turn is."""
    key = document.order_key if node.order_key is None else node.order_key
    return Worker(
        agent="" if node.plan is not None else split_task_name(node.task)[0],
        order_key=None if node.plan is not None else key,
        waits_for=dependencies,
        all_of_them=node.join == "all",
        arrives_from=None if node.map is None else emitter_of(node.map.over),
    )


def _check_over(place: str, node: TaskNode, over: Any) -> None:
    if isinstance(over, str) and (text := expression_in(over)) is not None:
        name, path = emitter_of(over), compile_expression(text).path
        if name is not None and path != ("emitted", name):
            raise PlanError(
                f"{place}: over: the items of a task that are still arriving are gone over as they"
                " are: write ${emitted.<task id>}, and select in the input (${item.<field>})"
            )
        if name is not None and node.join != "all":
            raise PlanError(
                f"{place}: join is {node.join!r}, but a map over emitted items begins with the"
                " first of them: leave join out, and put a task with the join behind the map"
            )
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


def _check_order(name: str, dependencies: Mapping[str, tuple[str, ...]]) -> dict[str, int]:
    """Refuse cycles and chains that are too long (Kahn's algorithm, no recursion); return the
    depths."""
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
            f"plan {name!r}: tasks wait for each other: {cycle_in(waiting, dependencies)}"
        )
    longest = max(depth.values(), default=0)
    if longest > DEPTH_MAX:
        raise PlanError(
            f"plan {name!r}: a chain of {longest} tasks; at most {DEPTH_MAX} are allowed"
        )
    return depth


def cycle_in(waiting: Mapping[str, int], dependencies: Mapping[str, tuple[str, ...]]) -> str:
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
