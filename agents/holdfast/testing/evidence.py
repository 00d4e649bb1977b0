"""What was seen from outside of the bus: the half of the proof that no log can hold.

`Evidence` is a list of rows in the order in which they were seen. In a simulation they are added
in memory; real processes append each row as one JSON line to one shared file (`EvidenceFile`), and
the judge loads it (`Evidence.load`). The order of the lines is the order of the rows.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

__all__ = [
    "BodyEnd",
    "BodyStart",
    "EffectSeen",
    "Evidence",
    "EvidenceFile",
    "Excused",
    "PoisonSent",
    "Quiet",
    "Row",
    "StateHash",
    "Submission",
    "Usage",
]


@dataclass(frozen=True, slots=True)
class Submission:
    """A run that somebody asked for.

    `answered`: the client was told that it stands on the bus; without, it may or may not be there.
    Write it once more, answered, when a repeated submission got its answer.
    """

    run_id: str
    answered: bool
    plan: str
    input_digest: str = ""
    order_key: str | None = None


@dataclass(frozen=True, slots=True)
class BodyStart:
    """A user's code began: a handler (`step` None) or the body of a step or effect.

    `process`: anything that tells one process from another (a process id, or its UUID).
    `after_commit`: how many commits of `History.commits` stood then, where that is known (a
    simulation); `at_ms` is wall time.
    """

    run_id: str
    task_id: str
    attempt: int
    step: str | None
    key: str
    instance: str
    process: str
    at_ms: int
    after_commit: int | None = None


@dataclass(frozen=True, slots=True)
class BodyEnd:
    """It returned, raised or was cancelled; what is killed writes no such row."""

    run_id: str
    task_id: str
    attempt: int
    step: str | None
    key: str
    instance: str
    process: str
    at_ms: int
    outcome: Literal["returned", "raised", "cancelled"] = "returned"


@dataclass(frozen=True, slots=True)
class EffectSeen:
    """What an outside ledger that honours idempotency keys did with one request."""

    idempotency_key: str
    outcome: Literal["applied", "repeated"]


@dataclass(frozen=True, slots=True)
class PoisonSent:
    """A record or task that nobody can work.

    A damaged record names where it stands (`topic`, `partition`, `offset`) and the SHA-256 (hex)
    of its value; a task that kills, raises or hangs names `run_id` and `task_id`, and has the
    SHA-256 of its input as the dead letter should hold it, or "" if that is not known.
    """

    kind: str
    sha256: str
    topic: str = ""
    partition: int = -1
    offset: int = -1
    run_id: str = ""
    task_id: str = ""


@dataclass(frozen=True, slots=True)
class StateHash:
    """`State.digest()` of a coordinator's slot where its journal ended at `offset`.

    `moment`: `before` a crash (committed and applied), or `after`: restored from the journal.
    `group` is the whole name; `offset` the journal's end: the next offset to be written.
    """

    group: str
    partition: int
    offset: int
    digest: str
    moment: Literal["before", "after"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What one process, or the deployment (disk), used at a moment; None: not measured."""

    instance: str
    at_s: float
    memory_bytes: int | None = None
    descriptors: int | None = None
    tasks: int | None = None
    disk_bytes: int | None = None
    startup_s: float | None = None


@dataclass(frozen=True, slots=True)
class Excused:
    """`process` was stopped (SIGSTOP) from `from_ms` to `to_ms`, and may have been between the
    proof of its ownership and a body: what `docs/guarantees.md` says is left open."""

    process: str
    reason: str
    from_ms: int = 0
    to_ms: int = 1 << 62


@dataclass(frozen=True, slots=True)
class Quiet:
    """All faults are over and the bound for settling has passed: now nothing may be left open.

    `open_transactions`, `unstable_groups`: what the broker says, where it can be asked.
    """

    at_ms: int
    open_transactions: int = 0
    unstable_groups: tuple[str, ...] = ()


Row: TypeAlias = (
    Submission | BodyStart | BodyEnd | EffectSeen | PoisonSent | StateHash | Usage | Excused | Quiet
)
R = TypeVar("R")

_KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        Submission,
        BodyStart,
        BodyEnd,
        EffectSeen,
        PoisonSent,
        StateHash,
        Usage,
        Excused,
        Quiet,
    )
}


class Evidence:
    """Rows in the order in which they were seen."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._rows: list[Row] = []
        self._by_kind: dict[type, list[Any]] = defaultdict(list)
        for row in rows:
            self.add(row)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def add(self, row: Row) -> None:
        """Put a row behind the others."""
        self._rows.append(row)
        self._by_kind[type(row)].append(row)

    def of(self, kind: type[R]) -> list[R]:
        """Return the rows of one kind, in order."""
        return self._by_kind.get(kind, [])

    @property
    def quiet(self) -> bool:
        """True when somebody declared that everything must have settled."""
        return bool(self._by_kind.get(Quiet))

    def dump(self, path: Path) -> None:
        """Write all rows to a file, as `load` reads them."""
        path.write_text("".join(_line(row) for row in self._rows))

    @classmethod
    def load(cls, *paths: Path) -> Evidence:
        """Read files that `EvidenceFile` wrote, one after the other; missing ones are empty.

        Raises `ValueError` for a line that is none of ours: evidence is never skipped.
        """
        evidence = cls()
        for path in paths:
            if path.exists():
                with path.open() as lines:
                    for number, line in enumerate(lines, 1):
                        evidence.add(_row(line, f"{path}:{number}"))
        return evidence


class EvidenceFile:
    """Appends rows to a file that many processes share, each whole, whoever is killed when.

    One write with O_APPEND is one line: the kernel keeps their order. There is no buffer that a
    kill could take along.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def add(self, row: Row) -> None:
        """Append a row; raises `OSError` if it could not be written whole."""
        line = _line(row).encode()
        if os.write(self._descriptor, line) != len(line):
            raise OSError(f"{self._path} took only part of a line of evidence: is the disk full?")

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _line(row: Row) -> str:
    text = json.dumps({"row": type(row).__name__, **asdict(row)}, separators=(",", ":"))
    return text + "\n"


def _row(line: str, where: str) -> Row:
    try:
        values = json.loads(line)
        kind = _KINDS[values.pop("row")]
        known = {field.name for field in fields(kind)}
        row: Row = kind(
            **{
                name: tuple(value) if isinstance(value, list) else value
                for name, value in values.items()
                if name in known
            }
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{where} is no line of evidence ({error}): {line[:200]!r}") from error
    return row
