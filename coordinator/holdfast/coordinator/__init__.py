"""Coordinators: runs of plans, worked through by agents over the bus.

Holds the pure `engine` (entities, states, transitions), the service that hosts it in slots, and
the process around it; beside them, apart, the `projection` for readers. May use: `bus`,
`schemas`. Must never: import `agents` (they speak by records alone), or keep anything that its
journal does not hold.
"""

from __future__ import annotations

from holdfast.coordinator.process import CoordinatorRuntime, ProcessSettings, run_coordinator
from holdfast.coordinator.settings import CoordinatorSettings

__all__ = ["CoordinatorRuntime", "CoordinatorSettings", "ProcessSettings", "run_coordinator"]
