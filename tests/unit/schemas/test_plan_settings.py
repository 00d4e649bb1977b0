"""Joins, loops, plans within plans, shares, reducers, successors: as data, checked, resolved."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.schemas import PlanError
from holdfast.schemas.plan import Plan, PlanDocument
from holdfast.schemas.plan_checks import NESTING_MAX, check_plan, check_run_fields
from holdfast.schemas.plan_files import parse_plan
from holdfast.schemas.resolution import (
    ResolvedPlan,
    agents_of,
    check_run_input,
    inner_plan,
    resolve,
)
from tests.unit.schemas.test_resolution import MANIFESTS, schema

YAML = """
name: living
continue_as_new:
  when: output.again
  input: {page: "${output.page}"}
tasks:
  left: {task: a.run}
  right: {task: a.run}
  draft:
    task: a.write
    input: {topic: "${input.topic}", before: "${previous}", n: "${round}"}
    repeat: {until: "output.score > `3`", at_most: 4, on_exhausted: fail}
  pages:
    task: a.read
    map:
      over: "${tasks.draft.pages}"
      on_failure: {at_most: 0.05}
      reduce: {task: a.sum}
  part:
    plan:
      name: inner
      tasks:
        deep: {task: b.deep, input: {x: "${input.x}"}}
    input: {x: 1}
  end:
    task: a.end
    after: [left, right, pages, part]
    join: 2
    losers: leave
