"""The JSON files of real runs: their schema, and their sums."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    ValidationError,
    field_validator,
    model_validator,
)

__all__ = [
    "BadResults",
    "Benchmark",
    "Planted",
    "Result",
    "Simulation",
    "Soak",
    "SoakFault",
    "Torture",
    "load",
]

_MORE = re.compile(r"\b(\d+) more violations")


class BadResults(ValueError):
    """A file is not what the page is made from; the message names it, the place and the fault."""


class Found(BaseModel):
    """A violation."""

    model_config = ConfigDict(extra="forbid")

    invariant: str = Field(pattern=r"^I\d+$")
    what: str
    where: str


class _Result(BaseModel):
    """What all suites tell of one (suite, bus, fault, point)."""

    model_config = ConfigDict(extra="forbid")

    fault: str = Field(min_length=1)
    point: str
    injected: NonNegativeInt
    runs: NonNegativeInt
    tasks: NonNegativeInt
    violations: list[Found]
    recovery_s: list[NonNegativeFloat]
    bound_s: float | None
    seed: int
    commit: str = Field(pattern=r"^[0-9a-f]{7,40}\+?$")
    started: str
    seconds: NonNegativeFloat
    machine: dict[str, str | int | float]
    notes: str

    @property
    def violated(self) -> int:
        """How many violations there were: a result tells the first ones, and counts the rest."""
        more = _MORE.search(self.notes)
        return len(self.violations) + (int(more[1]) if more else 0)

    @field_validator("started")
    @classmethod
    def _is_a_time(cls, value: str) -> str:
        datetime.fromisoformat(value.replace("Z", "+00:00"))
        return value

    @model_validator(mode="after")
    def _is_no_planted_run(self) -> _Result:
        """A violation of a planted bug is none of Holdfast's."""
        if not isinstance(self, Planted) and "planted:" in self.notes:
            raise ValueError("a run with a planted bug belongs to the suite `planted`")
        return self


class Torture(_Result):
    """Real processes, or the bus alone behind a proxy."""

    suite: Literal["torture"]
    bus: Literal["kafka", "sqlite"]


class Simulation(_Result):
    """Seeds. `injected`: faults."""

    suite: Literal["simulation"]
    bus: Literal["sim"]
    point: Literal[""]
    seeds: NonNegativeInt
    deaths: NonNegativeInt
    takeovers: NonNegativeInt
    virtual_s: NonNegativeFloat


class Planted(_Result):
    """One bug, hunted by one suite on one bus. `point`: the bug's name."""

    suite: Literal["planted"]
    bus: Literal["sim", "kafka", "sqlite"]
    area: str
    expected: list[str]
    found_after_s: NonNegativeFloat | None
    found_by: str | None
    invariant: str | None


class Growth(BaseModel):
    """How one measure of one process went."""

    model_config = ConfigDict(extra="forbid")

    instance: str
    measure: str
    samples: NonNegativeInt
    span_s: NonNegativeFloat
    level: float
    per_hour: float
    surely_per_hour: float
    allowed_per_hour: float
    enough: bool
    least_share: float
    grows: bool


class Soak(_Result):
    """The whole of one soak."""

    suite: Literal["soak"]
    bus: Literal["kafka", "sqlite"]
    fault: Literal["endurance"]
    peak_per_s: NonNegativeFloat
    rate_per_s: NonNegativeFloat
    loaded_s: NonNegativeFloat
    held_s: NonNegativeFloat
    windows: NonNegativeInt
    records: NonNegativeInt
    growths: list[Growth]
    disk: dict[str, int]
    startup_s: dict[str, dict[str, float | None]]


class SoakFault(_Result):
    """One fault within a soak."""

    suite: Literal["soak"]
    bus: Literal["kafka", "sqlite"]


class Benchmark(_Result):
    """`figures`: one row for each milestone, with its number of finished `runs` first."""

    suite: Literal["benchmark"]
    bus: Literal["kafka", "sqlite"]
    fault: Literal["start-up"]
    figures: Annotated[list[dict[str, float]], Field(min_length=1)]


Result = Torture | Simulation | Planted | Soak | SoakFault | Benchmark
_KINDS: dict[str, type[_Result]] = {
    "torture": Torture,
    "simulation": Simulation,
    "planted": Planted,
    "benchmark": Benchmark,
}


def load(folder: Path) -> list[Result]:
    """Return all results in a folder, file by file; raises `BadResults`. No folder: none."""
    found: list[Result] = []
    for path in sorted(folder.glob("*.json")):
        found += _of_file(path)
    _reject_twice(found, folder)
    return found


def _of_file(path: Path) -> Iterable[Result]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadResults(f"{path.name} is no JSON: {error}") from None
    objects: Sequence[Any] = document if isinstance(document, list) else [document]
    for number, one in enumerate(objects):
        try:
            yield _kind_of(one).model_validate(one)  # type: ignore[misc]
        except (ValidationError, KeyError, TypeError) as error:
            raise BadResults(f"{path.name}, object {number}: {error}") from None


def _kind_of(one: Any) -> type[_Result]:
    if one["suite"] == "soak":
        return Soak if one["fault"] == "endurance" else SoakFault
    return _KINDS[one["suite"]]


def _reject_twice(results: Iterable[Result], folder: Path) -> None:
    """The same run under two names would count twice."""
    seen = set()
    for one in results:
        name = (one.suite, one.bus, one.fault, one.point, one.seed, one.started)
        if name in seen:
            raise BadResults(f"{folder.name} has twice: {', '.join(map(str, name))}")
        seen.add(name)
