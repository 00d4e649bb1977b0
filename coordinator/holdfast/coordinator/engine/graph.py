"""Resolved plans, compiled once for all runs of the same plan.

What the engine asks of a plan in its hot path (who waits for whom, what an input is made of) is
precomputed here; pydantic models and plan texts are left behind.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from holdfast.coordinator.engine.counting import UNDOING
from holdfast.coordinator.engine.templates import Template, compile_condition, compile_template
from holdfast.schemas.ids import OwnSchema
from holdfast.schemas.plan import PlanDocument, TaskNode
from holdfast.schemas.plan_checks import check_plan, condition_in, emitter_of
from holdfast.schemas.plan_settings import CompensateOn, FailureShare
from holdfast.schemas.records import RetryPolicy, TaskEntry
from holdfast.schemas.resolution import (
    ResolvedPlan,
    ResolvedTask,
    compensation_path,
    inner_plan,
    reducer_path,
)

__all__ = ["Drop", "Graph", "Node", "call_node", "compile_graph", "compile_node", "emitters_of"]

_SHOWN_CHARS = 160


class Drop(Enum):
    """How a change of the plan takes a task out of it."""

    SKIP = "skip"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Loop:
    """How a task is repeated; see `holdfast.schemas.plan_settings.Repeat`."""

    until: Template
    at_most: int
    fails_exhausted: bool


@dataclass(frozen=True, slots=True)
class Inner:
    """A plan that stands in a task: its resolved JSON, its name, its order key's template."""

    source: str
    name: str
    order_key: str | None


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
    order_key_text: str | None
    wait: bool
    dependencies: tuple[str, ...]
    dependants: tuple[str, ...]
    reads: frozenset[str]
    """Tasks whose outputs its expressions name."""
    join: str | int = "all"
    """How many of its dependencies must have succeeded; see `holdfast.schemas.plan.TaskNode`."""
    leaves_losers: bool = False
    share: FailureShare | None = None
    """A map: how many of its items may fail, where that is neither none nor all."""
    reducer: ResolvedTask | None = None
    loop: Loop | None = None
    inner: Inner | None = None
    progress_timeout_ms: int | None = None
    output_schema_id: int = OwnSchema.Json
    """Of the work: a map's items, a loop's rounds."""
    dropped: Drop | None = None
    """What a change of the plan said: it is not to be worked any more."""
    undo: Node | None = None
    """What undoes it, an item or a round of it: its id, with `!` before it."""
    arrives_from: str | None = None
    """A map: the task over whose items it goes, which its handler hands out while it works."""
    grew: bool = False
    """Its handler added tasks to the plan: it is no end of the plan, they are."""

    @property
    def undoes(self) -> bool:
        """Whether it undoes another one."""
        return self.id.startswith(UNDOING)

    @property
    def has_parts(self) -> bool:
        """Whether it is worked in parts: the items of a map, the rounds of a loop."""
        return self.over is not None or self.loop is not None

    def failures_allowed(self, items: int) -> int:
        """Return how many of a map's items may fail without failing it."""
        if self.share is not None:
            return self.share.allowed(items)
        return items if self.collect else 0


@dataclass(frozen=True, slots=True)
class Continuation:
    """What follows a run that has succeeded; see `holdfast.schemas.plan_settings.ContinueAsNew`."""

    when: Template
    input: Template


