"""`submit`, `runs`, `run show|history|plan|cancel|pause|resume`, `why`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli.commands import operating, plans
from holdfast.cli.commands.finding import find_run, open_run_key, read_with
from holdfast.cli.commands.operating import print_receipt
from holdfast.cli.commands.telling import history, why
from holdfast.cli.commands.waiting import read_surroundings
from holdfast.cli.failures import BadInput, ExitCode
from holdfast.cli.inputs import parse_input
from holdfast.cli.invocation import Invocation, invocation_of
from holdfast.cli.printing import (
    clip,
    duration,
    moment,
    note,
    print_json,
    print_lines,
    print_table,
    shown,
)

if TYPE_CHECKING:
    from holdfast.cli.reading import Reading
    from holdfast.client import CommandReceipt, Run
    from holdfast.coordinator.projection import RunView, TaskView
    from holdfast.schemas import PlanDocument

__all__ = ["print_receipt", "register"]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", show_default=False)]
Because = Annotated[str, typer.Option("--reason", help="Why, for the audit trail.")]
ACCEPTED_WAIT_S = 3.0
"""How long `submit` waits to hear of a refusal."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(submit)
    app.command("runs")(list_runs)
    app.command()(why)
    group = typer.Typer(help="Look at one run, and steer it.", no_args_is_help=True)
    group.command()(show)
    group.command()(history)
    group.command("plan")(plans.plan)
    group.command()(cancel)
    group.command()(pause)
    group.command()(resume)
    operating.register_run(group)
    app.add_typer(group, name="run")


def submit(
    context: typer.Context,
    plan: Annotated[
        Path | None, typer.Argument(metavar="PLAN", help="A plan: YAML or JSON.")
    ] = None,
    task: Annotated[str | None, typer.Option(metavar="AGENT.TASK", help="A lone task.")] = None,
    input: Annotated[  # noqa: A002 - the flag's name
        list[str] | None, typer.Option(metavar="NAME=VALUE|JSON|@FILE", help="The run's input.")
    ] = None,
    run_id: Annotated[
        str | None, typer.Option(help="Repeat the command with it as often as you like.")
    ] = None,
    order_key: Annotated[str | None, typer.Option(help="Stands over the plan's own.")] = None,
    deadline: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Stands over the plan's own.")
    ] = None,
    start_at: Annotated[
        str | None, typer.Option(metavar="TIME", help="Not before; ISO 8601 with a time zone.")
    ] = None,
    start_in: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Not before so long from now.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Show progress and print the result.")] = False,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Wait no longer than this.")
    ] = None,
    json: AsJson = False,
) -> int:
    """Submit a plan, or a lone task, as a run."""
    work = _work(plan, task)
    if timeout is not None and not wait:
        raise BadInput("--timeout belongs to --wait")
    value = parse_input(input or [])
    if start_at is not None and start_in is not None:
        raise BadInput("give --start-at or --start-in, not both")
    at = None if start_at is None else _moment(start_at)

    async def execute(invocation: Invocation) -> int:
        async with invocation.client() as client:
            run = await client.submit(
                work,
                value,
                run_id=run_id,
                order_key=order_key,
                deadline_s=deadline,
                start_at=at,
                start_in=None if start_in is None else timedelta(seconds=start_in),
            )
            if not wait:
                await _accepted(run)
                _print_submitted(run, json=json)
                return ExitCode.OK
            return await _wait(run, timeout, json=json)

    invocation = invocation_of(context)
    return invocation.run(execute(invocation))


def _moment(text: str) -> datetime:
    example = "write 2026-11-27T18:00:00+01:00, for instance"
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"--start-at {text!r} is no moment; {example}") from None
    if at.tzinfo is None:
        raise BadInput(f"--start-at {text!r} has no time zone; {example}")
    return at


def _work(plan: Path | None, task: str | None) -> PlanDocument | str:
    if (plan is None) == (task is None):
        raise BadInput("name a plan file, or a task by --task AGENT.TASK; not both")
    if plan is None:
        return str(task)
    from holdfast.schemas import load_plan

    return load_plan(plan)


async def _accepted(run: Run[Any]) -> None:
    """Hear of a refusal or a conflict; that nobody answers is none: the bus keeps the run."""
    from holdfast.client import WaitTimeout

    try:
        await run.accepted(ACCEPTED_WAIT_S)
    except WaitTimeout as late:
        note(str(late))


def _print_submitted(run: Run[Any], *, json: bool) -> None:
    if not json:
        print_lines(run.id)
        return
    position = run.position
    assert position is not None
    print_json(
        {
            "run_id": run.id,
            "order_key": run.order_key,
            "position": {"partition": position.partition, "offset": position.offset},
        }
    )


