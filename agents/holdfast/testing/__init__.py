"""What tests of Holdfast, and of what is built on it, are made with and judged by.

Holds the kit for users' tests (`Simulation`: agents and plans on a simulated bus, with virtual
time, crashed at every step), and what histories are judged by: the history of a namespace
(`History`, collected by a `Recorder`), what was seen from outside (`Evidence`), and the invariants
that both must satisfy (`check`). A composition root: may use all of Holdfast. Must never: be
imported by the production code.
"""

from holdfast.testing.bodies import Call
from holdfast.testing.crashing import CrashPoint, Moment
from holdfast.testing.evidence import (
    BodyEnd,
    BodyStart,
    EffectSeen,
    Evidence,
    EvidenceFile,
    Excused,
    PoisonSent,
    Quiet,
    Row,
    StateHash,
    Submission,
    Usage,
)
from holdfast.testing.history import CommitSeen, Decoded, Gap, History, JournalEntry
from holdfast.testing.invariants import INVARIANTS, Invariant, Verdict, Violation, check
from holdfast.testing.kit import Crash, Simulation, SimulationError
from holdfast.testing.recorder import Recorder
from holdfast.testing.scenes import SceneCrash, crashes_in
from holdfast.testing.sim.threads import BatonHeld
from holdfast.testing.sim.world import StandStill
from holdfast.testing.simulated import SimulatedRun

__all__ = [
    "INVARIANTS",
    "BatonHeld",
    "BodyEnd",
    "BodyStart",
    "Call",
    "CommitSeen",
    "Crash",
    "CrashPoint",
    "Decoded",
    "EffectSeen",
    "Evidence",
    "EvidenceFile",
    "Excused",
    "Gap",
    "History",
    "Invariant",
    "JournalEntry",
    "Moment",
    "PoisonSent",
    "Quiet",
    "Recorder",
    "Row",
    "SceneCrash",
    "SimulatedRun",
    "Simulation",
    "SimulationError",
    "StandStill",
    "StateHash",
    "Submission",
    "Usage",
    "Verdict",
    "Violation",
    "check",
    "crashes_in",
]
