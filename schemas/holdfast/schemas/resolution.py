"""A plan meets its agents: names, inputs and schemas are checked, settings are filled in.

`resolve` is pure. What comes out, the `ResolvedPlan`, is what a submission carries (as canonical
JSON) and what the coordinator runs: the plan itself, and beside it what its agents said of each
task at that time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from holdfast.schemas.documents import check_document, check_template
from holdfast.schemas.errors import PlanError, Unencodable, did_you_mean
from holdfast.schemas.expressions import CompiledExpression, expressions_in, render
from holdfast.schemas.plan import Plan, PlanDocument, TaskNode, plan_error, split_task_name
from holdfast.schemas.plan_checks import as_document, check_plan, check_run_fields
from holdfast.schemas.plan_settings import Compensation
from holdfast.schemas.records import Manifest, RetryPolicy, TaskManifest

__all__ = [
    "ResolvedPlan",
    "ResolvedTask",
    "agents_of",
    "check_compensations",
    "check_run_input",
    "compensation_path",
    "inner_plan",
    "reducer_path",
    "render_inputs",
    "render_order_key",
    "resolve",
    "resolve_tasks",
    "works_of",
]

_COMPENSATE = "~compensate"

SchemaLookup = Callable[[int], Any]
"""Schema id to Avro schema (parsed JSON); raises `UnknownSchema`."""


class ResolvedTask(BaseModel):
    """What an agent says of a task, with the plan's own settings put over it. Milliseconds.

    `input`: of what undoes another task because its agent says so, the template of its input; null
    where the plan itself says it.
    """

    model_config = ConfigDict(frozen=True)

    agent: str
    task: str
    input_schema_id: int
    output_schema_id: int
    retry: RetryPolicy
    timeout_ms: int | None = None
    queue_timeout_ms: int | None = None
    progress_timeout_ms: int | None = None
    input: JsonValue = None


class ResolvedPlan(BaseModel):
    """What a run goes by: the plan, and its tasks' settings by path (see `works_of`)."""

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    plan: PlanDocument
    tasks: dict[str, ResolvedTask]

    def to_json(self) -> str:
        """Return the canonical JSON: the same plan always gives the same text."""
        return self.model_dump_json(exclude_defaults=True)

    @classmethod
    def from_json(cls, text: str) -> ResolvedPlan:
        """Read it; raises `PlanError`. The same text gives the same object: it is immutable."""
        return _from_json(text)


@lru_cache(maxsize=64)
def _from_json(text: str) -> ResolvedPlan:
    try:
        resolved = ResolvedPlan.model_validate_json(text)
    except ValidationError as error:
        raise plan_error(error, "resolved plan") from None
    works = {path for path, _ in works_of(resolved.plan.tasks)}
    by_agents = {
        path
        for path, task in resolved.tasks.items()
        if task.input is not None and path.removesuffix(_COMPENSATE) in works
    }
    told = resolved.tasks.keys() - by_agents
    if works != told:
        odd = sorted(works ^ told)[0]
        raise PlanError(
            f"resolved plan {resolved.plan.name!r}: task {odd!r} stands in one half only"
        )
    return resolved


def agents_of(plan: Plan | PlanDocument) -> frozenset[str]:
    """Return the names of the agents that a plan needs; raises `PlanError`."""
    works = works_of(as_document(plan).tasks)
    return frozenset(split_task_name(name)[0] for _, name in works)


def works_of(nodes: Mapping[str, TaskNode]) -> Iterator[tuple[str, str]]:
    """Yield what is worked by agents, as (path, `<agent>.<task>`).

    The path of a plan's task is its id; of one in a plan that stands in a task
    `<id>/<path within>`; of the reducer of a map `<id>~reduce`; of what undoes a task
    `<id>~compensate`. What agents say of undoing their tasks stands in no plan, and is not here.
    """
    for node_id, node in nodes.items():
        if node.plan is None:
            yield node_id, node.task
        else:
            for path, name in works_of(node.plan.tasks):
                yield f"{node_id}/{path}", name
        if node.map is not None and node.map.reduce is not None:
            yield reducer_path(node_id), node.map.reduce.task
        if node.compensate:
            yield compensation_path(node_id), node.compensate.task


def compensation_path(node_id: str) -> str:
    """Return the path of the task that undoes one of a plan."""
    return f"{node_id}{_COMPENSATE}"


def reducer_path(node_id: str) -> str:
    """Return the path of a map's reducer."""
    return f"{node_id}~reduce"


def inner_plan(
    node_id: str, inner: PlanDocument, works: Mapping[str, ResolvedTask]
) -> ResolvedPlan:
    """Return the resolved plan that stands in a task; `works`: by path, of the plan around it."""
    prefix = f"{node_id}/"
    tasks = {
        path.removeprefix(prefix): task for path, task in works.items() if path.startswith(prefix)
    }
    return ResolvedPlan(plan=inner, tasks=tasks)


