"""Plans in Python: one model behind them, and what holds of any plan."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from pydantic import BaseModel

from holdfast.schemas import PlanError
from holdfast.schemas.plan import Expression, Plan, PlanDocument, Retry, Task
from holdfast.schemas.plan_checks import DEPTH_MAX, check_plan, check_run_fields, emitter_of


class Folder(BaseModel):
    path: str
    since: date = date(2026, 1, 2)


def audit() -> Plan:
    plan = Plan("audit", order_key=Expression("input.customer"), deadline_s=60)
    files = plan.task("list", "scout.list", folder=plan.input("folder"))
    reviews = plan.map(
        "review",
        Task[Any, Any](agent="reviewer", name="review"),
        over=files["files"],
        max_parallel=4,
        on_failure="collect",
        source=plan.item,
        folder=plan.input("folder"),
    )
    plan.task(
        "report",
        "editor.report",
        reviews=reviews,
        first=reviews[0],
        note="costs ${5}",
        options=[1, None, {"deep": files.output}],
        when=f"{files['total']} > `0`",
        after=[files, "review"],
        retry=Retry(attempts=5),
        timeout_s=1.5,
        order="loose",
        order_key="one",
        on_dead_letter="wait",
    )
    return plan


def test_python_json_and_the_model_are_one() -> None:
    document = audit().document()
    text = document.to_json()
    assert PlanDocument.from_json(text) == document
    assert PlanDocument.from_json(text).to_json() == text
    report = document.tasks["report"]
    assert report.input == {
        "reviews": "${tasks.review}",
        "first": "${tasks.review[0]}",
        "note": "costs $${5}",
        "options": [1, None, {"deep": "${tasks.list}"}],
    }
    assert report.when == "tasks.list.total > `0`"
    assert document.tasks["review"].input == {"source": "${item}", "folder": "${input.folder}"}
    assert document.order_key == "${input.customer}"


def test_dependencies_are_those_named_and_those_read() -> None:
    graph = check_plan(audit())
    assert graph.dependencies == {"list": (), "review": ("list",), "report": ("list", "review")}
    assert graph.leaves == ("report",)


def test_ids_with_a_dash_are_quoted() -> None:
    plan = Plan("p")
    first = plan.task("list-all", "a.b")
    plan.task("next", "a.b", x=first["more-files"])
    assert plan.document().tasks["next"].input == {"x": '${tasks."list-all"."more-files"}'}
    assert check_plan(plan).dependencies["next"] == ("list-all",)


def test_a_lone_task_gets_the_whole_input() -> None:
    document = Plan.of_task("scout.list_files").document()
    assert document.name == "scout-list-files"
    assert [node.input for node in document.tasks.values()] == ["${input}"]
    assert check_plan(document).leaves == ("task",)


def test_a_whole_input() -> None:
    plan = Plan("p")
    plan.task("a", "x.y", {"after": 1, "folder": Folder(path="${a}")})
    plan.task("b", "x.y", plan.input())
    tasks = plan.document().tasks
    assert tasks["a"].input == {"after": 1, "folder": {"path": "$${a}", "since": "2026-01-02"}}
    assert tasks["b"].input == "${input}"
    with pytest.raises(PlanError, match="as a whole and by name"):
        plan.task("c", "x.y", plan.input(), folder=1)


def test_expressions_are_no_values() -> None:
    handle = Plan("p").task("a", "x.y")
    with pytest.raises(PlanError, match="put the condition into when"):
        bool(handle["ok"])
    with pytest.raises(TypeError):
        iter(handle["files"])
    with pytest.raises(TypeError):
        list(handle)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda p: p.task("list", "a.b"), "two tasks with the id 'list'"),
        (lambda p: p.task("List", "a.b"), "ids are 1 to 64 of a-z"),
        (lambda p: p.task("x", "review"), "'review' names no task; write <agent>.<task>"),
        (lambda p: p.task("x", "a.b", retry={"attempts": 0}), "'x': retry.attempts"),
        (lambda p: p.task("x", "a.b", order="any"), "'x': order"),
        (lambda p: p.task("x", "a.b", timeout_s=0), "'x': timeout_s"),
        (lambda p: p.map("x", "a.b", over=[], max_parallel=0), "'x': map.max_parallel"),
        (lambda p: p.map("x", "a.b", over=[], on_failure="go"), "'x': map.on_failure"),
        (lambda p: p.task("x", "a.b", value=object()), "object cannot stand in a plan"),
        (lambda p: p.task("x", "a.b", value=float("nan")), "JSON does not have it"),
        (lambda p: p.task("x", "a.b", value={1: 2}), "names are strings"),
    ],
)
def test_mistakes_in_building(build: Callable[[Plan], Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        build(audit())


def node(**settings: Any) -> dict[str, Any]:
    return {"task": "a.b", **settings}


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"a": node(after=["b"]), "b": node(input={"x": "${tasks.a}"})}, "a -> b -> a"),
        ({"a": node(input="${tasks.a}")}, "task 'a': it waits for itself"),
        ({"a": node(after=["lits"]), "list": node()}, "unknown task 'lits'; did you mean 'list'"),
        ({"a": node(input=["${tasks.lits.x}"]), "list": node()}, "input: unknown task 'lits'"),
        ({"a": node(when="tasks.b.ok")}, "when: unknown task 'b'"),
        ({"a": node(when="tasks.")}, "'a', when: .*character"),
        ({"a": node(input="${item.x}")}, "'item' exists only"),
        ({"a": node(map={"over": "${item}"})}, "'item' exists only"),
        ({"a": node(map={"over": "files"})}, "neither a list nor an expression"),
        ({"a": node(map={"over": {"x": 1}})}, "neither a list nor an expression"),
        ({"a": node(map={"over": [0] * 100_001})}, "100001 items; at most 100000"),
        ({"a": node(task="b")}, "task 'a': 'b' names no task"),
        ({"a": node(order_key="x ${input.y}")}, "must be the whole string"),
    ],
)
def test_mistakes_in_a_plan(tasks: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        check_plan(PlanDocument.model_validate({"name": "p", "tasks": tasks}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Invalid JSON"),
        ('{"name": "p", "tasks": {}}', "at least 1 item"),
        ('{"name": "P", "tasks": {"a": {"task": "a.b"}}}', "name: names are 1 to 64"),
        ('{"name": "p", "tasks": {"A": {"task": "a.b"}}}', "tasks.A: names are 1 to 64"),
        ('{"name": "p", "tasks": {"a": {"task": "a.b", "ordr": 1}}}', "a.ordr: unknown setting"),
    ],
)
def test_mistakes_in_json(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        PlanDocument.from_json(text)


def test_order_key_and_output_of_a_plan() -> None:
    tasks = {"a": node()}
    with pytest.raises(PlanError, match="order_key: it is needed before any task has run"):
        check_plan(
            PlanDocument.model_validate({"name": "p", "order_key": "${tasks.a}", "tasks": tasks})
        )
    with pytest.raises(PlanError, match="output: unknown task 'b'"):
        check_plan(
            PlanDocument.model_validate({"name": "p", "output": "${tasks.b}", "tasks": tasks})
        )


def chain(length: int) -> PlanDocument:
    tasks = {f"t{n}": node(after=[f"t{n - 1}"] if n else []) for n in range(length)}
    return PlanDocument.model_validate({"name": "p", "tasks": tasks})


def test_depth_is_bounded() -> None:
    check_plan(chain(DEPTH_MAX))
    with pytest.raises(PlanError, match="a chain of 1001 tasks; at most 1000"):
        check_plan(chain(DEPTH_MAX + 1))


def test_a_long_cycle_is_named_in_short() -> None:
    tasks = {f"t{n}": node(after=[f"t{(n + 1) % 500}"]) for n in range(500)}
    with pytest.raises(PlanError) as caught:
        check_plan(PlanDocument.model_validate({"name": "p", "tasks": tasks}))
    assert "..." in str(caught.value)
    assert len(str(caught.value)) < 200


def test_missing_run_input() -> None:
    check_run_fields(audit(), {"folder": ".", "customer": "c"})
    with pytest.raises(PlanError, match=r"needs the run's input 'folder'.*did you mean 'foldr'"):
        check_run_fields(audit(), {"foldr": ".", "customer": "c"})
    with pytest.raises(PlanError, match="needs the run's input 'folder'"):
        check_run_fields(audit(), None)


def test_retry_in_milliseconds() -> None:
    policy = Retry(attempts=5, initial_s=0.25, max_s=10).policy()
    assert (policy.attempts, policy.initial_ms, policy.max_ms) == (5, 250, 10_000)


def arriving(
    over: str = "${emitted.find}", plan_key: str | None = None, **said: Any
) -> PlanDocument:
    emitter = said.pop("emitter", {"task": "scout.find"})
    work = {"task": "reader.read", "map": {"over": over}, **said}
    document = {"name": "p", "order_key": plan_key, "tasks": {"find": emitter, "read": work}}
    return PlanDocument.model_validate(document)


def test_a_map_may_go_over_what_a_task_hands_out() -> None:
    plan = Plan("p")
    found = plan.task("find", "scout.find")
    plan.map("read", "reader.read", over=found.emitted)
    assert plan.document() == arriving()
    assert check_plan(plan).dependencies["read"] == ("find",)
    assert emitter_of("${emitted.find}") == "find"
    assert emitter_of("${tasks.find}") is emitter_of([1]) is None


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"over": "${emitted.fnd}"}, "unknown task 'fnd'; did you mean 'find'"),
        ({"over": "${emitted}"}, "write emitted.<id>"),
        ({"over": "${emitted.find.pages}"}, "select in the input"),
        ({"over": "${emitted.find[0]}"}, "select in the input"),
        ({"input": {"x": "${emitted.find}"}}, "'emitted' exists only in what a map goes over"),
        ({"join": "any"}, "begins with the first of them: leave join out"),
        ({"after": ["find"]}, "whose output cannot be read yet"),
        ({"input": {"x": "${tasks.find.pages}"}}, "whose output cannot be read yet"),
        ({"emitter": {"task": "a.b", "map": {"over": [1]}}}, "'find' is worked in parts"),
        ({"emitter": {"plan": {"name": "i", "tasks": {"x": {"task": "a.b"}}}}}, "'find' is a plan"),
        (
            {"plan_key": "${input.k}", "task": "scout.read"},
            "both are worked by agent 'scout' under one order key",
        ),
    ],
)
def test_what_cannot_be_gone_over_while_it_arrives(said: dict[str, Any], told: str) -> None:
    with pytest.raises(PlanError) as caught:
        check_plan(arriving(**said))
    assert told in str(caught.value)
