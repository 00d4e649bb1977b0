"""A plan meets its agents: names, inputs and schemas are checked, settings are filled in.

`resolve` is pure. What comes out, the `ResolvedPlan`, is what a submission carries (as canonical
JSON) and what the coordinator runs: the plan itself, and beside it what its agents said of each
task at that time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from holdfast.schemas.documents import check_document, check_template
from holdfast.schemas.errors import PlanError, Unencodable, did_you_mean
from holdfast.schemas.expressions import CompiledExpression, expressions_in, render
from holdfast.schemas.plan import Plan, PlanDocument, TaskNode, plan_error, split_task_name
from holdfast.schemas.plan_checks import as_document, check_plan, check_run_fields
from holdfast.schemas.records import Manifest, RetryPolicy, TaskManifest

__all__ = [
    "ResolvedPlan",
    "ResolvedTask",
    "agents_of",
    "check_run_input",
    "render_inputs",
    "render_order_key",
    "resolve",
]

SchemaLookup = Callable[[int], Any]
"""Schema id to Avro schema (parsed JSON); raises `UnknownSchema`."""


class ResolvedTask(BaseModel):
    """What an agent says of a task, with the plan's own settings put over it. Milliseconds."""

    model_config = ConfigDict(frozen=True)

    agent: str
    task: str
    input_schema_id: int
    output_schema_id: int
    retry: RetryPolicy
    timeout_ms: int | None = None
    queue_timeout_ms: int | None = None


class ResolvedPlan(BaseModel):
    """What a run goes by: the plan, and its tasks' settings by task id."""

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
    if resolved.plan.tasks.keys() != resolved.tasks.keys():
        odd = sorted(resolved.plan.tasks.keys() ^ resolved.tasks.keys())[0]
        raise PlanError(
            f"resolved plan {resolved.plan.name!r}: task {odd!r} stands in one half only"
        )
    return resolved


def agents_of(plan: Plan | PlanDocument) -> frozenset[str]:
    """Return the names of the agents that a plan needs; raises `PlanError`."""
    nodes = as_document(plan).tasks.values()
    return frozenset(split_task_name(node.task)[0] for node in nodes)


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
    offered = {
        node_id: _offered(_place(document, node_id), node, manifests)
        for node_id, node in document.tasks.items()
    }
    for node_id, node in document.tasks.items():
        place = _place(document, node_id)
        _check_input(place, node, schemas(offered[node_id].input_schema_id))
        _check_selected_fields(place, document, node, offered, schemas)
    return ResolvedPlan(
        plan=document,
        tasks={
            node_id: _settle(node, offered[node_id]) for node_id, node in document.tasks.items()
        },
    )


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


def _offered(place: str, node: TaskNode, manifests: Mapping[str, Manifest]) -> TaskManifest:
    agent, task = split_task_name(node.task)
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
    )


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
    document: PlanDocument,
    node: TaskNode,
    offered: Mapping[str, TaskManifest],
    schemas: SchemaLookup,
) -> None:
    """Refuse `tasks.list.fils` where the output of `list` has no such field."""
    templates = [node.input, node.order_key, None if node.map is None else node.map.over]
    for template in templates:
        for expression in expressions_in(template):
            for name, field in _plain_selections(expression):
                if document.tasks[name].map is None:
                    _check_field(place, name, field, schemas(offered[name].output_schema_id))


def _plain_selections(expression: CompiledExpression) -> list[tuple[str, str]]:
    return [
        (reference.name, reference.field)
        for reference in expression.references
        if reference.root == "tasks"
        and reference.name is not None
        and reference.field is not None
        and reference.required
    ]


def _check_field(place: str, name: str, field: str, schema: Any) -> None:
    if not isinstance(schema, Mapping) or schema.get("type") != "record":
        return
    fields = [entry["name"] for entry in schema["fields"]]
    if field not in fields:
        raise PlanError(
            f"{place}: the output of {name!r} has no field {field!r}{did_you_mean(field, fields)}"
        )


def _reads_input_only(template: Any) -> bool:
    if template is None:
        return False
    found = [reference for each in expressions_in(template) for reference in each.references]
    return bool(found) and all(reference.root == "input" for reference in found)