"""


def document(**tasks: Any) -> PlanDocument:
    return PlanDocument.model_validate({"name": "p", "tasks": tasks})


def node(**settings: Any) -> dict[str, Any]:
    return {"task": "a.b", **settings}


def test_a_plan_in_yaml_is_the_same_in_python() -> None:
    found = parse_plan(YAML)
    plan = Plan(
        "living",
        continue_as_new={"when": Plan.result["again"], "input": {"page": Plan.result["page"]}},
    )
    left, right = plan.task("left", "a.run"), plan.task("right", "a.run")
    draft = plan.task(
        "draft",
        "a.write",
        topic=plan.input("topic"),
        before=Plan.previous,
        n=Plan.round,
        repeat={
            "until": f"{Plan.result['score']} > `3`",
            "at_most": 4,
            "on_exhausted": "fail",
        },
    )
    share = {"at_most": 0.05}
    pages = plan.map("pages", "a.read", over=draft["pages"], on_failure=share, reduce="a.sum")
    inner = Plan("inner")
    inner.task("deep", "b.deep", x=inner.input("x"))
    part = plan.task("part", inner, x=1)
    plan.task("end", "a.end", after=[left, right, pages, part], join=2, losers="leave")
    assert plan.document() == found
    assert PlanDocument.from_json(found.to_json()) == found
    assert agents_of(found) == {"a", "b"}
    assert check_plan(found).leaves == ("end",)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"a": node(join="any")}, "join is 'any', but it waits for no task"),
    ({"a": node(), "b": node(after=["a"], join=2)}, "join is 2, but it waits for 1 tasks only"),
    ({"a": node(), "b": node(after=["a"], losers="leave")}, "losers has a meaning only with"),
    ({"a": node(input="${previous}")}, "'previous' exists only in the input and order key of a"),
    ({"a": node(input="${round}")}, "'round' exists only"),
    ({"a": node(input="${output}")}, "'output' exists only"),
    ({"a": node(repeat={"until": "previous", "at_most": 2})}, "until: 'previous' exists only"),
    ({"a": node(repeat={"until": "tasks.b", "at_most": 2})}, "until: unknown task 'b'"),
    ({"a": node(repeat={"until": "tasks.a", "at_most": 2})}, "it waits for itself"),
    ({"a": node(repeat={"until": "output.", "at_most": 2})}, "until: expression"),
    ({"a": node(map={"over": [], "reduce": {"task": "x"}})}, "'x' names no task"),
    ({"a": {"plan": {"name": "i", "tasks": {"x": {"task": "y"}}}}}, "'a': plan 'i', task 'x'"),
]


@pytest.mark.parametrize(("tasks", "message"), BAD)
def test_mistakes_are_found_with_their_place(tasks: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        check_plan(document(**tasks))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({}, "needs a task .* or a plan, and not both"),
        ({"task": "a.b", "plan": {"name": "i", "tasks": {"x": node()}}}, "and not both"),
        (node(join=0), "join: it is 'all', 'any', 'first-success', or how many"),
        (node(join=True), "join: it is 'all'"),
        (node(repeat={"until": "x", "at_most": 1_001}), "at_most"),
        (node(repeat={"until": "x", "at_most": 1}, map={"over": []}), "cannot both be set"),
        (node(map={"over": [], "on_failure": {"at_most": 1.5}}), "a share between 0 and 1"),
        (node(map={"over": [], "on_failure": "some"}), "Input should be 'fail' or 'collect'"),
        ({"plan": {"name": "i", "tasks": {"x": node()}}, "retry": {}}, "retry has no meaning"),
        ({"plan": {"name": "i", "tasks": {"x": node()}}, "order": "loose"}, "order has no"),
    ],
)
def test_settings_that_can_not_be(task: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        PlanDocument.from_json(
            PlanDocument.model_construct(name="p", tasks={"a": task}).model_dump_json(
                warnings=False
            )
        )


def test_nesting_is_bounded() -> None:
    def nested(depth: int) -> Plan:
        plan = Plan("n")
        plan.task("in", nested(depth - 1) if depth else "a.b")
        return plan

    check_plan(nested(NESTING_MAX))
    with pytest.raises(PlanError, match="nested too deep; at most 8"):
        check_plan(nested(NESTING_MAX + 1))


def test_what_follows_reads_what_is_there() -> None:
    plan = Plan("p", continue_as_new={"when": "tasks.b", "input": {}})
    plan.task("a", "a.b")
    with pytest.raises(PlanError, match="continue_as_new: unknown task 'b'"):
        check_plan(plan)
    plan.continue_as_new = {"when": "item", "input": {}}
    with pytest.raises(PlanError, match="'item' exists only"):
        check_plan(plan)
    plan.continue_as_new = {"when": "input.more", "input": {}}
    with pytest.raises(PlanError, match="continue_as_new, needs the run's input 'more'"):
        check_run_fields(plan, {})


def outer() -> Plan:
    inner = Plan("inner")
    inner.task("list", "scout.list", folder=inner.input("folder"))
    plan = Plan("outer")
    plan.task("part", inner, folder=plan.input("folder"))
    plan.map("files", "reviewer.review", over=[{"path": "a"}], reduce="editor.report")
    return plan


def test_a_plan_is_resolved_with_the_plans_in_it() -> None:
    resolved = resolve(outer(), MANIFESTS, schema)
    assert sorted(resolved.tasks) == ["files", "files~reduce", "part/list"]
    assert ResolvedPlan.from_json(resolved.to_json()) == resolved
    part = resolved.plan.tasks["part"].plan
    assert part is not None
    within = inner_plan("part", part, resolved.tasks)
    assert ResolvedPlan.from_json(within.to_json()) == within
    assert within.tasks["list"].input_schema_id == 1_000


def test_the_input_of_a_run_is_checked_against_the_plans_in_it() -> None:
    resolved = resolve(outer(), MANIFESTS, schema)
    check_run_input(resolved, {"folder": "."}, schema)
    with pytest.raises(PlanError, match=r"plan 'inner', task 'list': the run's input: .*folder"):
        check_run_input(resolved, {"folder": 1}, schema)


def test_agents_of_inner_plans_must_be_there() -> None:
    plan = Plan("outer")
    inner = Plan("inner")
    inner.task("list", "scuot.list")
    plan.task("part", inner)
    with pytest.raises(PlanError, match="task 'part', task 'list': no agent 'scuot'"):
        resolve(plan, MANIFESTS, schema)
