"""Pages that list things list all of them, and nothing else: metrics, settings, decisions."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from holdfast.bus import settings as bus_settings
from tests.docs.commands import settings_variables, variables_in_code
from tests.docs.pages import ROOT, links

AREAS = ("agents", "bus", "coordinator", "schemas")
KINDS = {"Counter", "Gauge", "Histogram", "Summary"}
ROW = re.compile(r"^\| `(?P<name>[^`]+)`", re.MULTILINE)
INTERNAL_VARIABLES = frozenset({"HOLDFAST_LIFELINE"})
"""Set by our own processes for their children; nobody else's business."""


def rows(page: str) -> set[str]:
    return set(ROW.findall((ROOT / page).read_text(encoding="utf-8")))


def registered_metrics() -> dict[str, Path]:
    found = {}
    for path in (p for area in AREAS for p in (ROOT / area).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and called(node) in KINDS and node.args:
                first = node.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    found[first.value] = path
    return found


def called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def test_metrics_are_looked_for_in_the_right_way() -> None:
    assert {"holdfast_commits_total", "holdfast_lag_records"} <= registered_metrics().keys()


def test_every_metric_is_described_and_no_other() -> None:
    described = {name for name in rows("docs/metrics.md") if name.startswith("holdfast_")}
    assert described == registered_metrics().keys()


def test_every_setting_is_described_and_no_other() -> None:
    described = {name for name in rows("docs/configuration.md") if name.startswith("HOLDFAST_")}
    assert settings_variables() <= described
    assert described <= variables_in_code() - INTERNAL_VARIABLES


def test_every_option_of_a_kafka_url_is_described_and_no_other() -> None:
    known = {*bus_settings._OPTIONS, *bus_settings._VARIABLE_OPTIONS}
    text = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    section = text.partition("## Options of `kafka://`")[2].partition("\n## ")[0]
    described = set(ROW.findall(section))
    assert described == known


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs/adr"
    indexed = {target for _, target in links(folder / "README.md")}
    assert {path.name for path in folder.glob("0*.md")} <= indexed
