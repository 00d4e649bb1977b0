"""Planted bugs: do the checkers see?

    with plant("offset-outside-the-commit"):
        ...                     # the production code of this process has the bug

`BUGS` is the table, one small function a bug (`slots`, `agents`, `coordinators`, `adapters`,
`clients`), each the mistake that a good engineer could make in this code. `python -m tests.planted`
runs a suite against each of them and writes what found it, and when.

Uses: the production code, whose functions it changes in place. Must never: be imported by it.
"""

from __future__ import annotations

from tests.planted import adapters, agents, clients, coordinators, slots
from tests.planted.patching import PlantingError
from tests.planted.table import BUGS, Bug, plant

__all__ = ["BUGS", "Bug", "PlantingError", "plant"]

AREAS = (slots, agents, coordinators, clients, adapters)
"""The modules that have filled the table."""