async def _wait(run: Run[Any], timeout_s: float | None, *, json: bool) -> int:
    import asyncio

    from holdfast.cli.progress import open_progress
    from holdfast.client import RunFailed, WaitTimeout

    note(f"run {run.id}")
    try:
        async with asyncio.timeout(timeout_s):
            with open_progress(run.id) as progress:
                async for event in run.events():
                    progress.show(event)
            result = await run.result()
    except TimeoutError:
        raise WaitTimeout(
            f"run {run.id!r} has not ended within {timeout_s:g} s; it goes on: "
            f"holdfast run show {run.id}"
        ) from None
    except RunFailed as error:
        if json:
            _print_failed(error)
        raise
    if json:
        print_json({"run_id": run.id, "state": "succeeded", "output": result, "failure": None})
    else:
        print_lines(shown(result))
    return ExitCode.OK


def _print_failed(error: Any) -> None:
    from dataclasses import asdict

    from holdfast.client import RunCancelled

    state = "cancelled" if isinstance(error, RunCancelled) else "failed"
    failure = None if error.failure is None else asdict(error.failure)
    print_json({"run_id": error.run_id, "state": state, "output": None, "failure": failure})


# --- reading -----------------------------------------------------------------------------------


def list_runs(
    context: typer.Context,
    state: Annotated[list[str] | None, typer.Option(help="Only these; may be repeated.")] = None,
    plan: Annotated[str | None, typer.Option(metavar="NAME", help="Only of this plan.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
    after: Annotated[
        str | None, typer.Option(metavar="NEXT", help="Go on where a page ended: its `next`.")
    ] = None,
    json: AsJson = False,
) -> int:
    """List runs, the newest first."""
    from holdfast.coordinator.projection import RunFilter
    from holdfast.coordinator.projection import list_runs as query

    wanted = RunFilter(
        states=_states(state or []), plan_name=plan, before=_page(after), limit=limit
    )

    async def execute(reading: Reading) -> int:
        found = await reading.ask(lambda connection: query(connection, wanted))
        token = f"{found[-1].created_ms}/{found[-1].run_id}" if len(found) == limit else None
        if json:
            from holdfast.cli.documents import run_document

            print_json({"runs": [run_document(run) for run in found], "next": token})
            return ExitCode.OK
        rows = [_row(run, reading.now_ms) for run in found]
        print_table(("RUN", "PLAN", "STATE", "TASKS", "BEGUN", "TOOK", ""), rows, "No runs.")
        if token is not None:
            note(f"More: holdfast runs --after {token}")
        return ExitCode.OK

    return read_with(context, execute)


def _states(names: list[str]) -> tuple[Any, ...]:
    from holdfast.schemas import RunState, did_you_mean

    known = {state.value: state for state in RunState}
    for name in names:
        if name not in known:
            raise BadInput(f"--state {name!r} is none{did_you_mean(name, known)}")
    return tuple(known[name] for name in names)


def _page(after: str | None) -> tuple[int, str] | None:
    if after is None:
        return None
    created, _, run_id = after.partition("/")
    if not created.isdigit() or not run_id:
        raise BadInput(f"--after {after!r} is not what a page gave as `next`")
    return int(created), run_id


def _row(run: RunView, now_ms: int) -> tuple[str, ...]:
    tasks = run.tasks_by_state
    done = sum(tasks.get(state, 0) for state in ("succeeded", "skipped"))
    took = (run.finished_ms or now_ms) - run.created_ms
    why_not = "" if run.failure is None else clip(run.failure["message"], 60)
    return (
        run.run_id,
        run.plan_name,
        run.state.value,
        f"{done}/{sum(tasks.values())}",
        moment(run.created_ms),
        duration(took),
        why_not,
    )


def show(
    context: typer.Context,
    run_id: RunId,
    items: Annotated[
        str | None,
        typer.Option(metavar="TASK", help="List the items of this map, the rounds of this loop."),
    ] = None,
    json: AsJson = False,
) -> int:
    """Show a run and its tasks."""
    from holdfast.coordinator.projection import list_tasks

    async def execute(reading: Reading) -> int:
        run = await find_run(reading, run_id)
        tasks = await reading.ask(lambda c: list_tasks(c, run_id, items_of=items))
        if json:
            print_json(await _run_whole(reading, run, tasks))
            return ExitCode.OK
        await _print_run(reading, run)
        around = await read_surroundings(reading, run_id, is_open=run.finished_ms is None)
        around.print(reading.now_ms)
        print_lines("")
        rows = [_task_row(task) for task in tasks]
        headers = ("TASK", "AGENT", "STATE", "ATTEMPT", "TOOK", "")
        none = "No task has begun." if items is None else f"Nothing of {items!r} has begun."
        print_table(headers, rows, none)
        return ExitCode.OK

    return read_with(context, execute)


async def _run_whole(reading: Reading, run: RunView, tasks: list[TaskView]) -> dict[str, Any]:
    from holdfast.cli.documents import payload_document, run_document, task_document

    around = await read_surroundings(reading, run.run_id, is_open=run.finished_ms is None)
    async with reading.decoder() as decode:
        whole = run_document(run)
        whole |= await around.document(decode)
        whole["input"] = await payload_document(run.input, decode)
        whole["output"] = await payload_document(run.output, decode)
        whole["resolved_plan"] = run.plan
        whole["task_rows"] = [
            {
                **task_document(task),
                "input": await payload_document(task.input, decode),
                "output": await payload_document(task.output, decode),
            }
            for task in tasks
        ]
    return whole


async def _print_run(reading: Reading, run: RunView) -> None:
    from holdfast.cli.documents import payload_document

    async with reading.decoder() as decode:
        given = await payload_document(run.input, decode)
        output = await payload_document(run.output, decode)
    took = duration((run.finished_ms or reading.now_ms) - run.created_ms)
    lines = [
        f"run     {run.run_id} ({run.plan_name})",
        f"state   {run.state.value}, begun {moment(run.created_ms)}, {took}",
        f"by      {run.submitted_by}",
        f"input   {clip(shown(given))}",
    ]
    if run.start_ms is not None and run.finished_ms is None and run.start_ms > reading.now_ms:
        lines.append(f"starts  {moment(run.start_ms)}: nothing of it before")
    if run.parent is not None:
        lines.append(f"parent  {run.parent[0]}, task {run.parent[1]}")
    if run.plan_version > 1:
        lines.append(f"plan    version {run.plan_version}: see `holdfast run plan {run.run_id}`")
    if run.predecessor is not None:
        lines.append(f"after   {run.predecessor}")
    if run.successor is not None:
        lines.append(f"next    {run.successor}")
    if run.origin != run.run_id:
        lines.append(f"origin  {run.origin}")
    if run.order_key is not None:
        lines.append(f"order   {run.order_key}")
    if run.failure is not None:
        lines.append(f"failure {run.failure['kind']}: {clip(run.failure['message'])}")
    if output is not None:
        lines.append(f"output  {clip(shown(output))}")
    print_lines(*lines)


def _task_row(task: TaskView) -> tuple[str, ...]:
    took = None
    if task.finished_ms is not None and task.started_ms is not None:
        took = task.finished_ms - task.started_ms
    told = ""
    if task.ruling is not None:
        told = clip(f"{task.ruling['action']} by {task.ruling['actor']}", 60)
    elif task.is_loop:
        told = f"{task.done} of at most {task.total} rounds"
    elif task.total:
        told = f"{task.done} of {task.total} items" + (
            f", {task.failed} failed" if task.failed else ""
        )
        told += "" if task.arrives_from is None else f", more from {task.arrives_from}"
    elif task.failure is not None:
        told = clip(task.failure["message"], 60)
    elif task.child is not None:
        told = f"run {task.child}"
    elif task.caller is not None:
        told = f"called by {task.caller}"
    elif task.undoes is not None:
        told = f"undoes {task.undoes}"
    elif task.steps:
        told = "1 step" if len(task.steps) == 1 else f"{len(task.steps)} steps"
    return (
        task.task_id,
        f"{task.agent}.{task.task}" if task.agent else f"plan {task.task}",
        task.state.value,
        str(task.attempt),
        duration(took),
        told,
    )


# --- steering ----------------------------------------------------------------------------------


def cancel(
    context: typer.Context,
    run_id: RunId,
    compensate: Annotated[
        bool | None,
        typer.Option(
            "--compensate/--no-compensate",
            help="Undo what has succeeded first, or do not.  [default: as its plan says]",
        ),
    ] = None,
    from_task: Annotated[
        str | None,
        typer.Option("--from", metavar="TASK", help="Undo only this task and what came of it."),
    ] = None,
    reason: Because = "",
    json: AsJson = False,
) -> int:
    """End a run: what runs is told to stop, and what has succeeded is undone."""
    if from_task is not None and compensate is False:
        raise BadInput("--from says what to undo, and --no-compensate not to: leave one out")
    said = {"compensate": compensate, "compensate_from": from_task}
    return _steer(context, run_id, "cancel", reason, json=json, said=said)


def pause(context: typer.Context, run_id: RunId, reason: Because = "", json: AsJson = False) -> int:
    """Hand out nothing new of a run; what runs goes on."""
    return _steer(context, run_id, "pause", reason, json=json)


def resume(
    context: typer.Context, run_id: RunId, reason: Because = "", json: AsJson = False
) -> int:
    """Go on with a paused run."""
    return _steer(context, run_id, "resume", reason, json=json)


def _steer(
    context: typer.Context,
    run_id: str,
    action: str,
    reason: str,
    *,
    json: bool,
    said: Mapping[str, Any] = MappingProxyType({}),
) -> int:
    async def execute(invocation: Invocation) -> int:
        order_key = await open_run_key(invocation, run_id)
        async with invocation.client() as client:
            run = await client.run(run_id, order_key)
            commands: dict[str, Callable[..., Awaitable[CommandReceipt]]] = {
                "cancel": run.cancel,
                "pause": run.pause,
                "resume": run.resume,
            }
            receipt = await commands[action](reason=reason, **said)
        print_receipt(run_id, receipt, json=json)
        return ExitCode.OK

    invocation = invocation_of(context)
    return invocation.run(execute(invocation))