def resolve(
    plan: Plan | PlanDocument, manifests: Mapping[str, Manifest], schemas: SchemaLookup
) -> ResolvedPlan:
    """Check a plan against the agents' manifests (by agent) and fill in their settings.

    Raises:
        PlanError: names the task, the place and the remedy; the first that is found.
        UnknownSchema: `schemas` does not know an id that a manifest names (yet).
    """
    document = as_document(plan)
    check_plan(document)
    place = f"plan {document.name!r}"
    return ResolvedPlan(
        plan=document, tasks=resolve_tasks(place, document.tasks, manifests, schemas)
    )


def resolve_tasks(
    place: str,
    nodes: Mapping[str, TaskNode],
    manifests: Mapping[str, Manifest],
    schemas: SchemaLookup,
) -> dict[str, ResolvedTask]:
    """Check tasks against the agents' manifests and fill in their settings; raises as `resolve`.

    `place` names what they stand in. What they read of tasks that are not among them is not
    checked. Answers by path, see `works_of`.
    """
    offered = {
        node_id: _offered(f"{place}, task {node_id!r}", node.task, manifests)
        for node_id, node in nodes.items()
        if node.plan is None
    }
    found: dict[str, ResolvedTask] = {}
    for node_id, node in nodes.items():
        where = f"{place}, task {node_id!r}"
        _check_selected_fields(where, nodes, node, offered, schemas)
        if node.plan is not None:
            inner = resolve_tasks(where, node.plan.tasks, manifests, schemas)
            found.update({f"{node_id}/{path}": task for path, task in inner.items()})
        else:
            _check_input(where, node, schemas(offered[node_id].input_schema_id))
            found[node_id] = _settle(node, offered[node_id])
        if node.map is not None and node.map.reduce is not None:
            name = node.map.reduce.task
            task = _offered(f"{where}, reduce", name, manifests)
            found[reducer_path(node_id)] = _settle(TaskNode(task=name), task)
        given = None if node.plan is not None else offered[node_id]
        undo = _undoing(f"{where}, compensate", node, given, manifests, schemas)
        if undo is not None:
            found[compensation_path(node_id)] = undo
    return found


def check_run_input(plan: ResolvedPlan, run_input: Any, schemas: SchemaLookup) -> None:
    """Check a run's input against what the plan reads of it; raises `PlanError`.

    Fields that plain paths read must be there; where a task's input is the run's whole input (a
    lone task), or one of its fields is a field of the run's, the value must fit the task's schema.
    """
    check_run_fields(plan.plan, run_input)
    for node_id, node in plan.plan.tasks.items():
        if node.map is not None or not _reads_input_only(node.input):
            continue
        value = render(node.input, {"input": run_input, "tasks": {}})
        if node.plan is not None:
            check_run_input(inner_plan(node_id, node.plan, plan.tasks), value, schemas)
            continue
        try:
            check_document(schemas(plan.tasks[node_id].input_schema_id), value)
        except Unencodable as error:
            raise PlanError(f"{_place(plan.plan, node_id)}: the run's input: {error}") from None


def render_inputs(node: TaskNode, document: Mapping[str, Any]) -> Any:
    """Return a task's input by the document {"input", "tasks", "item"}; raises `PlanError`.

    Without a template: a map's item, else an empty object.
    """
    if node.input is not None:
        return render(node.input, document)
    return {} if node.map is None else document["item"]


def render_order_key(template: str | None, document: Mapping[str, Any]) -> str | None:
    """Return an order key as text; null or an empty text: no order. Raises `PlanError`."""
    value = None if template is None else render(template, document)
    if value is None or value == "":
        return None
    if isinstance(value, bool | int | float | str):
        return str(value)
    raise PlanError(f"order key {template!r} gives a {type(value).__name__}; it must be text")


def _place(document: PlanDocument, node_id: str) -> str:
    return f"plan {document.name!r}, task {node_id!r}"


def _offered(place: str, name: str, manifests: Mapping[str, Manifest]) -> TaskManifest:
    agent, task = split_task_name(name)
    manifest = manifests.get(agent)
    if manifest is None:
        raise PlanError(
            f"{place}: no agent {agent!r} has ever published itself"
            f"{did_you_mean(agent, manifests)}; start it, or correct the name"
        )
    for offered in manifest.tasks:
        if offered.name == task:
            return offered
    raise PlanError(
        f"{place}: agent {agent!r} has no task {task!r}"
        f"{did_you_mean(task, [offered.name for offered in manifest.tasks])}"
    )


def _settle(node: TaskNode, offered: TaskManifest) -> ResolvedTask:
    agent, task = split_task_name(node.task)
    return ResolvedTask(
        agent=agent,
        task=task,
        input_schema_id=offered.input_schema_id,
        output_schema_id=offered.output_schema_id,
        retry=offered.retry if node.retry is None else node.retry.policy(),
        timeout_ms=_milliseconds(node.timeout_s, offered.timeout_ms),
        queue_timeout_ms=_milliseconds(node.queue_timeout_s, offered.queue_timeout_ms),
        progress_timeout_ms=_milliseconds(node.progress_timeout_s, offered.progress_timeout_ms),
    )


