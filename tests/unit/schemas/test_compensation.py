"""What undoes a task: as data, checked, resolved; and what a cancel may say of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from holdfast.schemas import PlanError
from holdfast.schemas.command_arguments import CancelArguments
from holdfast.schemas.plan import Expression, Plan, PlanDocument
from holdfast.schemas.plan_checks import check_plan, check_run_fields
from holdfast.schemas.plan_files import parse_plan
from holdfast.schemas.records import Manifest
from holdfast.schemas.resolution import ResolvedPlan, agents_of, check_compensations, resolve
from tests.unit.schemas.test_resolution import MANIFESTS, schema

YAML = """
name: saga
compensate_on: failure
tasks:
  short: {task: a.do, compensate: a.undo}
  long:
    task: a.do
    after: [short]
    compensate:
      task: b.undo
      input: {id: "${output.id}", card: "${given.card}", who: "${input.who}"}
      retry: {attempts: 9}
      timeout_s: 5
"""


def plan_of(**settings: Any) -> PlanDocument:
    return PlanDocument.model_validate({"name": "p", "tasks": {"x": {"task": "a.b", **settings}}})


def test_the_same_in_yaml_and_in_python() -> None:
    plan = Plan("saga", compensate_on="failure")
    short = plan.task("short", "a.do", compensate="a.undo")
    plan.task(
        "long",
        "a.do",
        after=[short],
        compensate={
            "task": "b.undo",
            "input": {
                "id": Plan.result["id"],
                "card": Plan.given["card"],
                "who": plan.input("who"),
            },
            "retry": {"attempts": 9},
            "timeout_s": 5,
        },
    )
    assert parse_plan(YAML) == plan.document()
    assert agents_of(plan) == {"a", "b"}
    assert check_plan(plan).dependencies == {"short": (), "long": ("short",)}
    assert PlanDocument.from_json(plan.to_json()) == plan.document()


@pytest.mark.parametrize(
    ("compensate", "said"),
    [
        ("undo", "names no task"),
        ({"task": "a.u", "input": "${tasks.x.id}"}, "no other tasks"),
        ({"task": "a.u", "input": "${item}"}, "'item' exists only in"),
        ({"task": "a.u", "input": "${outputs.id}"}, "unknown name 'outputs'"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(compensate: Any, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        check_plan(plan_of(compensate=compensate))


def test_what_it_gives_exists_nowhere_else() -> None:
    with pytest.raises(PlanError, match="'given' exists only in the input of a compensation"):
        check_plan(plan_of(input="${given}"))
    with pytest.raises(PlanError, match=r"x\.compensate\.when: unknown setting"):
        PlanDocument.from_json(
            '{"name":"p","tasks":{"x":{"task":"a.b","compensate":{"task":"a.u","when":"x"}}}}'
        )
    with pytest.raises(PlanError, match="compensate_on"):
        PlanDocument.from_json('{"name":"p","compensate_on":"maybe","tasks":{"x":{"task":"a.b"}}}')


def test_a_field_of_the_runs_input_that_it_reads_must_be_given() -> None:
    plan = plan_of(compensate={"task": "a.u", "input": "${input.who}"})
    with pytest.raises(PlanError, match="compensate, needs the run's input 'who'"):
        check_run_fields(plan, {})
    check_run_fields(plan, {"who": "ann"})


def saga(compensate: Any) -> Plan:
    plan = Plan("saga")
    plan.task("list", "scout.list", folder=".", compensate=compensate)
    return plan


def test_it_is_resolved_with_settings_of_its_own() -> None:
    said = {"task": "reviewer.review", "input": {"path": "x"}, "timeout_s": 2}
    found = resolve(saga(said), MANIFESTS, schema)
    undo = found.tasks["list~compensate"]
    assert (undo.agent, undo.task, undo.timeout_ms) == ("reviewer", "review", 2_000)
    assert undo.retry.attempts == 7
    assert ResolvedPlan.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    ("compensate", "said"),
    [
        ("nobody.undo", "compensate: no agent 'nobody'"),
        ("reviewer.undo", "compensate: agent 'reviewer' has no task 'undo'"),
        ({"task": "reviewer.review", "input": {"path": "x", "sise": 1}}, "sise"),
        (
            {"task": "reviewer.review", "input": {"path": Expression("output.file")}},
            "the task's output has no field 'file'",
        ),
        (
            {"task": "reviewer.review", "input": {"path": Expression("given.fodler")}},
            "the task's input has no field 'fodler'",
        ),
    ],
)
def test_what_does_not_fit_the_agents_is_refused(compensate: Any, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        resolve(saga(compensate), MANIFESTS, schema)


def declared(said: dict[str, Any], agent: str = "scout") -> dict[str, Manifest]:
    """Return the manifests, where `scout.list` says what undoes it."""
    scout = MANIFESTS["scout"]
    tasks = [
        replace(task, compensate=json.dumps(said)) if task.name == "list" else task
        for task in scout.tasks
    ]
    return {**MANIFESTS, agent: replace(scout, agent=agent, tasks=tasks)}


UNDO_LIST = {"task": "scout.list", "input": {"folder": "${given.folder}"}, "timeout_s": 2}


def test_an_agent_says_what_undoes_its_task_unless_the_plan_does() -> None:
    found = resolve(saga(None), declared(UNDO_LIST), schema)
    undo = found.tasks["list~compensate"]
    assert (undo.agent, undo.task, undo.timeout_ms) == ("scout", "list", 2_000)
    assert undo.input == {"folder": "${given.folder}"}
    assert found.plan == saga(None).document(), "the plan stays as it was written"
    assert ResolvedPlan.from_json(found.to_json()) == found

    over = resolve(saga({"task": "scout.list"}), declared(UNDO_LIST), schema)
    assert over.tasks["list~compensate"].input is None
    off = resolve(saga(False), declared(UNDO_LIST), schema)
    assert "list~compensate" not in off.tasks
    for each in (over, off):
        assert ResolvedPlan.from_json(each.to_json()) == each
    assert parse_plan("{name: p, tasks: {x: {task: a.b, compensate: false}}}") == plan_of(
        compensate=False
    )


def test_a_compensation_that_belongs_to_no_task_is_refused() -> None:
    found = resolve(saga(None), declared(UNDO_LIST), schema)
    odd = {**found.tasks, "lisp~compensate": found.tasks["list~compensate"]}
    text = found.model_copy(update={"tasks": odd}).to_json()
    with pytest.raises(PlanError, match="'lisp~compensate' stands in one half only"):
        ResolvedPlan.from_json(text)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"task": "scout.lisp"}, "has no task 'lisp'"),
        ({"task": "reviewer.review"}, "another agent's task"),
        ({"task": "scout.list", "input": {"folder": "${input.folder}"}}, "it reads 'input'"),
        ({"task": "scout.list", "input": {"folder": "${output.fils}"}}, "no field 'fils'"),
        ({"task": "scout.list", "input": {"dir": "${output.files}"}}, "dir"),
    ],
)
def test_what_an_agent_says_is_checked_when_it_starts(said: dict[str, Any], why: str) -> None:
    with pytest.raises(PlanError, match=r"agent 'scout', task 'list', compensate.*" + why):
        check_compensations(declared(said)["scout"], schema)


def test_what_a_cancel_says() -> None:
    assert CancelArguments.of("{}") == CancelArguments()
    assert CancelArguments().to_json() == "{}"
    part = CancelArguments.of('{"compensate_from": "x"}')
    assert part.compensate is True
    assert CancelArguments.of(part.to_json()) == part
    with pytest.raises(ValueError, match="compensate says not to"):
        CancelArguments.of('{"compensate": false, "compensate_from": "x"}')
    with pytest.raises(ValueError, match="Invalid JSON"):
        CancelArguments.of("no")
