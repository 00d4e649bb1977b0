"""The ids of runs: one rule for clients, handlers and the coordinator. See docs/protocol.md.

Anybody can write to the coordinator's topic, and ids are parts of journal keys: what has a slash
would come back from the journal as a part of another run.
"""

from __future__ import annotations

import re

from holdfast.schemas.errors import PlanError

__all__ = ["check_run_id", "is_run_id"]

ID_CHARS_SHOWN = 256
_GIVEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_CONTINUED = re.compile(_GIVEN.pattern + r"(~[0-9]{1,10})?")
"""A run that continues another has `~` and a number behind that one's id; nobody else gives it."""


def is_run_id(text: str) -> bool:
    """Whether a run may have this id, one that continues another too."""
    return _CONTINUED.fullmatch(text) is not None


def check_run_id(run_id: str, *, known: bool = False) -> str:
    """Return a run id; raises `PlanError` for one that cannot be used.

    `known`: that of a run that is there, which may be one that continues another (`<id>~<n>`).
    """
    allowed = _CONTINUED if known else _GIVEN
    if not isinstance(run_id, str) or allowed.fullmatch(run_id) is None:
        raise PlanError(
            f"run id {str(run_id)[:ID_CHARS_SHOWN]!r} cannot be used: 1 to 128 letters, digits,"
            " '.', '_', ':' and '-', the first a letter or a digit"
        )
    return run_id
