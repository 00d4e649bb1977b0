"""A compiled plan with a change: only what the change touches is compiled and checked again.

An added task can stand in no cycle of others, and nothing waits for it but what the change brings;
so what has to be looked at is what the change brings, and whatever waits for that.
"""

from __future__ import annotations

import hashlib
from collections import ChainMap
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from holdfast.coordinator.engine.graph import Drop, Graph, Node, compile_node, emitters_of
from holdfast.schemas.errors import PlanError, did_you_mean
from holdfast.schemas.plan import NODES_MAX, TaskNode
from holdfast.schemas.plan_change import PlanChangeDocument
from holdfast.schemas.plan_checks import DEPTH_MAX, cycle_in, dependencies_of
from holdfast.schemas.plan_turns import Worker, check_turns
from holdfast.schemas.plan_versions import ResolvedChange, maker_of
from holdfast.schemas.records import PlanRevision
from holdfast.schemas.resolution import ResolvedTask

__all__ = ["grow", "key_after"]


def key_after(key: str, revision: PlanRevision) -> str:
    """Return the key of the version that a change makes of another."""
    text = f"{key}\0{revision.task_id}\0{revision.change}"
    return hashlib.sha256(text.encode()).hexdigest()


def grow(graph: Graph, revisions: Iterable[PlanRevision]) -> Graph:
    """Return a plan with changes, taken one after the other; `graph` stays as it is.

    Raises `PlanError` for a cycle, an unknown reference, too many tasks, too long a chain.
    """
    growth = _Growth(graph)
    for revision in revisions:
        growth.take(revision)
    return growth.graph()


class _Growth:
    """A copy that changes are written into."""

    def __init__(self, graph: Graph) -> None:
        self._base = graph
        self._key = graph.key
        self._before = graph.before
        self._nodes = dict(graph.nodes)
        self._depths = dict(graph.depths)
        self._maps = dict.fromkeys(graph.maps)
        self._cancelled = dict.fromkeys(graph.cancelled)
        self._races = graph.races

    def take(self, revision: PlanRevision) -> None:
        resolved = ResolvedChange.from_json(revision.change)
        change, plan = resolved.change, self._base.name
        self._check_ids(change)
        new = change.nodes
        known = ChainMap[str, Any](new, self._nodes)
        dependencies = dependencies_of(plan, new, known)
        for name, spec in new.items():
            self._put(name, (spec, resolved.tasks), dependencies[name])
        for name in new:
            self._await(self._nodes[name])
        for name in new:
            self._check_emitter(self._nodes[name])
        if new:
            check_turns(plan, {name: self._worker(node) for name, node in self._nodes.items()})
        self._grade(new)
        for name in change.dropped:
            how = Drop.SKIP if name in change.skip else Drop.CANCEL
            self._nodes[name] = replace(self._nodes[name], dropped=how)
            if how is Drop.CANCEL:
                self._cancelled[name] = None
        maker = self._nodes.get(maker_of(revision))
        if change.add and maker is not None:
            self._nodes[maker.id] = replace(maker, grew=True)
        self._before, self._key = self._key, key_after(self._key, revision)

    def _check_emitter(self, node: Node) -> None:
        """Check what a new map goes over, and what maps go over that a new task hands out."""
        name = node.arrives_from
        pairs = [] if name is None else [(node.id, self._nodes[name])]
        pairs += [(n, node) for n in node.dependants if self._nodes[n].arrives_from == node.id]
        for map_id, emitter in pairs:
            if emitter.has_parts or emitter.inner is not None:
                raise PlanError(
                    f"plan {self._base.name!r}, task {map_id!r}: over: task {emitter.id!r} is a"
                    " plan, or is worked in parts; only a task that is worked once, by an agent,"
                    " hands out items that a map can go over"
                )

    def _worker(self, node: Node) -> Worker:
        """Return where a task's turn is; what is not to be worked any more has none."""
        plan_key = self._base.order_key
        key = plan_key if node.order_key_text is None else node.order_key_text
        alone = node.inner is not None or node.dropped is not None
        return Worker(
            agent=node.agent,
            order_key=None if alone else key,
            waits_for=node.dependencies,
            all_of_them=node.join == "all",
            arrives_from=node.arrives_from,
        )

    def _check_ids(self, change: PlanChangeDocument) -> None:
        nodes, plan = self._nodes, f"plan {self._base.name!r}"
        if len(nodes) + len(change.add) > NODES_MAX:
            raise PlanError(
                f"{plan} has {len(nodes)} tasks: with {len(change.add)} more it would have more"
                f" than {NODES_MAX}"
            )
        for name in change.add:
            if name in nodes:
                raise PlanError(
                    f"{plan} has a task {name!r} already: choose another id, or replace that one"
                )
        for name in (*change.replace, *change.dropped):
            if name not in nodes:
                raise PlanError(f"{plan} has no task {name!r}{did_you_mean(name, nodes)}")

    def _put(
        self,
        name: str,
        said: tuple[TaskNode, Mapping[str, ResolvedTask]],
        dependencies: tuple[str, ...],
    ) -> None:
        before = self._nodes.get(name)
        if before is not None:
            self._forget(before)
        dependants = () if before is None else before.dependants
        node = compile_node(name, said, self._base.wait, dependencies, dependants)
        self._nodes[name] = node
        self._races |= node.join != "all"
        if node.has_parts:
            self._maps[name] = None
        else:
            self._maps.pop(name, None)

    def graph(self) -> Graph:
        return replace(
            self._base,
            key=self._key,
            before=self._before,
            nodes=self._nodes,
            maps=tuple(self._maps),
            emitters=emitters_of(self._nodes[name] for name in self._maps),
            depths=self._depths,
            cancelled=tuple(self._cancelled),
            races=self._races,
        )

    def _forget(self, node: Node) -> None:
        """Nothing has to be told any more when what `node` waited for has ended."""
        for name in node.dependencies:
            other = self._nodes[name]
            left = tuple(waiting for waiting in other.dependants if waiting != node.id)
            self._nodes[name] = replace(other, dependants=left)

    def _await(self, node: Node) -> None:
        for name in node.dependencies:
            other = self._nodes[name]
            self._nodes[name] = replace(other, dependants=(*other.dependants, node.id))

    def _grade(self, changed: Mapping[str, object]) -> None:
        """Count the chains anew that pass a changed task (Kahn's algorithm among them alone)."""
        affected: dict[str, int] = {}
        found = list(changed)
        while found:
            name = found.pop()
            if name not in affected:
                affected[name] = 0
                found += self._nodes[name].dependants
        for name in affected:
            affected[name] = sum(other in affected for other in self._nodes[name].dependencies)
        ready = [name for name, count in affected.items() if count == 0]
        while ready:
            name = ready.pop()
            del affected[name]
            depth = 1 + max((self._depths[d] for d in self._nodes[name].dependencies), default=0)
            if depth > DEPTH_MAX:
                raise PlanError(
                    f"plan {self._base.name!r}: task {name!r} ends a chain of {depth} tasks; at"
                    f" most {DEPTH_MAX} are allowed"
                )
            self._depths[name] = depth
            for waiting in self._nodes[name].dependants:
                affected[waiting] -= 1
                if affected[waiting] == 0:
                    ready.append(waiting)
        if affected:
            rest = {name: self._nodes[name].dependencies for name in affected}
            raise PlanError(
                f"plan {self._base.name!r}: tasks wait for each other: {cycle_in(affected, rest)}"
            )
