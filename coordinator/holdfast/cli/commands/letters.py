"""`dead-letters list|show|replay|discard`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli.commands.runs import print_receipt
from holdfast.cli.failures import BadInput, ExitCode, NotThere
from holdfast.cli.invocation import Invocation, invocation_of
from holdfast.cli.printing import clip, moment, print_json, print_lines, print_table, shown

if TYPE_CHECKING:
    from holdfast.coordinator.projection import DeadLetterView, RunView

__all__ = ["register"]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LetterId = Annotated[str, typer.Argument(metavar="ID", show_default=False)]
Reason = Annotated[str, typer.Option("--reason", "--because", help="Why, for the audit trail.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="Tasks and records that cannot go on by themselves.", no_args_is_help=True
    )
    group.command("list")(list_letters)
    group.command()(show)
    group.command()(replay)
    group.command()(discard)
    app.add_typer(group, name="dead-letters")


def list_letters(
    context: typer.Context,
    run: Annotated[str | None, typer.Option(metavar="RUN", help="Only of this run.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only of this reason.")] = None,
    only_open: Annotated[
        bool, typer.Option("--open", help="Only those whose run still waits.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
    json: AsJson = False,
) -> int:
    """List dead letters, the newest first."""
    from holdfast.cli.reading import reading
    from holdfast.coordinator.projection import list_dead_letters
    from holdfast.schemas import DeadLetterReason, did_you_mean

    known = [each.value for each in DeadLetterReason]
    if reason is not None and reason not in known:
        raise BadInput(f"--reason {reason!r} is none{did_you_mean(reason, known)}")

    async def execute(invocation: Invocation) -> int:
        async with reading(invocation) as opened:
            found = await opened.ask(
                lambda c: list_dead_letters(
                    c, run_id=run, reason=reason, only_open=only_open, limit=limit
                )
            )
        if json:
            from holdfast.cli.documents import dead_letter_document

            print_json({"dead_letters": [dead_letter_document(letter) for letter in found]})
            return ExitCode.OK
        rows = [_row(letter) for letter in found]
        print_table(("ID", "REASON", "TASK", "AT", "OPEN", ""), rows, "No dead letters.")
        return ExitCode.OK

    invocation = invocation_of(context)
    return invocation.run(execute(invocation))


def _row(letter: DeadLetterView) -> tuple[str, ...]:
    return (
        letter.dead_letter_id,
        letter.reason,
        f"{letter.agent}.{letter.task or '?'}",
        moment(letter.at_ms),
        "yes" if letter.open else "",
        "" if letter.failure is None else clip(letter.failure["message"], 60),
    )


def show(context: typer.Context, letter_id: LetterId, json: AsJson = False) -> int:
    """Show one dead letter, whole."""
    from holdfast.cli.documents import dead_letter_document, payload_document
    from holdfast.cli.reading import reading

    async def execute(invocation: Invocation) -> int:
        async with reading(invocation) as opened:
            letter, _ = await _find(opened, letter_id)
            async with opened.decoder() as decode:
                given = await payload_document(letter.input, decode)
        if json:
            print_json({**dead_letter_document(letter), "input": given})
            return ExitCode.OK
        _print(letter, given)
        return ExitCode.OK

    invocation = invocation_of(context)
    return invocation.run(execute(invocation))


def _print(letter: DeadLetterView, given: Any) -> None:
    lines = [
        f"id       {letter.dead_letter_id}",
        f"reason   {letter.reason}, {moment(letter.at_ms)}",
        f"task     {letter.run_id or '?'}/{letter.task_id or '?'}, attempt {letter.attempt} of "
        f"{letter.agent}.{letter.task or '?'}",
    ]
    if letter.source is not None:
        source = letter.source
        lines.append(f"record   {source['topic']}[{source['partition']}]@{source['offset']}")
    if letter.failure is not None:
        lines.append(f"failure  {letter.failure['error_class']}: {letter.failure['message']}")
    lines.append(f"input    {shown(given)}")
    if letter.failure is not None and letter.failure["traceback"]:
        lines += ["", letter.failure["traceback"].rstrip()]
    print_lines(*lines)


def replay(
    context: typer.Context, letter_id: LetterId, because: Reason = "", json: AsJson = False
) -> int:
    """Let a task go on: in its run while that is open, else in a fork of the run.

    A fork reuses the results of tasks that succeeded, and keeps the idempotency keys of effects.
    Replaying one run's dead letters twice makes one fork.
    """

    async def execute(invocation: Invocation) -> int:
        letter, run = await _target(invocation, letter_id)
        async with invocation.client() as client:
            if letter.open:
                handle = await client.run(run.run_id, run.order_key)
                receipt = await handle.replay(str(letter.task_id), reason=because)
                print_receipt(run.run_id, receipt, json=json)
                return ExitCode.OK
            if run.finished_ms is None:
                raise BadInput(
                    f"task {letter.task_id!r} of run {run.run_id!r} is {letter.task_state}: "
                    "there is nothing to replay"
                )
            fork = await client.fork(run.run_id, order_key=run.order_key, reason=because)
        if json:
            print_json({"run_id": fork.id, "fork_of": run.run_id})
        else:
            print_lines(f"run {run.run_id} has ended; forked as {fork.id}")
        return ExitCode.OK

    invocation = invocation_of(context)
    return invocation.run(execute(invocation))


def discard(
    context: typer.Context, letter_id: LetterId, because: Reason = "", json: AsJson = False
) -> int:
    """Give a task up: it fails, and its run goes on without it or fails with it."""

    async def execute(invocation: Invocation) -> int:
        letter, run = await _target(invocation, letter_id)
        async with invocation.client() as client:
            handle = await client.run(run.run_id, run.order_key)
            receipt = await handle.discard(str(letter.task_id), reason=because)
        print_receipt(run.run_id, receipt, json=json)
        return ExitCode.OK

    invocation = invocation_of(context)
    return invocation.run(execute(invocation))


async def _target(invocation: Invocation, letter_id: str) -> tuple[DeadLetterView, RunView]:
    from holdfast.cli.reading import reading

    async with reading(invocation) as opened:
        letter, run = await _find(opened, letter_id)
    if run is None or letter.task_id is None:
        raise BadInput(
            f"dead letter {letter_id!r} is a record that belongs to no run: there is nothing to go "
            "on with; `dead-letters show` has its bytes"
        )
    return letter, run


async def _find(opened: Any, letter_id: str) -> tuple[DeadLetterView, RunView | None]:
    from holdfast.coordinator.projection import find_dead_letter, find_run

    letter: DeadLetterView | None = await opened.ask(lambda c: find_dead_letter(c, letter_id))
    if letter is None:
        raise NotThere(f"no dead letter {letter_id!r}; see `holdfast dead-letters list`")
    run_id = letter.run_id
    if run_id is None:
        return letter, None
    return letter, await opened.ask(lambda c: find_run(c, run_id))
