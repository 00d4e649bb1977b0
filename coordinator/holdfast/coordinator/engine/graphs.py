"""Compiled plans, kept for all runs that share them; versions of changed ones by their keys."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

from holdfast.coordinator.engine.graph import Graph, compile_graph
from holdfast.coordinator.engine.growth import grow
from holdfast.schemas.records import PlanRevision

__all__ = ["Graphs"]

GRAPHS_MAX = 256
"""Plans, and versions of plans, that are kept compiled."""


class Graphs:
    """Compiled plans by their text, versions by their keys; the least recently used are dropped.

    No part of the state: all of it can be made again.
    """

    def __init__(self, limit: int = GRAPHS_MAX) -> None:
        self._limit = limit
        self._graphs: OrderedDict[str, Graph] = OrderedDict()
        self._versions: OrderedDict[str, Graph] = OrderedDict()

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

    def version(
        self, source: str, key: str, revisions: Callable[[], Iterable[PlanRevision]]
    ) -> Graph:
        """Return the graph of a changed plan; what is not kept is made from its `revisions`."""
        graph = self._versions.get(key)
        if graph is None:
            graph = self._keep(grow(self.get(source), revisions()))
        else:
            self._versions.move_to_end(key)
        return graph

    def grown(self, graph: Graph, revision: PlanRevision) -> Graph:
        """Return a plan with one more change; raises `PlanError`."""
        after = self._keep(grow(graph, [revision]))
        # Of a plan that grows, its last two versions: the event that grows it may enter again.
        self._versions.pop(graph.before, None)
        return after

    def _keep(self, graph: Graph) -> Graph:
        self._versions[graph.key] = graph
        if len(self._versions) > self._limit:
            self._versions.popitem(last=False)
        return graph
