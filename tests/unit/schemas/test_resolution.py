"""A plan meets its agents."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.schemas import PlanError, UnknownSchema
from holdfast.schemas.plan import Expression, Plan, Retry
from holdfast.schemas.records import Manifest, RetryPolicy, TaskManifest
from holdfast.schemas.resolution import (
    ResolvedPlan,
    agents_of,
    check_run_input,
    render_inputs,
    render_order_key,
    resolve,
)

FILE = {
    "type": "record",
    "name": "File",
    "fields": [
        {"name": "path", "type": "string"},
        {"name": "size", "type": ["null", "long"], "default": None},
    ],
}
SCHEMAS: dict[int, Any] = {
    1_000: {
        "type": "record",
        "name": "Folder",
        "fields": [
            {"name": "folder", "type": "string"},
            {"name": "depth", "type": "long", "default": 3},
            {"name": "only", "type": ["null", FILE], "default": None},
        ],
    },
    1_001: {
        "type": "record",
        "name": "Files",
        "fields": [{"name": "files", "type": {"type": "array", "items": FILE}}],
    },
    1_002: FILE,
    1_003: {
        "type": "record",
        "name": "Reviews",
        "fields": [
            {"name": "reviews", "type": {"type": "array", "items": "long"}},
            {"name": "named", "type": {"type": "map", "values": FILE}, "default": {}},
        ],
    },
}


def schema(schema_id: int) -> Any:
    try:
        return SCHEMAS[schema_id]
    except KeyError:
        raise UnknownSchema(str(schema_id)) from None


def manifest(agent: str, task: str, takes: int, gives: int) -> Manifest:
    offered = TaskManifest(task, takes, gives, RetryPolicy(attempts=7), 5_000, None, "")
    return Manifest(agent, f"{agent}-1", "p", "1", "b", [offered], 4, 1, 1)


MANIFESTS = {
    "scout": manifest("scout", "list", 1_000, 1_001),
    "reviewer": manifest("reviewer", "review", 1_002, 1_002),
    "editor": manifest("editor", "report", 1_003, 1_002),
}


def audit(task: str = "scout.list", field: str = "files", **given: Any) -> Plan:
    plan = Plan("audit")
    files = plan.task(
        "list", task, {"folder": plan.input("folder"), **given}, retry=Retry(attempts=2)
    )
    reviews = plan.map("review", "reviewer.review", over=files[field], timeout_s=2)
    plan.task("report", "editor.report", reviews=reviews)
    return plan


def test_settings_are_the_tasks_own_unless_the_plan_has_others() -> None:
    resolved = resolve(audit(), MANIFESTS, schema)
    first, second = resolved.tasks["list"], resolved.tasks["review"]
    assert (first.agent, first.task, first.input_schema_id) == ("scout", "list", 1_000)
    assert (first.retry.attempts, first.timeout_ms) == (2, 5_000)
    assert (second.retry.attempts, second.timeout_ms) == (7, 2_000)
    assert agents_of(audit()) == {"scout", "reviewer", "editor"}


def test_the_resolved_plan_is_its_json() -> None:
    resolved = resolve(audit(), MANIFESTS, schema)
    text = resolved.to_json()
    assert ResolvedPlan.from_json(text) == resolved
    assert ResolvedPlan.from_json(text).to_json() == text
    with pytest.raises(PlanError, match="resolved plan"):
        ResolvedPlan.from_json("{}")


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (audit("scot.list"), "no agent 'scot' .*did you mean 'scout'"),
        (audit("scout.lst"), "agent 'scout' has no task 'lst'; did you mean 'list'"),
        (audit(foldr=1), "field 'foldr': is unknown; did you mean 'folder'"),
        (audit(depth="x"), "field 'depth': expected long, got 'x'"),
        (audit(depth=True), "field 'depth': expected long, got True"),
        (audit(folder=[Expression("input.x")]), "field 'folder': expected string"),
        (audit(only={"path": Expression("input.x"), "siz": 1}), "field 'only.siz': is unknown"),
        (audit(only={"size": Expression("input.x")}), "field 'only.path': is missing"),
        (audit(only={"path": 1}), "field 'only.path': expected string, got 1"),
        (audit(field="fils"), "output of 'list' has no field 'fils'; did you mean 'files'"),
    ],
)
def test_mistakes(plan: Plan, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        resolve(plan, MANIFESTS, schema)


def test_what_fits_is_let_through() -> None:
    plan = audit(depth=5, only={"path": Expression("input.x"), "size": Expression("input.y")})
    plan.task("more", "editor.report", reviews=[1, plan.input("n")], named={"a": {"path": "p"}})
    plan.map("literal", "reviewer.review", over=[{"path": "a"}, plan.input("b")])
    resolve(plan, MANIFESTS, schema)


def test_a_missing_input() -> None:
    plan = Plan("p")
    plan.task("list", "scout.list")
    with pytest.raises(PlanError, match=r"task 'list' \(scout.list\): field 'folder': is missing"):
        resolve(plan, MANIFESTS, schema)


def test_an_item_that_does_not_fit() -> None:
    plan = Plan("p")
    plan.map("review", "reviewer.review", over=[{"path": "a"}, {"path": 3}])
    with pytest.raises(PlanError, match="field 'path': expected string, got 3"):
        resolve(plan, MANIFESTS, schema)


def test_a_schema_that_is_not_known_yet() -> None:
    manifests = {"scout": manifest("scout", "list", 4_711, 1_001)}
    with pytest.raises(UnknownSchema):
        resolve(Plan.of_task("scout.list"), manifests, schema)


@pytest.mark.parametrize(
    ("run_input", "message"),
    [
        ({}, "field 'folder': is missing"),
        ({"folder": 3}, "field 'folder': expected string, got 3"),
        ({"folder": ".", "dpth": 1}, "field 'dpth': is unknown; did you mean 'depth'"),
        (None, "expected object"),
    ],
)
def test_the_input_of_a_lone_task(run_input: Any, message: str) -> None:
    resolved = resolve(Plan.of_task("scout.list"), MANIFESTS, schema)
    check_run_input(resolved, {"folder": "."}, schema)
    with pytest.raises(PlanError, match=message):
        check_run_input(resolved, run_input, schema)


def test_the_input_of_a_plan() -> None:
    resolved = resolve(audit(), MANIFESTS, schema)
    check_run_input(resolved, {"folder": ".", "unused": 1}, schema)
    with pytest.raises(PlanError, match="needs the run's input 'folder'"):
        check_run_input(resolved, {}, schema)
    with pytest.raises(PlanError, match="task 'list': the run's input: field 'folder'"):
        check_run_input(resolved, {"folder": 3}, schema)


def test_rendering() -> None:
    tasks = audit().document().tasks
    document = {"input": {"folder": "."}, "tasks": {}, "item": {"path": "a"}}
    assert render_inputs(tasks["list"], document) == {"folder": "."}
    assert render_inputs(tasks["review"], document) == {"path": "a"}
    assert render_order_key(None, document) is None
    assert render_order_key("${input.none}", document) is None
    assert render_order_key("${input.folder}", document) == "."
    assert render_order_key("fixed", document) == "fixed"
    with pytest.raises(PlanError, match="gives a dict"):
        render_order_key("${item}", document)
