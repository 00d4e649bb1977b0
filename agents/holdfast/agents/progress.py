"""What handlers say of how far they are: passed on, but not each word."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from holdfast.agents.ledger import Phase
from holdfast.agents.runs import Run

__all__ = ["PROGRESS_EVERY_S", "Progress", "Said"]

PROGRESS_EVERY_S = 1.0
"""A task's progress is passed on at most so often; of what comes between the newest is kept."""


@dataclass(frozen=True, slots=True)
class Said:
    """The newest word of a handler."""

    message: str
    fraction: float | None
    due_s: float


class Progress:
    """What the runs of one slot have said, and was not passed on yet. `at_s` is monotonic time."""

    def __init__(self) -> None:
        self._said: dict[Run, Said] = {}

    def take(self, run: Run, message: str, fraction: float | None, at_s: float) -> None:
        """Take note of a word."""
        due_s = max(at_s, run.progressed_s + PROGRESS_EVERY_S)
        self._said[run] = Said(message, fraction, due_s)

    def due_at_s(self) -> float | None:
        """Return when the next word is to be passed on."""
        return min((said.due_s for said in self._said.values()), default=None)

    def due(self, at_s: float) -> Iterator[tuple[Run, Said]]:
        """Yield what is to be passed on now; what is over is dropped."""
        for run, said in list(self._said.items()):
            if not run.live or run.entry.phase is not Phase.RUNNING:
                del self._said[run]
            elif said.due_s <= at_s:
                del self._said[run]
                run.progressed_s = at_s
                yield run, said

    def clear(self) -> None:
        """Forget all of it."""
        self._said.clear()
