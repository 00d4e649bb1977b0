"""`bulk cancel|pause|resume|retry|replay|skip|discard`: one word to all that a filter selects."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli.failures import BadInput, ExitCode
from holdfast.cli.invocation import Invocation, invocation_of
from holdfast.cli.printing import clip, note, print_json, print_lines, print_table

if TYPE_CHECKING:
    from holdfast.client import BulkResult
    from holdfast.coordinator.projection import Selected

__all__ = ["register"]

SHOWN = 20
"""So many of what was selected, and of what was refused, are shown."""
LIMIT_MAX = 100_000

Where = Annotated[
    str,
    typer.Option(metavar="FILTER", help="Such as 'agent=reviewer and status=dead'."),
]
Limit = Annotated[int, typer.Option(min=1, max=LIMIT_MAX, help="Of runs or tasks.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what it would do, and do nothing.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Because = Annotated[str, typer.Option("--reason", help="Why, for the audit trail.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Compensate = Annotated[
    bool | None,
    typer.Option(
        "--compensate/--no-compensate",
        help="Undo what has succeeded first, or do not.  [default: as each run's plan says]",
    ),
]

_HELP = {
    "cancel": "End the runs that a filter selects.",
    "pause": "Hand out nothing new of the runs that a filter selects.",
    "resume": "Go on with the paused runs that a filter selects.",
    "retry": "Let tasks go on now; runs that have ended badly are forked, once each.",
    "replay": "Let tasks in the dead letters of open runs go on.",
    "skip": "End the tasks that a filter selects as if their conditions had not held.",
    "discard": "Give tasks in the dead letters up: they fail.",
}
_FIELDS_HELP = (
    "Fields: run, plan, state, order_key, age (of the run); agent, task, handler, status, error,"
    " attempt (of a task). Compared by =, !=, <, >, ~ (begins with); joined by and, or, not, ()."
)
_UNDOING = {
    None: ", undoing what each plan says",
    True: ", undoing what has succeeded",
    False: ", undoing nothing",
}
"""Told wherever a cancel is: before it is confirmed is the last moment to think of it."""


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="One word to many runs or tasks.", no_args_is_help=True)
    for action, text in _HELP.items():
        command = _cancel if action == "cancel" else _command(action)
        group.command(action, help=f"{text} {_FIELDS_HELP}")(command)
    app.add_typer(group, name="bulk")


@dataclass(frozen=True, slots=True)
class _Asked:
    """What was typed. `compensate`: of a cancel alone."""

    action: str
    where: str
    limit: int
    dry_run: bool
    yes: bool
    reason: str
    json: bool
    compensate: bool | None = None

    @property
    def undoing(self) -> str:
        """What a cancel undoes first, for people; empty of any other command."""
        return _UNDOING[self.compensate] if self.action == "cancel" else ""

    def document(self) -> dict[str, Any]:
        """Return what the JSON of every answer begins with."""
        document: dict[str, Any] = {"action": self.action}
        if self.action == "cancel":
            document["compensate"] = self.compensate
        return document


def _cancel(
    context: typer.Context,
    where: Where,
    compensate: Compensate = None,
    limit: Limit = 1_000,
    dry_run: DryRun = False,
    yes: Yes = False,
    reason: Because = "",
    json: AsJson = False,
) -> int:
    asked = _Asked("cancel", where, limit, dry_run, yes, reason, json, compensate)
    return _carry_out(context, asked)


def _command(action: str) -> Callable[..., int]:
    def command(
        context: typer.Context,
        where: Where,
        limit: Limit = 1_000,
        dry_run: DryRun = False,
        yes: Yes = False,
        reason: Because = "",
        json: AsJson = False,
    ) -> int:
        return _carry_out(context, _Asked(action, where, limit, dry_run, yes, reason, json))

    return command


def _carry_out(context: typer.Context, asked: _Asked) -> int:
    invocation = invocation_of(context)

    async def execute() -> int:
        bulk = _Bulk(invocation, asked)
        found = await bulk.select()
        if asked.dry_run or not found:
            bulk.show(found)
            return ExitCode.OK
        if not asked.yes:
            bulk.show(found)
            _ask(f"{asked.action} {len(found)}{asked.undoing}")
        return await bulk.send(found)

    return invocation.run(execute())


def _ask(what: str) -> None:
    if not sys.stdin.isatty():
        raise BadInput(f"nobody can be asked here: give --yes to {what}, or --dry-run")
    typer.confirm(f"{what}?", abort=True, err=True)


class _Bulk:
    """One invocation of one of the commands."""

    def __init__(self, invocation: Invocation, asked: _Asked) -> None:
        self._invocation = invocation
        self._asked = asked

    async def select(self) -> list[Selected]:
        """Return the targets; raises `FilterError`."""
        from holdfast.cli.reading import reading
        from holdfast.coordinator.projection import select_targets

        asked = self._asked
        async with reading(self._invocation) as opened:
            now_ms = opened.now_ms
            return await opened.ask(
                lambda c: select_targets(c, asked.action, asked.where, now_ms, limit=asked.limit)
            )

    def show(self, found: list[Selected]) -> None:
        """Say what would be done."""
        asked = self._asked
        if asked.json:
            print_json(asked.document() | {"targets": [_target(each) for each in found]})
            return
        rows = [(_name(each), each.state, each.agent or "") for each in found[:SHOWN]]
        print_table(("WHAT", "STATE", "AGENT"), rows, "Nothing is selected.")
        if len(found) > SHOWN:
            print_lines(f"… and {len(found) - SHOWN} more")
        if found:
            runs = len({each.run_id for each in found})
            print_lines(f"{asked.action}{asked.undoing}: {len(found)} in {runs} runs")
        if len(found) == asked.limit:
            note(f"there may be more: --limit {asked.limit} was reached")

    async def send(self, found: list[Selected]) -> int:
        """Send the commands; print what became of them."""
        from holdfast.client import BulkAction, BulkOutcome, BulkTarget

        targets = [
            BulkTarget(each.run_id, each.order_key, each.task_id, each.ended) for each in found
        ]
        asked = self._asked
        async with self._invocation.client() as client:
            bulk_id = client.new_id()
            note(f"bulk {bulk_id}")
            sending = client.bulk(
                BulkAction(asked.action),
                targets,
                reason=asked.reason,
                bulk_id=bulk_id,
                compensate=asked.compensate,
            )
            results = [result async for result in sending]
        self._summarize(bulk_id, results)
        late = any(result.outcome is BulkOutcome.UNANSWERED for result in results)
        return ExitCode.TIMEOUT if late else ExitCode.OK

    def _summarize(self, bulk_id: str, results: list[BulkResult]) -> None:
        counts = Counter(result.outcome.value for result in results)
        asked = self._asked
        if asked.json:
            document = asked.document() | {"bulk_id": bulk_id}
            document["counts"] = dict(counts)
            document["results"] = [
                {
                    "run_id": result.target.run_id,
                    "task_id": result.target.task_id,
                    "outcome": result.outcome.value,
                    "message": result.message,
                }
                for result in results
            ]
            print_json(document)
            return
        told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        print_lines(f"{asked.action}{asked.undoing}: {told}")
        others = [result for result in results if result.outcome.value != "accepted"]
        for result in others[:SHOWN]:
            name = "/".join(filter(None, (result.target.run_id, result.target.task_id)))
            print_lines(f"  {name}: {clip(result.message, 120)}")
        if len(others) > SHOWN:
            print_lines(f"  … and {len(others) - SHOWN} more")


def _name(selected: Selected) -> str:
    return "/".join(filter(None, (selected.run_id, selected.task_id)))


def _target(selected: Selected) -> dict[str, Any]:
    return {
        "run_id": selected.run_id,
        "task_id": selected.task_id,
        "agent": selected.agent,
        "state": selected.state,
    }
