"""What a check found, what it looked at, and what it could not judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from holdfast.testing.evidence import Evidence
from holdfast.testing.history import History

__all__ = ["Findings", "Invariant", "Verdict", "Violation"]

VIOLATIONS_MAX = 200
"""So many violations of one invariant are told; the rest is counted."""


class Violation(NamedTuple):
    """`invariant`: "I1" ... "I14"; `what` is wrong; `where`: a place on the bus, or a name."""

    invariant: str
    what: str
    where: str

    def __str__(self) -> str:
        return f"{self.invariant} at {self.where}: {self.what}"


class Findings:
    """What one invariant finds, while it looks."""

    def __init__(self, invariant: str) -> None:
        self.invariant = invariant
        self.violations: list[Violation] = []
        self.untold = 0
        self.looked_at: Counter[str] = Counter()
        self.not_checkable: list[str] = []

    def violated(self, what: str, where: str) -> None:
        """Note a violation."""
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(Violation(self.invariant, what, where))
        else:
            self.untold += 1

    def looked(self, what: str, count: int = 1) -> None:
        """Count what was looked at; `what` is a plural noun."""
        self.looked_at[what] += count

    def cannot(self, why: str) -> None:
        """Note something that this history or evidence does not tell."""
        if why not in self.not_checkable:
            self.not_checkable.append(why)


Check: TypeAlias = Callable[[History, Evidence, Findings], None]


@dataclass(frozen=True, slots=True)
class Invariant:
    """One invariant: its name, its statement (one sentence), and the function that checks it."""

    name: str
    statement: str
    check: Check


@dataclass(slots=True)
class Verdict:
    """The outcome of `check`.

    `looked_at`: by invariant, how many of what were looked at: a check that saw nothing proves
    nothing. `not_checkable`: by invariant, what it could not judge, and why. `untold`: how many
    violations there are beside those in `violations`.
    """

    violations: list[Violation] = field(default_factory=list)
    looked_at: dict[str, dict[str, int]] = field(default_factory=dict)
    not_checkable: dict[str, list[str]] = field(default_factory=dict)
    untold: int = 0

    @property
    def ok(self) -> bool:
        """True without a violation."""
        return not self.violations

    def of(self, invariant: str) -> list[Violation]:
        """Return the violations of one invariant."""
        return [found for found in self.violations if found.invariant == invariant]

    def seen(self, invariant: str) -> int:
        """Return how many things an invariant looked at, all kinds together."""
        return sum(self.looked_at.get(invariant, {}).values())

    def add(self, found: Findings) -> None:
        """Take over what one invariant found."""
        self.violations += found.violations
        self.untold += found.untold
        self.looked_at[found.invariant] = dict(found.looked_at)
        if found.not_checkable:
            self.not_checkable[found.invariant] = found.not_checkable

    def report(self) -> str:
        """Return all of it as text, for a test's message."""
        lines = [str(violation) for violation in self.violations]
        if self.untold:
            lines.append(f"... and {self.untold} more")
        for name, counts in self.looked_at.items():
            told = ", ".join(f"{count} {what}" for what, count in counts.items()) or "nothing"
            lines.append(f"{name} looked at {told}")
            lines += [f"{name} could not judge: {why}" for why in self.not_checkable.get(name, [])]
        return "\n".join(lines)
