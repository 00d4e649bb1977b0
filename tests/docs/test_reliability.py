"""The page of results and the lines of README are what the results make; all are in shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import ROOT
from tests.planted import BUGS
from tests.reliability.__main__ import PAGE, README, RESULTS, made
from tests.reliability.demands import DEMANDS
from tests.reliability.faults import short_of, summed
from tests.reliability.page import lines_of_readme, page, with_lines
from tests.reliability.results import BadResults, Result, Torture, load

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def result(**changed: Any) -> dict[str, Any]:
    return {
        "suite": "torture",
        "bus": "sqlite",
        "fault": "kill-random",
        "point": "",
        "injected": 300,
        "runs": 1_000,
        "tasks": 4_000,
        "violations": [],
        "recovery_s": [0.5, 1.0, 2.5],
        "bound_s": 2.0,
        "seed": 7,
        "commit": COMMIT,
        "started": "2026-11-21T12:00:00+00:00",
        "seconds": 60.0,
        "machine": {"cores": 2},
        "notes": "",
        **changed,
    }


SIMULATION = {"seeds": 2_000, "deaths": 5, "takeovers": 6, "virtual_s": 7.0}
PLANTED = {
    "area": "bus",
    "expected": ["I4"],
    "found_after_s": 12.5,
    "found_by": "simulation",
    "invariant": "I4",
}
GROWTH = {
    "instance": "beta-2",
    "measure": "memory_bytes",
    "samples": 400,
    "span_s": 4_000.0,
    "level": 1e8,
    "per_hour": 5e7,
    "surely_per_hour": 4e7,
    "allowed_per_hour": 8e6,
    "enough": True,
    "least_share": 0.0,
    "grows": True,
}
SOAK = {
    "peak_per_s": 40.0,
    "rate_per_s": 20.0,
    "loaded_s": 5_000.0,
    "held_s": 0.0,
    "windows": 20,
    "records": 10**6,
    "growths": [GROWTH],
    "disk": {"bounded": 1},
    "startup_s": {"agent, ready": {"count": 3.0, "p50": 1.0, "p99": 2.0, "worst": 2.0}},
}


def of(folder: Path, *documents: dict[str, Any]) -> list[Result]:
    (folder / "results.json").write_text(json.dumps(list(documents)))
    return load(folder)


def row_of(text: str, *cells: str) -> str:
    (found,) = [line for line in text.splitlines() if all(f"| {cell} |" in line for cell in cells)]
    return found


def test_the_results_in_the_repository_have_the_right_shape() -> None:
    load(RESULTS)


def test_page_and_readme_are_what_the_results_make() -> None:
    for path, text in made().items():
        name = path.relative_to(ROOT)
        assert path.read_text(encoding="utf-8") == text, f"{name} is stale: run make reliability"


def test_readme_shows_five_lines() -> None:
    assert len(lines_of_readme([]).splitlines()) == 5
    assert lines_of_readme(load(RESULTS)) in README.read_text(encoding="utf-8")
    assert PAGE.name in README.read_text(encoding="utf-8")


def test_what_is_demanded_and_not_run_is_told() -> None:
    text = page([])
    for demand in DEMANDS:
        lines = [line for line in text.splitlines() if line.startswith(f"| {demand.what} |")]
        assert len(lines) == len(demand.buses), demand.what
        assert all("| not run yet |" in line for line in lines)
    for bug in BUGS:
        assert f"| {bug} |" in text
    assert "not run yet: 90 min" in text
    assert "Not run yet: 2,000 seeds are asked for." in text
    assert "Not run yet: a start after 1,000,000 finished runs is asked for." in text
    assert lines_of_readme([]).count("not run yet") == 4


def test_several_runs_are_added_up_and_held_against_what_was_asked_for(tmp_path: Path) -> None:
    found = of(tmp_path, result(), result(fault="kill-pair", injected=150, recovery_s=[1.0]))
    row = row_of(page(found), "SQLite", "500")
    assert "| 450 | 50 injections | 2,000 | 8,000 | 0 | 0.67% |" in row
    more = of(tmp_path, result(), result(seed=8, injected=200))
    assert "| 500 |  | 2,000 | 8,000 | 0 | 0.60% |" in row_of(page(more), "SQLite", "500")


def test_recovery_is_held_against_its_bound(tmp_path: Path) -> None:
    text = page(of(tmp_path, result()))
    assert "| kill-random | SQLite | 3 | 1.00 / 2.50 / 2.50 | 2.00 | 1 |" in text


def test_violations_are_told_and_support_nothing(tmp_path: Path) -> None:
    bad = {"invariant": "I2", "what": "twice", "where": "here"}
    found = of(tmp_path, result(violations=[bad], notes="41 more violations"))
    text = page(found)
    assert "| 1,000 | 4,000 | 42 |  |" in row_of(text, "SQLite", "500")
    assert "I2 at here: twice" in text
    assert "and 41 more" in text
    assert "42 violations" in lines_of_readme(found)


def test_points_that_were_struck_too_seldom_are_missing(tmp_path: Path) -> None:
    (demand,) = [demand for demand in DEMANDS if demand.faults == ("kill-agent",)]
    documents = [result(fault="kill-agent", point=f"p{n}", injected=60 - n) for n in range(12)]
    found = [one for one in of(tmp_path, *documents) if isinstance(one, Torture)]
    assert short_of(demand, summed(found, demand.faults, "sqlite")) == ["50 at 1 points"]
    assert "11 points" in short_of(demand, summed(found[:1], demand.faults, "sqlite"))


def test_planted_bugs_found_and_not_found_stand_beside_each_other(tmp_path: Path) -> None:
    first, second = sorted(n for n, bug in BUGS.items() if set(bug.buses) >= {"sim", "sqlite"})[:2]
    planted = {"suite": "planted", "fault": "planted-bug"}
    lost = {**PLANTED, "found_after_s": None, "found_by": None, "invariant": None}
    found = of(
        tmp_path,
        result(**planted, **PLANTED, bus="sim", point=first),
        result(**planted, **lost, bus="sim", point=second, seconds=600.0),
    )
    text = page(found)
    assert "| I4, 12.5 s |" in row_of(text, first)
    assert "| **not found** in 10.0 min |" in row_of(text, second)
    assert "1 of 2 planted bugs" in lines_of_readme(found)


def test_a_short_soak_is_no_long_one(tmp_path: Path) -> None:
    soak = {"suite": "soak", "fault": "endurance", **SOAK}
    short = page(of(tmp_path, result(**soak, seconds=600.0)))
    assert "| SQLite | not run yet: 90 min |" in short
    assert "**grows**" in short
    whole = page(of(tmp_path, result(**soak, seconds=5_500.0)))
    assert "| SQLite | not run yet: 90 min |" not in whole
    assert "| Kafka | not run yet: 90 min |" in whole


def test_the_simulation_is_summed_up(tmp_path: Path) -> None:
    one = result(suite="simulation", bus="sim", fault="all", injected=9, **SIMULATION)
    text = page(of(tmp_path, one, {**one, "seed": 2_000}))
    assert "| 2,000 | 4,000 | 2,000 | 8,000 | 18 | 10 | 12 | 0.0 | 0 | 0.0750% |" in text


def test_sources_are_told_by_commit_with_their_seeds_and_the_load(tmp_path: Path) -> None:
    machine = {"cores": 2, "load": 1.5}
    found = of(
        tmp_path,
        result(machine=machine),
        result(seed=8, machine={**machine, "load": 9.0}, started="2026-11-22T12:00:00+00:00"),
        result(commit=f"{COMMIT}+", started="2026-11-23T12:00:00+00:00"),
    )
    text = page(found)
    days = "2026-11-21 to 2026-11-22"
    assert f"| torture | SQLite | `012345678` | {days} | 7, 8 | cores 2 | 1.5 to 9 |" in text
    assert "| `012345678` with changes | 2026-11-23 | 7 |" in text


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"suite": "tortoise"}, "tortoise"),
        ({"bus": "sim"}, "bus"),
        ({"injected": -1}, "injected"),
        ({"commit": "main"}, "commit"),
        ({"started": "yesterday"}, "started"),
        ({"violations": ["I1"]}, "violations"),
        ({"notes": "planted: step-matched-by-position"}, "belongs to the suite `planted`"),
        ({"suite": "soak", "fault": "endurance"}, "peak_per_s"),
        ({"invented": 1}, "invented"),
    ],
)
def test_a_file_out_of_shape_is_refused(changed: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(BadResults, match=r"results\.json") as error:
        of(tmp_path, result(**changed))
    assert told in str(error.value)


def test_the_same_run_does_not_count_twice(tmp_path: Path) -> None:
    with pytest.raises(BadResults, match="twice"):
        of(tmp_path, result(), result())


def test_a_readme_without_its_markers_is_told() -> None:
    with pytest.raises(ValueError, match="lacks the lines"):
        with_lines("# Holdfast\n", "- a line")