@dataclass(frozen=True, slots=True)
class Graph:
    """A compiled plan. `source` is its text, one object for all runs that share it. `maps`: loops
    too, all tasks that are worked in parts.

    A plan that was changed has the source of the first version; `key` names it with its changes.
    """

    source: str
    key: str
    name: str
    nodes: dict[str, Node]
    maps: tuple[str, ...]
    output: Template | None
    deadline_ms: int | None
    wait: bool
    """What a dead letter does where its task says nothing: leave the run open."""
    depths: dict[str, int]
    """How many tasks stand in the longest chain that ends with each."""
    cancelled: tuple[str, ...] = ()
    """Tasks that changes of the plan cancelled."""
    before: str = ""
    """The key of the version that it was made from."""
    continuation: Continuation | None = None
    order_key: str | None = None
    """The template of its runs' order key."""
    races: bool = False
    """Whether some task does not need all that it waits for."""
    compensate_on: CompensateOn = "both"
    emitters: tuple[str, ...] = ()
    """Tasks over whose items a map goes while they work."""

    @property
    def sinks(self) -> tuple[str, ...]:
        """The tasks that no other waits for. One that added others is no end of a plan, they are;
        what was skipped or cancelled is no part of it any more."""
        nodes = self.nodes
        return tuple(
            node.id
            for node in nodes.values()
            if node.dropped is None
            and not node.grew
            and all(nodes[name].dropped is not None for name in node.dependants)
        )


def compile_graph(source: str) -> Graph:
    """Compile a resolved plan's JSON; raises `PlanError` for one that cannot be run."""
    plan = ResolvedPlan.from_json(source)
    shape = check_plan(plan.plan)
    dependants: dict[str, list[str]] = {name: [] for name in shape.dependencies}
    for name, waited_for in shape.dependencies.items():
        for other in waited_for:
            dependants[other].append(name)
    document = plan.plan
    nodes = {
        name: compile_node(
            name,
            (document.tasks[name], plan.tasks),
            document.on_dead_letter == "wait",
            shape.dependencies[name],
            dependants[name],
        )
        for name in shape.dependencies
    }
    for maker in {spec.added_by for spec in document.tasks.values()}:
        if maker is not None and maker in nodes:
            nodes[maker] = replace(nodes[maker], grew=True)
    return Graph(
        source=source,
        key=hashlib.sha256(source.encode()).hexdigest(),
        name=document.name,
        nodes=nodes,
        maps=tuple(name for name, node in nodes.items() if node.has_parts),
        output=None if document.output is None else compile_template(document.output, "output"),
        deadline_ms=None if document.deadline_s is None else round(document.deadline_s * 1_000),
        wait=document.on_dead_letter == "wait",
        depths=dict(shape.depths),
        continuation=_continuation(document),
        order_key=document.order_key,
        races=any(node.join != "all" for node in nodes.values()),
        compensate_on=document.compensate_on,
        emitters=emitters_of(nodes.values()),
    )


def emitters_of(nodes: Iterable[Node]) -> tuple[str, ...]:
    """Return the tasks over whose items some of `nodes` go, each once."""
    found = [node.arrives_from for node in nodes if node.arrives_from is not None]
    return tuple(dict.fromkeys(found))


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
        output_schema_id=(
            OwnSchema.Json if spec.output_schema_id is None else spec.output_schema_id
        ),
        when=None,
        over=None,
        max_parallel=1,
        collect=False,
        retry=spec.retry,
        timeout_ms=spec.timeout_ms,
        queue_timeout_ms=spec.queue_timeout_ms,
        progress_timeout_ms=spec.progress_timeout_ms,
        order_key=None,
        loose_order=False,
        order_key_text=None,
        # The caller hears of a failure, and decides; nobody does of one to undo a step.
        wait=row.task_id.startswith(UNDOING),
        dependencies=(),
        dependants=(),
        reads=frozenset(),
    )


