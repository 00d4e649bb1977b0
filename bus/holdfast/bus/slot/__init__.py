"""The slot: own it, restore it, run a machine in it, commit for it, give it up.

Written once and used by agents and coordinators alike. Uses the port of the bus and the journal's
own schema; must never know what a task or a run is, and never opens a transaction that outlasts
one commit.
"""

from holdfast.bus.slot.host import SlotHost, SlotSettings
from holdfast.bus.slot.intake import Intake
from holdfast.bus.slot.journal import ProcessIdentity
from holdfast.bus.slot.machine import (
    Change,
    Commit,
    MachineFactory,
    Opened,
    SlotControl,
    SlotMachine,
)
from holdfast.bus.slot.slot import DuplicateInstance
from holdfast.bus.slot.watchdog import Watchdog

__all__ = [
    "Change",
    "Commit",
    "DuplicateInstance",
    "Intake",
    "MachineFactory",
    "Opened",
    "ProcessIdentity",
    "SlotControl",
    "SlotHost",
    "SlotMachine",
    "SlotSettings",
    "Watchdog",
]
