"""Changes of plans as data: how they are written, put together and compared."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.schemas import (
    CHANGE_BYTES_MAX,
    CHANGE_TASKS_MAX,
    Manifest,
    Plan,
    PlanChange,
    PlanChangeDocument,
    PlanDifference,
    PlanError,
    PlanRevision,
    ResolvedChange,
    ResolvedPlan,
    RetryPolicy,
    TaskManifest,
    agents_of_change,
    changed_plan,
    compare_plans,
    resolve,
    resolve_change,
)

GIVEN = {
    "type": "record",
    "name": "Given",
    "fields": [{"name": "word", "type": ["null", "string"], "default": None}],
}
TASK = TaskManifest("work", 1, 2, RetryPolicy(), 7_000, None, "")
MANIFESTS = {name: Manifest(name, "i", "p", "1", "b", [TASK], 1, 1, 1) for name in ("a", "b")}


def schemas(schema_id: int) -> Any:
    return GIVEN


def base() -> ResolvedPlan:
    plan = Plan("base")
    first = plan.task("first", "a.work")
    plan.task("second", "a.work", after=[first])
    plan.task("third", "a.work", after=[first])
    return resolve(plan, MANIFESTS, schemas)


def revision(change: PlanChange, version: int = 2, task_id: str = "first") -> PlanRevision:
    found = resolve_change(change.document(), MANIFESTS, schemas)
    return PlanRevision(version, found.to_json(), task_id, 1)


def test_a_change_is_written_like_a_plan() -> None:
    change = PlanChange()
    pages = change.map("pages", "b.work", over=change.existing("first")["pages"])
    change.task("sum", "b.work", word=pages, after=["second"])
    change.replace.task("third", "b.work", word="x")
    change.skip("second", change.existing("other"))
    change.cancel("slow")
    document = change.document()
    assert list(document.add) == ["pages", "sum"]
    assert document.add["pages"].map is not None
    assert document.add["pages"].map.over == "${tasks.first.pages}"
    assert list(document.replace) == ["third"]
    assert document.dropped == ("second", "other", "slow")
    assert PlanChangeDocument.from_json(change.to_json()) == document
    assert repr(change) == f"<PlanChange {change.to_json()}>"
    assert agents_of_change(document) == {"b"}
    assert document
    assert not PlanChange().document()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "plan change"),
        ('{"add": {"A b": {"task": "a.b"}}}', "names are 1 to 64"),
        ('{"skip": ["a b"]}', "names are 1 to 64"),
        ('{"remove": ["a"]}', "unknown setting"),
        ('{"skip": ["a"], "cancel": ["a"]}', "names task 'a' twice"),
        ('{"add": {"a": {"task": "a.b", "whn": "x"}}}', "unknown setting"),
    ],
)
def test_what_is_no_change_is_refused_by_its_place(text: str, complaint: str) -> None:
    with pytest.raises(PlanError, match=complaint):
        PlanChangeDocument.from_json(text)


def test_a_change_has_bounds() -> None:
    change = PlanChange()
    for number in range(CHANGE_TASKS_MAX):
        change.task(f"t{number}", "a.work")
    assert len(change.document().add) == CHANGE_TASKS_MAX
    change.skip("one-more")
    with pytest.raises(PlanError, match=f"at most {CHANGE_TASKS_MAX} are taken"):
        change.document()
    large = PlanChange()
    large.task("x", "a.work", word="x" * CHANGE_BYTES_MAX)
    with pytest.raises(PlanError, match=f"at most {CHANGE_BYTES_MAX} are taken"):
        large.to_json()


def test_two_tasks_of_one_id_and_a_bad_id_are_refused_at_once() -> None:
    change = PlanChange()
    change.task("x", "a.work")
    with pytest.raises(PlanError, match="plan change has two tasks with the id 'x'"):
        change.task("x", "a.work")
    with pytest.raises(PlanError, match=r"plan change, replace: task id 'X'"):
        change.replace.task("X", "a.work")


def test_a_change_is_resolved_by_the_manifests() -> None:
    change = PlanChange()
    change.task("x", "b.work", timeout_s=3)
    found = resolve_change(change.document(), MANIFESTS, schemas)
    assert found.tasks["x"].timeout_ms == 3_000
    assert ResolvedChange.from_json(found.to_json()) == found
    wrong = PlanChange()
    wrong.task("x", "b.wrok")
    with pytest.raises(PlanError, match="did you mean 'work'"):
        resolve_change(wrong.document(), MANIFESTS, schemas)
    misfit = PlanChange()
    misfit.task("x", "b.work", word=7)
    with pytest.raises(PlanError, match="word"):
        resolve_change(misfit.document(), MANIFESTS, schemas)
    with pytest.raises(PlanError, match="resolved plan change"):
        ResolvedChange.from_json("{}")


def test_what_is_left_out_of_a_change_leaves_no_trace() -> None:
    inner = Plan("inner")
    inner.task("deep", "b.work")
    change = PlanChange()
    change.task("x", "b.work")
    change.task("sub", inner)
    change.skip("second")
    found = resolve_change(change.document(), MANIFESTS, schemas)
    assert set(found.tasks) == {"x", "sub/deep"}
    assert found.without([]) is found
    rest = found.without(["sub", "second"])
    assert set(rest.tasks) == {"x"}
    assert rest.change.skip == ()
    assert not found.without(["x", "sub", "second"]).change


def test_changes_make_a_plan_that_can_be_submitted() -> None:
    change = PlanChange()
    change.task("extra", "b.work")
    change.replace.task("second", "b.work", after=["extra"])
    change.skip("third")
    again = PlanChange()
    again.replace.task("extra", "a.work", word="now")
    plan = changed_plan(base(), [revision(change), revision(again, 3, "second.0")])
    assert ResolvedPlan.from_json(plan.to_json()) == plan
    tasks = plan.plan.tasks
    assert list(tasks) == ["first", "second", "third", "extra"]
    assert tasks["extra"].added_by == "first"
    assert tasks["extra"].input == {"word": "now"}
    assert (tasks["second"].added_by, tasks["second"].task) == (None, "b.work")
    assert tasks["third"].dropped == "skip"
    assert plan.tasks["extra"].agent == "a"


def test_a_called_task_adds_in_no_tasks_name() -> None:
    change = PlanChange()
    change.task("extra", "b.work")
    plan = changed_plan(base(), [revision(change, task_id="~0123")])
    assert plan.plan.tasks["extra"].added_by is None


def test_versions_are_compared_task_by_task() -> None:
    change = PlanChange()
    change.task("extra", "b.work")
    change.replace.task("second", "b.work", {"word": "x"})
    change.cancel("third")
    before, after = base().plan, changed_plan(base(), [revision(change)]).plan
    assert compare_plans(before, after) == [
        PlanDifference(
            "changed",
            "second",
            "b.work",
            (
                ("task", "a.work", "b.work"),
                ("input", None, {"word": "x"}),
                ("after", ["first"], None),
            ),
        ),
        PlanDifference("dropped", "third", "a.work"),
        PlanDifference("added", "extra", "b.work"),
    ]
    assert [each.kind for each in compare_plans(after, before)] == ["changed", "changed", "removed"]
    assert compare_plans(after, after) == []