def _undoing(
    place: str,
    node: TaskNode,
    undone: TaskManifest | None,
    manifests: Mapping[str, Manifest],
    schemas: SchemaLookup,
) -> ResolvedTask | None:
    """Return what undoes a task, checked: what the plan says, else what its agent does, if any.

    `undone`: what the agent says of the task, if one works it.
    """
    if node.compensate:
        return _settle_undoing(place, node.compensate, undone, manifests, schemas)
    if node.compensate is False or undone is None or undone.compensate is None:
        return None
    said = declared_compensation(undone)
    settled = _settle_undoing(place, said, undone, manifests, schemas)
    return settled.model_copy(update={"input": said.input})


def declared_compensation(task: TaskManifest) -> Compensation:
    """Read what a manifest says of undoing a task; raises `PlanError`."""
    try:
        return Compensation.model_validate_json(task.compensate or "")
    except ValidationError as error:
        raise plan_error(error, f"task {task.name!r}, compensate") from None


def check_compensations(manifest: Manifest, schemas: SchemaLookup) -> None:
    """Check what an agent says of undoing its tasks, as plans will read it.

    Raises `PlanError` naming the task and the field, `UnknownSchema`.
    """
    for task in manifest.tasks:
        if task.compensate is None:
            continue
        place = f"agent {manifest.agent!r}, task {task.name!r}, compensate"
        said = declared_compensation(task)
        if split_task_name(said.task)[0] != manifest.agent:
            raise PlanError(
                f"{place}: {said.task!r} is another agent's task: an agent says how it undoes its"
                " own work itself; name another agent's in the plan"
            )
        for expression in expressions_in(said.input):
            odd = {reference.root for reference in expression.references} - {"output", "given"}
            if odd:
                raise PlanError(
                    f"{place}: it reads {min(odd)!r}; an agent knows of the task that it undoes"
                    " alone: 'output' and 'given'"
                )
        _settle_undoing(place, said, task, {manifest.agent: manifest}, schemas)


def _settle_undoing(
    place: str,
    said: Compensation,
    undone: TaskManifest | None,
    manifests: Mapping[str, Manifest],
    schemas: SchemaLookup,
) -> ResolvedTask:
    offered = _offered(place, said.task, manifests)
    node = TaskNode(task=said.task, input=said.input, retry=said.retry, timeout_s=said.timeout_s)
    _check_input(place, node, schemas(offered.input_schema_id))
    if undone is not None:
        _check_undone_fields(place, said, undone, schemas)
    return _settle(node, offered)


def _check_undone_fields(
    place: str, said: Compensation, undone: TaskManifest, schemas: SchemaLookup
) -> None:
    """Refuse `output.idd` where the output of the task that is undone has no such field."""
    read = {
        "output": ("the task's output", undone.output_schema_id),
        "given": ("the task's input", undone.input_schema_id),
    }
    for expression in expressions_in(said.input):
        for reference in expression.references:
            found = read.get(reference.root)
            if found is not None and reference.field is not None and reference.required:
                _check_field(place, found[0], reference.field, schemas(found[1]))


def _milliseconds(seconds: float | None, otherwise_ms: int | None) -> int | None:
    return otherwise_ms if seconds is None else max(1, round(seconds * 1_000))


def _check_input(place: str, node: TaskNode, schema: Any) -> None:
    """Hold the input's names and constants against the schema; expressions are let through."""
    try:
        if node.input is not None:
            check_template(schema, node.input)
        elif node.map is None:
            check_document(schema, {})
        elif isinstance(node.map.over, list):
            for item in node.map.over:
                check_template(schema, item)
    except Unencodable as error:
        raise PlanError(f"{place} ({node.task}): {error}") from None


def _check_selected_fields(
    place: str,
    nodes: Mapping[str, TaskNode],
    node: TaskNode,
    offered: Mapping[str, TaskManifest],
    schemas: SchemaLookup,
) -> None:
    """Refuse `tasks.list.fils` where the output of `list` has no such field."""
    templates = [node.input, node.order_key, None if node.map is None else node.map.over]
    for template in templates:
        for expression in expressions_in(template):
            for name, field in _plain_selections(expression):
                if name in offered and nodes[name].map is None:
                    what = f"the output of {name!r}"
                    _check_field(place, what, field, schemas(offered[name].output_schema_id))


def _plain_selections(expression: CompiledExpression) -> list[tuple[str, str]]:
    return [
        (reference.name, reference.field)
        for reference in expression.references
        if reference.root == "tasks"
        and reference.name is not None
        and reference.field is not None
        and reference.required
    ]


def _check_field(place: str, what: str, field: str, schema: Any) -> None:
    if not isinstance(schema, Mapping) or schema.get("type") != "record":
        return
    fields = [entry["name"] for entry in schema["fields"]]
    if field not in fields:
        raise PlanError(f"{place}: {what} has no field {field!r}{did_you_mean(field, fields)}")


def _reads_input_only(template: Any) -> bool:
    if template is None:
        return False
    found = [reference for each in expressions_in(template) for reference in each.references]
    return bool(found) and all(reference.root == "input" for reference in found)
