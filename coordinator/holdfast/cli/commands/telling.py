"""`run history`, `why`: what happened to a run, and why it stands where it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.commands.finding import find_run, read_with
from holdfast.cli.commands.waiting import event_text
from holdfast.cli.failures import ExitCode, NotThere
from holdfast.cli.printing import clip, moment, print_json, print_lines, print_table

if TYPE_CHECKING:
    from holdfast.cli.reading import Reading
    from holdfast.coordinator.projection import Reason, RunView

__all__ = ["history", "why"]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", show_default=False)]
BUILD_CHARS = 24


def history(
    context: typer.Context,
    run_id: RunId,
    limit: Annotated[int, typer.Option(min=1, max=100_000)] = 1_000,
    json: AsJson = False,
) -> int:
    """Show everything that happened to a run, in order.

    Also to a schedule (schedule/NAME), by pauses to an agent (agent/NAME), and by deletions to what
    it keeps (state/NAME).
    """
    from holdfast.coordinator.projection import list_history

    async def execute(reading: Reading) -> int:
        is_run = "/" not in run_id  # no run's id holds one
        if is_run:
            await find_run(reading, run_id)
        entries = await reading.ask(lambda c: list_history(c, run_id, limit=limit))
        if not entries and not is_run:
            raise NotThere(f"nothing has happened to {run_id!r} on this bus and namespace")
        if json:
            from holdfast.cli.documents import history_document

            print_json({"run_id": run_id, "events": [history_document(e) for e in entries]})
            return ExitCode.OK
        rows = [
            (
                moment(entry.at_ms),
                entry.type,
                entry.task_id or "",
                "" if not entry.attempt else str(entry.attempt),
                clip((entry.build_id or "").partition("+holdfast-")[0], BUILD_CHARS),
                event_text(entry.message, entry.ask, entry.signal),
            )
            for entry in entries
        ]
        headers = ("WHEN", "WHAT", "TASK", "ATTEMPT", "BUILD", "")
        print_table(headers, rows, "Nothing yet.")
        return ExitCode.OK

    return read_with(context, execute)


def why(
    context: typer.Context,
    run_id: Annotated[str, typer.Argument(metavar="RUN[/TASK]", help="A run, or one task of it.")],
    json: AsJson = False,
) -> int:
    """Say why a run or a task stands where it stands, and what would help."""
    run_id, _, task_id = run_id.partition("/")

    async def execute(reading: Reading) -> int:
        run = await find_run(reading, run_id)
        reasons = await _reasons(reading, run, task_id)
        if json:
            from holdfast.cli.documents import reason_document

            print_json(
                {
                    "run_id": run_id,
                    "state": run.state.value,
                    "reasons": [reason_document(reason) for reason in reasons],
                }
            )
            return ExitCode.OK
        print_lines(f"run {run_id} is {run.state.value}")
        for reason in reasons:
            print_lines(f"  {reason.subject + ': ' if reason.subject else ''}{reason.text}")
            if reason.remedy:
                print_lines(f"    -> {reason.remedy}")
        return ExitCode.OK

    return read_with(context, execute)


async def _reasons(reading: Reading, run: RunView, task_id: str) -> list[Reason]:
    from holdfast.coordinator.projection import why as query
    from holdfast.coordinator.projection import why_task

    if not task_id:
        return await reading.ask(lambda c: query(c, run.run_id, reading.now_ms)) or []
    found = await reading.ask(lambda c: why_task(c, run.run_id, task_id, reading.now_ms))
    if found is None:
        raise NotThere(
            f"run {run.run_id!r} has no task {task_id!r} that has begun; see "
            f"`holdfast run show {run.run_id}`"
        )
    return found
