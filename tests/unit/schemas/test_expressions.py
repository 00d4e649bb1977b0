"""Expressions: what they read, what they give, and how mistakes are told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.schemas import PlanError
from holdfast.schemas.expressions import (
    compile_expression,
    escape_text,
    evaluate,
    expression_in,
    expressions_in,
    quote_name,
    render,
    truthy,
)

DOCUMENT: dict[str, Any] = {
    "input": {"folder": ".", "n": 3},
    "tasks": {"list": {"files": [{"path": "a", "size": 1}, {"path": "b", "size": 20}]}, "x-y": 7},
    "item": {"path": "a"},
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("input", {("input", None, None)}),
        ("input.folder", {("input", "folder", None)}),
        ("input.a.b", {("input", "a", "b")}),
        ("item.path", {("item", None, "path")}),
        ("tasks.list", {("tasks", "list", None)}),
        ("tasks.list.files.more", {("tasks", "list", "files")}),
        ('tasks."x-y"', {("tasks", "x-y", None)}),
        ("tasks.list.files[?tasks.other > `1`].path", {("tasks", "list", "files")}),
        ("@.tasks.list | files", {("tasks", "list", "files")}),
        ("{a: tasks.x, b: input.y}", {("tasks", "x", None), ("input", "y", None)}),
        ("tasks.a || tasks.b", {("tasks", "a", None), ("tasks", "b", None)}),
        ("sort_by(tasks.a.b, &size)[0]", {("tasks", "a", "b")}),
        ("!(tasks.a.ok)", {("tasks", "a", "ok")}),
        ("`1`", set()),
        ("[tasks.a, item]", {("tasks", "a", None), ("item", None, None)}),
        ("tasks.a[0:2]", {("tasks", "a", None)}),
    ],
)
def test_references(text: str, expected: set[Any]) -> None:
    found = compile_expression(text).references
    assert {(each.root, each.name, each.field) for each in found} == expected


def test_only_plain_paths_require_what_they_name() -> None:
    assert compile_expression("input.folder").references[0].required
    assert not compile_expression("input.folder || '.'").references[0].required


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks.list-all", "at character 11: .*quote names that hold '-'"),
        ("tasks.[", "character"),
        ("", "empty"),
        ("task.list", "unknown name 'task'"),
        ("tasks.*", "reads all tasks"),
        ("keys(tasks)", "reads all tasks"),
        ("@", "reads the whole document"),
        ("lenght(tasks.a)", "unknown function 'lenght'; did you mean 'length'"),
        ("!tasks.a.ok", r"write !\(a.b\)"),
        ("(" * 3_000, "nested too deeply"),
        ("a" * 5_000, "5000 characters"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        compile_expression(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("input.folder", "."),
        ("input.nothing.more", None),
        ("tasks.list.files[?size > `10`].path", ["b"]),
        ("length(tasks.list.files)", 2),
        ('tasks."x-y"', 7),
        ("input.n > `2` && tasks.list.files", DOCUMENT["tasks"]["list"]["files"]),
    ],
)
def test_values(text: str, expected: Any) -> None:
    assert evaluate(text, DOCUMENT) == expected


def test_a_function_that_gets_a_wrong_type() -> None:
    with pytest.raises(PlanError, match=r"'length\(input.n\)' failed: In function length"):
        evaluate("length(input.n)", DOCUMENT)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, False), (False, False), ("", False), ([], False), ({}, False), (0, True), ("x", True)],
)
def test_truth_is_that_of_jmespath(value: Any, expected: bool) -> None:
    assert truthy(value) is expected
    assert evaluate("input.v && `1`", {"input": {"v": value}}) == (1 if expected else value)


def test_templates() -> None:
    template = {
        "folder": "${ input.folder }",
        "paths": ["${tasks.list.files[*].path}", "plain", 3, None, True],
        "shell": "echo $${HOME} $$",
    }
    assert render(template, DOCUMENT) == {
        "folder": ".",
        "paths": [["a", "b"], "plain", 3, None, True],
        "shell": "echo ${HOME} $$",
    }
    assert [each.text for each in expressions_in(template)] == [
        "input.folder",
        "tasks.list.files[*].path",
    ]


@pytest.mark.parametrize("text", ["report of ${input.folder}", "${input.a} and more"])
def test_text_is_not_interpolated(text: str) -> None:
    with pytest.raises(PlanError, match="must be the whole string"):
        expression_in(text)


@given(st.text(alphabet="${}a", max_size=12))
def test_escaped_text_renders_to_itself(text: str) -> None:
    assert render(escape_text(text), {}) == text


@given(st.text(min_size=1, max_size=8))
def test_quoted_names_select_what_they_name(name: str) -> None:
    if any(0xD800 <= ord(each) <= 0xDFFF for each in name):
        return
    assert evaluate(f"input.{quote_name(name)}", {"input": {name: 1}}) == 1
