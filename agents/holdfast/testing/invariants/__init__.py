"""The invariants I1 to I14: what must hold of every history, whatever was done to it.

    verdict = check(history, evidence)
    assert verdict.ok, verdict.report()

Each invariant is one function with its statement as docstring, in the module of its subject. May
use: history, evidence, and the pure parts of the areas (to replay decisions). Must never: do I/O,
read a clock, or excuse what it cannot judge: that is told in `Verdict.not_checkable`.
"""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from holdfast.testing.evidence import Evidence
from holdfast.testing.history import History
from holdfast.testing.invariants.ends import everything_settles, one_end, one_run_per_id
from holdfast.testing.invariants.endurance import nothing_grows
from holdfast.testing.invariants.kept import state_follows_successes
from holdfast.testing.invariants.offsets import offsets_and_outputs, one_writer
from holdfast.testing.invariants.order import dependencies_first, order_is_kept
from holdfast.testing.invariants.poison import poison_is_kept_whole
from holdfast.testing.invariants.replay import same_decisions, same_state
from holdfast.testing.invariants.results import committed_causes, once_each
from holdfast.testing.invariants.verdict import Check, Findings, Invariant, Verdict, Violation

__all__ = ["INVARIANTS", "Findings", "Invariant", "Verdict", "Violation", "check"]

_CHECKS: dict[str, Check] = {
    "I1": one_end,
    "I2": once_each,
    "I3": same_decisions,
    "I4": offsets_and_outputs,
    "I5": committed_causes,
    "I6": one_writer,
    "I7": dependencies_first,
    "I8": poison_is_kept_whole,
    "I9": everything_settles,
    "I10": one_run_per_id,
    "I11": same_state,
    "I12": nothing_grows,
    "I13": order_is_kept,
    "I14": state_follows_successes,
}

INVARIANTS: dict[str, Invariant] = {
    name: Invariant(name, (function.__doc__ or "").partition("\n")[0], function)
    for name, function in _CHECKS.items()
}
"""All of them by name, in order."""


def check(history: History, evidence: Evidence, *, only: Collection[str] | None = None) -> Verdict:
    """Check all invariants, or those named in `only`.

    Raises `Undecodable` when a journal holds what cannot be read (nobody else writes there), and
    `KeyError` for a name that is none.
    """
    names = list(INVARIANTS) if only is None else list(only)
    verdict = Verdict()
    with _no_collection():
        for name in names:
            found = Findings(name)
            INVARIANTS[name].check(history, evidence, found)
            verdict.add(found)
    return verdict


@contextmanager
def _no_collection() -> Iterator[None]:
    """Millions of decoded records that all stay alive: to look for garbage takes half the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
