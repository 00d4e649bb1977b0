"""What slots of sources are told, and keep: `control.source-<name>`, `journal.source-<name>`."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.schemas.records.events import RunState
from holdfast.schemas.records.parts import FORMAT_VERSION

__all__ = ["RunEnded", "SourceJournal"]


@dataclass(slots=True)
class RunEnded:
    """The coordinator's word to the source that submitted a run: one for each submission.

    `state` None: there is no such run; it was refused, or its id was used before.
    """

    run_id: str
    state: RunState | None
    at_ms: int
    version: int = FORMAT_VERSION


@dataclass(slots=True)
class SourceJournal:
    """Journal key `open`: how many runs this slot has submitted that have not ended."""

    open_runs: int
    version: int = FORMAT_VERSION
