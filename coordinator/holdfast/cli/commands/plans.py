"""`run plan`: the plan of a run, the versions that its tasks made of it, and how they differ."""

from __future__ import annotations

import difflib
import json as json_text
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli.commands.finding import find_run, read_with
from holdfast.cli.failures import BadInput, ExitCode, NotThere
from holdfast.cli.printing import clip, moment, print_json, print_lines, print_table

if TYPE_CHECKING:
    from holdfast.cli.reading import Reading
    from holdfast.coordinator.projection import PlanVersionView, RunView
    from holdfast.schemas import PlanDifference, PlanDocument, ResolvedPlan, TaskNode

__all__ = ["difference_lines", "plan"]

_MARKS = {"added": "+", "removed": "-", "changed": "~", "dropped": "x"}
_NOT_SET = "not set"
_ABSENT = object()
"""Stands for a field that one of two versions does not have; null may be its value."""
LINE_CHARS = 100
CONTEXT_LINES = 2
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
    from holdfast.schemas.plan_checks import emitter_of

    work = node.task or "plan"
    if node.map is not None:
        emitter = emitter_of(node.map.over)
        work += " (map)" if emitter is None else f" (map over what {emitter} hands out)"
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
        print_lines(*difference_lines(each))
    if not differences:
        print_lines("They are the same.")


def _difference_document(each: PlanDifference) -> dict[str, Any]:
    details = [{"setting": name, "before": was, "after": is_} for name, was, is_ in each.details]
    return {"kind": each.kind, "task_id": each.task_id, "task": each.task, "details": details}


def difference_lines(each: PlanDifference) -> list[str]:
    """Return how one task differs, as it is printed."""
    told = "  skipped or cancelled" if each.kind == "dropped" else f"  {each.task}"
    lines = [f"{_MARKS[each.kind]} {each.task_id}{told}".rstrip()]
    for setting, was, is_ in each.details:
        values = (_ABSENT if value is None else value for value in (was, is_))
        for place, before, after in _places(setting, *values):
            lines += _value_lines(place, before, after)
    return lines


def _places(place: str, was: Any, is_: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield what differs, field by field: of a plan within the plan only what was changed in it."""
    if not (isinstance(was, Mapping) and isinstance(is_, Mapping)):
        yield place, was, is_
        return
    for name in dict.fromkeys((*was, *is_)):
        if was.get(name) != is_.get(name) or (name in was) is not (name in is_):
            yield from _places(f"{place}.{name}", was.get(name, _ABSENT), is_.get(name, _ABSENT))


def _value_lines(place: str, was: Any, is_: Any) -> list[str]:
    """On one line where that can be read, else line by line; nothing is cut."""
    line = f"    {place}: {_said(was)} -> {_said(is_)}"
    if len(line) <= LINE_CHARS:
        return [line]
    before, after = _said_lines(was), _said_lines(is_)
    changes = [*difflib.unified_diff(before, after, n=CONTEXT_LINES, lineterm="")][2:]
    if not changes:  # they differ in a line break alone
        return [line]
    return [
        f"    {place}:",
        *(f"      {'...' if each[0] == '@' else each}" for each in changes[1:]),
    ]


def _said(value: Any) -> str:
    if value is _ABSENT:
        return _NOT_SET
    return json_text.dumps(value, ensure_ascii=False)


def _said_lines(value: Any) -> list[str]:
    if value is _ABSENT:
        return []
    if isinstance(value, str):
        return value.splitlines()
    return json_text.dumps(value, ensure_ascii=False, indent=2).splitlines()
