"""Plans from YAML and JSON files, with the place of each mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast.schemas import PlanError
from holdfast.schemas.plan_files import load_plan, parse_plan

GOOD = """\
name: audit
deadline_s: 3600
tasks:
  list: {task: scout.list, input: {folder: "${input.folder}", day: 2026-01-01}}
  review: &review
    task: reviewer.review
    map: {over: "${tasks.list.files}", max_parallel: 4, on_failure: collect}
  again: {<<: *review, task: reviewer.again}
  report:
    task: editor.report
    input: {reviews: "${tasks.review}", emoji: "😀"}
    when: "tasks.list.n > `0`"
"""


def test_yaml_and_json_are_one(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(GOOD)
    document = load_plan(tmp_path / "plan.yaml")
    assert document.tasks["list"].input == {"folder": "${input.folder}", "day": "2026-01-01"}
    assert document.tasks["again"].task == "reviewer.again"
    assert document.tasks["again"].map == document.tasks["review"].map
    indented = json.dumps(json.loads(document.to_json()), indent="\t")
    (tmp_path / "plan.json").write_text("\ufeff" + indented)
    assert load_plan(tmp_path / "plan.json") == document


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "p.yaml: the file is empty"),
        ("a: [", "p.yaml:1:5: "),
        ("- 1", "p.yaml: a plan is an object"),
        ("x\ty: \t a", "p.yaml:1:2: found character"),
        ("a: \x01", "p.yaml: "),
        ("[" * 5_000, "p.yaml.*(nested|deep)"),
        (
            "name: x\ntasks:\n  a: {task: a.b, ordr: 1}",
            "p.yaml:3:24: tasks.a.ordr: unknown setting",
        ),
        (
            "name: x\ntasks:\n  a: {task: a.b}\n  a: {task: a.b}",
            "p.yaml:4:3: 'a' stands here twice",
        ),
        ("name: x\ntasks:\n  a: {task: a.b, retry: {attempts: 0}}", "p.yaml:3:36: tasks.a.retry"),
        ("name: x\ntasks:\n  a: {task: a.b, input: {1: 2}}", "p.yaml:3:26: 1 cannot be a name"),
        ("name: x\ntasks:\n  a: {task: a.b, input: .nan}", "p.yaml:3:25: '.nan' is nothing"),
        ("name: x\ntasks:\n  a: {task: a.b, after: [b]}", "p.yaml: plan 'x', task 'a': after"),
        ("a: &a [*a]", "p.yaml:1:4: it contains itself"),
        ("a: !!python/object:os.system x", "p.yaml:1:4: could not determine"),
        ("name: 3\ntasks: {}", "p.yaml:1:7: name: "),
    ],
)
def test_mistakes_in_yaml(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        parse_plan(text, source="p.yaml")


def test_anchors_do_not_blow_up() -> None:
    lines = ["a0: &a0 [1,1,1,1,1,1,1,1,1,1]"]
    for n in range(1, 9):
        lines.append(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]")
    with pytest.raises(PlanError, match="more than 1000000 values"):
        parse_plan("\n".join(lines))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a":\n 1,}', "p.json:2:"),
        ('{"name": "x", "name": "y"}', "'name' stands twice"),
        ('{"name": NaN}', "NaN is no JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"name": "x",\n\t"tasks": {"a": {"task": 3}}}', "p.json:2:26: tasks.a.task"),
    ],
)
def test_mistakes_in_json(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        parse_plan(text, source="p.json", as_json=True)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="does not exist"):
        load_plan(tmp_path / "none.yaml")
    with pytest.raises(PlanError, match="cannot be read"):
        load_plan(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"a: b\nc: \xff\xfe")
    with pytest.raises(PlanError, match=r"binary.yaml:2: this is not UTF-8"):
        load_plan(tmp_path / "binary.yaml")
