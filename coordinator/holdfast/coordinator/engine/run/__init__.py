"""The first kind of entity: a run, which works through a plan.

Holds what a run does with each input. May use: the engine's own modules, `schemas`. Must never:
read a clock, draw lots, do I/O, or keep anything outside of the overlay it was given.
"""

from __future__ import annotations

from holdfast.coordinator.engine.run.kind import RunKind
from holdfast.coordinator.engine.run.lists import EvaluatedLists
from holdfast.coordinator.engine.run.transition import Scope

__all__ = ["EvaluatedLists", "RunKind", "Scope"]