def compile_node(
    name: str,
    said: tuple[TaskNode, Mapping[str, ResolvedTask]],
    wait: bool,
    dependencies: Iterable[str],
    dependants: Iterable[str],
) -> Node:
    """Compile one task of a plan: what the plan says of it, and what its agents said, by path.

    `wait`: what a dead letter does where the task says nothing. Raises `PlanError`.
    """
    spec, works = said
    input_ = _input(spec.input, is_map=spec.map is not None)
    when = None if spec.when is None else compile_condition(condition_in(spec.when), "when")
    over = None if spec.map is None else compile_template(spec.map.over, "over")
    order_key = None if spec.order_key is None else compile_template(spec.order_key, "order_key")
    loop = _loop(spec)
    until = None if loop is None else loop.until
    used = [each for each in (input_, when, over, order_key, until) if each is not None]
    share = None if spec.map is None else spec.map.on_failure
    reducer = None if spec.map is None or spec.map.reduce is None else works[reducer_path(name)]
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
        order_key_text=spec.order_key,
        wait=wait if spec.on_dead_letter is None else spec.on_dead_letter == "wait",
        dropped=None if spec.dropped is None else Drop(spec.dropped),
        dependencies=tuple(dependencies),
        dependants=tuple(dependants),
        reads=frozenset().union(*(template.tasks for template in used)),
        join=spec.join,
        leaves_losers=spec.losers == "leave",
        share=share if isinstance(share, FailureShare) else None,
        arrives_from=None if spec.map is None else emitter_of(spec.map.over),
        reducer=reducer,
        loop=loop,
        inner=_inner(name, spec, works),
        undo=_undo_node(name, spec, works),
        **(_resolved(works[name]) if spec.plan is None else _planned(spec)),
    )


def _undo_node(name: str, spec: TaskNode, works: Mapping[str, ResolvedTask]) -> Node | None:
    work = works.get(compensation_path(name))
    if work is None:
        return None
    said = spec.compensate.input if spec.compensate else work.input
    return Node(
        id=f"{UNDOING}{name}",
        input=compile_template(said, "compensate.input"),
        input_text=_shown(said),
        when=None,
        over=None,
        max_parallel=1 if spec.map is None else spec.map.max_parallel,
        collect=False,
        order_key=None,  # that of what it undoes
        loose_order=False,
        order_key_text=None,
        wait=True,  # what could not be undone is for people, whatever the plan says
        dependencies=(),
        dependants=(),
        reads=frozenset(),
        **_resolved(work),
    )


def _loop(spec: TaskNode) -> Loop | None:
    repeat = spec.repeat
    if repeat is None:
        return None
    until = compile_condition(condition_in(repeat.until), "until")
    return Loop(until, repeat.at_most, repeat.on_exhausted == "fail")


def _inner(name: str, spec: TaskNode, works: Mapping[str, ResolvedTask]) -> Inner | None:
    if spec.plan is None:
        return None
    plan = inner_plan(name, spec.plan, works)
    compile_graph(plan.to_json())  # raises here what would else fail the run that it becomes
    return Inner(plan.to_json(), spec.plan.name, spec.plan.order_key)


def _planned(spec: TaskNode) -> dict[str, Any]:
    """What stands for the settings of an agent's task where a run of its own does the work."""
    assert spec.plan is not None, "asked for by whoever saw it"
    return {
        "agent": "",
        "task": spec.plan.name,
        "input_schema_id": OwnSchema.Json,
        "retry": RetryPolicy(attempts=1),
        "timeout_ms": None if spec.timeout_s is None else max(1, round(spec.timeout_s * 1_000)),
        "queue_timeout_ms": None,
    }


def _continuation(document: PlanDocument) -> Continuation | None:
    after = document.continue_as_new
    if after is None:
        return None
    when = compile_condition(condition_in(after.when), "continue_as_new.when")
    return Continuation(when, compile_template(after.input, "continue_as_new.input"))


def _resolved(task: ResolvedTask) -> dict[str, Any]:
    return {
        "agent": task.agent,
        "task": task.task,
        "input_schema_id": task.input_schema_id,
        "output_schema_id": task.output_schema_id,
        "retry": task.retry,
        "timeout_ms": task.timeout_ms,
        "queue_timeout_ms": task.queue_timeout_ms,
        "progress_timeout_ms": task.progress_timeout_ms,
    }


def _input(template: Any, *, is_map: bool) -> Template:
    if template is None:
        template = "${item}" if is_map else {}
    return compile_template(template, "input")


def _shown(template: Any) -> str:
    text = json.dumps(template, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 3] + "..."
