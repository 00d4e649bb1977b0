"""`run plan`: the plan of a run, the versions that its tasks made of it, and how they differ."""

from __future__ import annotations

import json as json_text
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli.commands.finding import find_run, read_with
from holdfast.cli.failures import BadInput, ExitCode, NotThere
from holdfast.cli.printing import clip, moment, print_json, print_lines, print_table

if TYPE_CHECKING:
    from holdfast.cli.reading import Reading
    from holdfast.coordinator.projection import PlanVersionView, RunView
    from holdfast.schemas import PlanDifference, PlanDocument, ResolvedPlan, TaskNode

__all__ = ["plan"]

_MARKS = {"added": "+", "removed": "-", "changed": "~", "dropped": "x"}
_NOT_SET = "not set"
_DROPPED = {"skip": "skipped", "cancel": "cancelled"}


def plan(
    context: typer.Context,
    run_id: Annotated[str, typer.Argument(metavar="RUN", show_default=False)],
    version: Annotated[
        int | None, typer.Option(min=1, help="Show this version, not the newest.")
    ] = None,
    diff: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="A B", help="Show how version B differs from A."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Show a run's plan: as it is, as it was, or what its tasks have changed."""
    if version is not None and diff is not None:
        raise BadInput("give --version or --diff, not both")

    async def execute(reading: Reading) -> int:
        run = await find_run(reading, run_id)
        if diff is not None:
            await _show_diff(reading, run_id, diff, json=json)
        else:
            await _show_plan(reading, run, version or run.plan_version, json=json)
        return ExitCode.OK

    return read_with(context, execute)


async def _version(reading: Reading, run_id: str, version: int) -> ResolvedPlan:
    from holdfast.coordinator.projection import find_plan, list_plan_versions

    found = await reading.ask(lambda c: find_plan(c, run_id, version))
    if found is not None:
        return found
    known = await reading.ask(lambda c: list_plan_versions(c, run_id))
    if not known:
        raise NotThere(f"the plan of run {run_id!r} is no longer on the bus")
    there = "1 is its only one" if len(known) == 1 else f"there are 1 to {len(known)}"
    raise NotThere(f"the plan of run {run_id!r} has no version {version}: {there}")


# --- one version ---------------------------------------------------------------------------------


async def _show_plan(reading: Reading, run: RunView, version: int, *, json: bool) -> None:
    from holdfast.coordinator.projection import list_plan_versions

    found = await _version(reading, run.run_id, version)
    versions = await reading.ask(lambda c: list_plan_versions(c, run.run_id))
    if json:
        print_json(
            {
                "run_id": run.run_id,
                "version": version,
                "versions": [_version_document(each) for each in versions],
                "plan": _plan_document(found.plan),
            }
        )
        return
    print_lines(f"run   {run.run_id} ({run.plan_name}), version {version} of {len(versions)}", "")
    if len(versions) > 1:
        rows = [_version_row(each) for each in versions]
        print_table(("VERSION", "MADE BY", "WHEN", "WHAT"), rows, "")
        print_lines("")
    rows = _task_rows(found.plan)
    print_table(("TASK", "WORK", "ADDED BY", "WAITS FOR"), rows, "")


def _version_document(view: PlanVersionView) -> dict[str, Any]:
    return {
        "version": view.version,
        "task_id": view.task_id,
        "at_ms": view.at_ms,
        "change": view.change,
    }


def _plan_document(plan: PlanDocument) -> dict[str, Any]:
    return plan.model_dump(mode="json", exclude_defaults=True)


def _version_row(view: PlanVersionView) -> tuple[str, ...]:
    told = "submitted"
    if view.change is not None:
        parts = [f"{sign} {', '.join(view.change.get(what) or ())}" for sign, what in _PARTS]
        told = "; ".join(part for part in parts if not part.endswith(" "))
    return str(view.version), view.task_id or "", moment(view.at_ms), clip(told)


_PARTS = (("+", "add"), ("~", "replace"), ("skipped:", "skip"), ("cancelled:", "cancel"))


def _task_rows(plan: PlanDocument) -> list[tuple[str, ...]]:
    from holdfast.schemas import check_plan

    dependencies = check_plan(plan).dependencies
    return [
        (name, _work(node), node.added_by or "", ", ".join(dependencies[name]))
        for name, node in plan.tasks.items()
    ]


def _work(node: TaskNode) -> str:
    work = node.task or "plan"
    if node.map is not None:
        work = f"{work} (map)"
    return work if node.dropped is None else f"{work}, {_DROPPED[node.dropped]}"


# --- two versions --------------------------------------------------------------------------------


async def _show_diff(
    reading: Reading, run_id: str, versions: tuple[int, int], *, json: bool
) -> None:
    from holdfast.schemas import compare_plans

    before, after = [(await _version(reading, run_id, number)).plan for number in versions]
    differences = compare_plans(before, after)
    if json:
        print_json(
            {
                "run_id": run_id,
                "before": versions[0],
                "after": versions[1],
                "differences": [_difference_document(each) for each in differences],
            }
        )
        return
    print_lines(f"run   {run_id}, plan version {versions[0]} -> {versions[1]}")
    for each in differences:
        print_lines(*_difference_lines(each))
    if not differences:
        print_lines("They are the same.")


def _difference_document(each: PlanDifference) -> dict[str, Any]:
    details = [{"setting": name, "before": was, "after": is_} for name, was, is_ in each.details]
    return {"kind": each.kind, "task_id": each.task_id, "task": each.task, "details": details}


def _difference_lines(each: PlanDifference) -> list[str]:
    told = "  skipped or cancelled" if each.kind == "dropped" else f"  {each.task}"
    return [
        f"{_MARKS[each.kind]} {each.task_id}{told}",
        *(f"    {name}: {_said(was)} -> {_said(is_)}" for name, was, is_ in each.details),
    ]


def _said(value: Any) -> str:
    return _NOT_SET if value is None else clip(json_text.dumps(value, ensure_ascii=False))
