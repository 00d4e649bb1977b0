"""Keys of an agent's journal, made and read in one place.

    <run id>/<task id>                          Accepted, or Failed
    <run id>/<task id>/step/<name>/<key>        StepEntry
    <run id>/<task id>/cancelled                Cancelled
    /state/…, /deletion/…                       see `holdfast.schemas.state_keys`
    /paused…                                    see `holdfast.schemas.pauses`

Run ids, task ids and step names hold no slash (each is checked where it enters); a step's key may.
"""

from __future__ import annotations

from typing import NamedTuple

from holdfast.agents.ledger.folded import FoldedStep
from holdfast.schemas.records import (
    Accepted,
    AgentPause,
    Cancelled,
    Failed,
    StateDeletion,
    StateEntry,
    StepEntry,
)

__all__ = [
    "JournalBody",
    "Place",
    "cancelled_key",
    "fold_step",
    "parse_key",
    "step_key",
    "task_key",
]

JournalBody = Accepted | Failed | StepEntry | Cancelled | StateEntry | StateDeletion | AgentPause


class Place(NamedTuple):
    """What a journal key names: `step` is None unless it is a step's key."""

    task: str
    step: tuple[str, str] | None
    cancelled: bool


def task_key(run_id: str, task_id: str) -> str:
    """Return `<task>`: the name of a task everywhere."""
    return f"{run_id}/{task_id}"


def step_key(task: str, name: str, key: str) -> str:
    """Return the journal key of a step of `task`."""
    return f"{task}/step/{name}/{key}"


def cancelled_key(task: str) -> str:
    """Return the journal key of a cancel that came before the record of `task`."""
    return f"{task}/cancelled"


def fold_step(key: str, value: bytes) -> FoldedStep | None:
    """Return the step that stands under `key`, not decoded; None for another kind of key."""
    parts = key.split("/", 4)
    if len(parts) != 5 or parts[2] != "step":
        return None
    return FoldedStep(f"{parts[0]}/{parts[1]}", parts[3], parts[4], value)


def parse_key(key: str) -> Place | None:
    """Return what `key` names; None for a key of a kind that is not known here."""
    parts = key.split("/", 4)
    if len(parts) == 2:
        return Place(key, None, cancelled=False)
    task = "/".join(parts[:2])
    if len(parts) == 3 and parts[2] == "cancelled":
        return Place(task, None, cancelled=True)
    if len(parts) == 5 and parts[2] == "step":
        return Place(task, (parts[3], parts[4]), cancelled=False)
    return None
