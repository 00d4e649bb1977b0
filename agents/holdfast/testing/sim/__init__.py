"""The simulated world: a bus, processes and time, all from one seed.

`SimBus` is the third implementation of the bus's port and passes the contract suite. `World` runs
the real runtimes on it, on one thread, under a virtual clock, and hurts them.

Uses: the bus's port. Must never: know what an agent or a run is; look at a real clock.
"""

from __future__ import annotations

from holdfast.testing.sim.broker import SimBroker, SimTiming
from holdfast.testing.sim.bus import SimBus
from holdfast.testing.sim.loop import Clock, SimLoop
from holdfast.testing.sim.network import Fate, Request, RequestKind
from holdfast.testing.sim.world import Process, StandStill, World

__all__ = [
    "Clock",
    "Fate",
    "Process",
    "Request",
    "RequestKind",
    "SimBroker",
    "SimBus",
    "SimLoop",
    "SimTiming",
    "StandStill",
    "World",
]
