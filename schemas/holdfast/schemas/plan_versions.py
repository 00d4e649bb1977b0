"""The versions of a run's plan: changes resolved, put together, compared.

Pure. A run begins with version 1, what was submitted; each change of its plan makes the next one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError

from holdfast.schemas.plan import PlanDocument, TaskNode, plan_error, split_task_name
from holdfast.schemas.plan_change import PlanChangeDocument
from holdfast.schemas.records import Manifest, PlanRevision
from holdfast.schemas.resolution import (
    ResolvedPlan,
    ResolvedTask,
    SchemaLookup,
    resolve_tasks,
    works_of,
)

__all__ = [
    "PlanDifference",
    "ResolvedChange",
    "agents_of_change",
    "changed_plan",
    "compare_plans",
    "maker_of",
    "resolve_change",
]

DifferenceKind: TypeAlias = Literal["added", "removed", "changed", "dropped"]


class ResolvedChange(BaseModel):
    """A change, and what its agents said of its new tasks when it was made."""

    model_config = ConfigDict(frozen=True)

    change: PlanChangeDocument
    tasks: dict[str, ResolvedTask]

    def to_json(self) -> str:
        """Return the canonical JSON: the same change always gives the same text."""
        return self.model_dump_json(exclude_defaults=True)

    @classmethod
    def from_json(cls, text: str) -> ResolvedChange:
        """Read it; raises `PlanError`."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise plan_error(error, "resolved plan change") from None

    def without(self, ids: Iterable[str]) -> ResolvedChange:
        """Return it without what it says of some tasks."""
        left = set(ids)
        if not left:
            return self
        change = PlanChangeDocument(
            add={name: node for name, node in self.change.add.items() if name not in left},
            replace={name: node for name, node in self.change.replace.items() if name not in left},
            skip=tuple(name for name in self.change.skip if name not in left),
            cancel=tuple(name for name in self.change.cancel if name not in left),
        )
        tasks = {path: task for path, task in self.tasks.items() if _owner(path) not in left}
        return ResolvedChange(change=change, tasks=tasks)


def agents_of_change(change: PlanChangeDocument) -> frozenset[str]:
    """Return the names of the agents that a change needs; raises `PlanError`."""
    return frozenset(split_task_name(name)[0] for _, name in works_of(change.nodes))


def _owner(path: str) -> str:
    """Return the plan's task that a path belongs to; see `works_of`."""
    return path.partition("/")[0].partition("~")[0]


def resolve_change(
    change: PlanChangeDocument, manifests: Mapping[str, Manifest], schemas: SchemaLookup
) -> ResolvedChange:
    """Check a change against the agents' manifests, and fill in their settings.

    What it refers to is checked where the plan is known. Raises as `resolve`.
    """
    tasks = resolve_tasks("plan change", change.nodes, manifests, schemas)
    return ResolvedChange(change=change, tasks=tasks)


def changed_plan(plan: ResolvedPlan, revisions: Iterable[PlanRevision]) -> ResolvedPlan:
    """Return the plan that changes, taken one after the other, make of `plan`.

    A task that was skipped or cancelled stays in it, and says so; one that was added names the task
    that did it. Raises `PlanError` for a change that cannot be read.
    """
    nodes, tasks = dict(plan.plan.tasks), dict(plan.tasks)
    for revision in revisions:
        resolved = ResolvedChange.from_json(revision.change)
        change, maker = resolved.change, maker_of(revision)
        for name, node in change.add.items():
            nodes[name] = node.model_copy(update={"added_by": maker if maker in nodes else None})
        for name, node in change.replace.items():
            nodes[name] = node.model_copy(update={"added_by": nodes[name].added_by})
        if change.replace:
            tasks = {path: t for path, t in tasks.items() if _owner(path) not in change.replace}
        tasks.update(resolved.tasks)
        for name in change.dropped:
            how = "skip" if name in change.skip else "cancel"
            nodes[name] = nodes[name].model_copy(update={"dropped": how})
    # Not validated again: its parts were, and a plan of 10,000 tasks takes long.
    return ResolvedPlan(plan=plan.plan.model_copy(update={"tasks": nodes}), tasks=tasks)


def maker_of(revision: PlanRevision) -> str:
    """Return the plan's task whose handler made a change; of an item or a round its task."""
    return revision.task_id.partition(".")[0]


# --- comparing ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlanDifference:
    """What became of one task from one version of a plan to another.

    `dropped`: it was skipped or cancelled. `details`: for `changed`, each setting with what it was
    and what it is (JSON values; None: not set).
    """

    kind: DifferenceKind
    task_id: str
    task: str
    details: tuple[tuple[str, Any, Any], ...] = ()


def compare_plans(before: PlanDocument, after: PlanDocument) -> list[PlanDifference]:
    """Return how two versions of a plan differ, in the order of their tasks."""
    return list(_differences(before, after))


def _differences(before: PlanDocument, after: PlanDocument) -> Iterator[PlanDifference]:
    for name, node in before.tasks.items():
        now = after.tasks.get(name)
        if now is None:
            yield PlanDifference("removed", name, node.task)
        elif now != node:
            dropped = now.dropped is not None and node.dropped is None
            yield PlanDifference(
                "dropped" if dropped else "changed",
                name,
                now.task,
                () if dropped else tuple(_details(node, now)),
            )
    for name, node in after.tasks.items():
        if name not in before.tasks:
            yield PlanDifference("added", name, node.task)


def _details(before: TaskNode, after: TaskNode) -> Iterator[tuple[str, Any, Any]]:
    was, is_ = _settings(before), _settings(after)
    for name in TaskNode.model_fields:
        if was.get(name) != is_.get(name):
            yield name, was.get(name), is_.get(name)


def _settings(node: TaskNode) -> dict[str, Any]:
    return node.model_dump(mode="json", exclude_defaults=True)
