"""`run skip|override|retry|fork`, and `agents pause|resume`: what operators do one by one."""

from __future__ import annotations

import json as json_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli.commands.finding import find_run, open_run_key
from holdfast.cli.failures import BadInput, ExitCode
from holdfast.cli.inputs import parse_input
from holdfast.cli.invocation import Invocation, invocation_of
from holdfast.cli.printing import print_json, print_lines

if TYPE_CHECKING:
    from holdfast.client import CommandReceipt, Run
    from holdfast.coordinator.projection import RunView, TaskView

__all__ = [
    "pause_agent",
    "pause_key",
    "print_receipt",
    "register_run",
    "resume_agent",
    "resume_key",
]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", show_default=False)]
TaskId = Annotated[str, typer.Argument(metavar="TASK", show_default=False)]
Because = Annotated[str, typer.Option("--reason", help="Why, for the audit trail.")]
NewId = Annotated[str | None, typer.Option("--run-id", help="Of the new run; else RUN.r1, .r2 …")]
_GOES_ON = ("dead", "retrying")
"""States of a task that goes on in its own run."""


def register_run(group: typer.Typer) -> None:
    """Add the commands to the group `run`."""
    group.command()(skip)
    group.command()(override)
    group.command()(retry)
    group.command()(fork)


def print_receipt(run_id: str, receipt: CommandReceipt, *, json: bool) -> None:
    """Say that a command was accepted."""
    if not json:
        print_lines(receipt.message)
        return
    print_json({"run_id": run_id, **_receipt(receipt)})


def _receipt(receipt: CommandReceipt) -> dict[str, Any]:
    position = {"partition": receipt.position.partition, "offset": receipt.position.offset}
    return {"command_id": receipt.command_id, "position": position}


def skip(
    context: typer.Context,
    run_id: RunId,
    task_id: TaskId,
    reason: Because = "",
    json: AsJson = False,
) -> int:
    """End a task as if its condition had not held: what depends on it goes on."""

    async def execute(invocation: Invocation) -> int:
        order_key = await open_run_key(invocation, run_id)
        async with invocation.client() as client:
            run = await client.run(run_id, order_key)
            print_receipt(run_id, await run.skip(task_id, reason=reason), json=json)
        return ExitCode.OK

    invocation = invocation_of(context)
    return invocation.run(execute(invocation))


def override(
    context: typer.Context,
    run_id: RunId,
    task_id: TaskId,
    output: Annotated[str, typer.Argument(metavar="OUTPUT-JSON", show_default=False)],
    reason: Because = "",
    json: AsJson = False,
) -> int:
    """Let a task succeed with an output given here instead of its own."""
    value = _json(output)

    async def execute(invocation: Invocation) -> int:
        order_key = await open_run_key(invocation, run_id)
        async with invocation.client() as client:
            run = await client.run(run_id, order_key)
            print_receipt(run_id, await run.override(task_id, value, reason=reason), json=json)
        return ExitCode.OK

    invocation = invocation_of(context)
    return invocation.run(execute(invocation))


def _json(text: str) -> Any:
    try:
        return json_module.loads(text)
    except ValueError as error:
        raise BadInput(
            f"the output is no JSON: {error}; text stands in quotes, within those of the shell"
        ) from None


def retry(
    context: typer.Context,
    run_id: RunId,
    task_id: TaskId,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="End the run first, if it is open.")
    ] = False,
    new_id: NewId = None,
    reason: Because = "",
    json: AsJson = False,
) -> int:
    """Let a task go on now; one that has ended is worked again, and all that follows from it.

    A task in the dead letters, or one that waits for its next attempt, goes on in its run. Else the
    run is forked from the task, under an id of its own: what does not follow from the task is
    reused. A run that is open must be cancelled for that (--cancel).
    """

    async def execute(invocation: Invocation) -> int:
        run, task = await _find(invocation, run_id, task_id)
        async with invocation.client() as client:
            goes_on = task is not None and task.state.value in _GOES_ON
            if run.finished_ms is None and goes_on and not cancel:
                handle = await client.run(run_id, run.order_key)
                print_receipt(run_id, await handle.retry(task_id, reason=reason), json=json)
                return ExitCode.OK
            forked = await client.retry_from(
                run_id,
                task_id,
                order_key=run.order_key,
                new_run_id=new_id,
                cancel=cancel,
                reason=reason,
            )
        _print_forked(run_id, task_id, forked, json=json)
        return ExitCode.OK

    invocation = invocation_of(context)
    return invocation.run(execute(invocation))


def fork(
    context: typer.Context,
    run_id: RunId,
    from_task: Annotated[
        str, typer.Option("--from", metavar="TASK", help="Worked again, and what follows from it.")
    ],
    given: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="NAME=VALUE|JSON|@FILE", help="Another input of the run."),
    ] = None,
    new_id: NewId = None,
    reason: Because = "",
    json: AsJson = False,
) -> int:
    """Submit a run once more from a task on; the old one goes on beside, if it is open."""
    value = parse_input(given) if given else None

    async def execute(invocation: Invocation) -> int:
        run, _ = await _find(invocation, run_id, from_task)
        async with invocation.client() as client:
            forked = await client.fork(
                run_id,
                order_key=run.order_key,
                new_run_id=new_id,
                from_task=from_task,
                input=value,
                reason=reason,
            )
        _print_forked(run_id, from_task, forked, json=json)
        return ExitCode.OK

    invocation = invocation_of(context)
    return invocation.run(execute(invocation))


async def _find(
    invocation: Invocation, run_id: str, task_id: str
) -> tuple[RunView, TaskView | None]:
    from holdfast.cli.reading import reading
    from holdfast.coordinator.projection import find_task

    async with reading(invocation) as opened:
        run = await find_run(opened, run_id)
        return run, await opened.ask(lambda c: find_task(c, run_id, task_id))


def _print_forked(run_id: str, task_id: str, forked: Run[Any], *, json: bool) -> None:
    if json:
        print_json({"run_id": forked.id, "fork_of": run_id, "from": task_id})
    else:
        print_lines(f"run {run_id} goes on from {task_id} as {forked.id}")


# --- agents ------------------------------------------------------------------------------------

AgentName = Annotated[str, typer.Argument(metavar="AGENT", show_default=False)]
OrderKey = Annotated[
    str | None, typer.Option("--key", metavar="KEY", help="Only this order key at it.")
]


def pause_agent(
    context: typer.Context,
    agent: AgentName,
    key: OrderKey = None,
    reason: Because = "",
    json: AsJson = False,
) -> int:
    """Let an agent, or one order key at it, begin nothing more; what it has begun goes on."""
    return _steer(context, "pause", (agent, key), reason, json=json)


def resume_agent(
    context: typer.Context,
    agent: AgentName,
    key: OrderKey = None,
    reason: Because = "",
    json: AsJson = False,
) -> int:
    """Go on with a paused agent, or a paused order key at it."""
    return _steer(context, "resume", (agent, key), reason, json=json)


def pause_key(
    context: typer.Context,
    key: Annotated[str, typer.Argument(metavar="KEY", show_default=False)],
    agents: Annotated[list[str], typer.Option("--agent", metavar="AGENT", help="May be repeated.")],
    reason: Because = "",
    json: AsJson = False,
) -> int:
    """Pause one order key at each of some agents."""
    return _steer_key(context, "pause", (key, agents), reason, json=json)


def resume_key(
    context: typer.Context,
    key: Annotated[str, typer.Argument(metavar="KEY", show_default=False)],
    agents: Annotated[list[str], typer.Option("--agent", metavar="AGENT", help="May be repeated.")],
    reason: Because = "",
    json: AsJson = False,
) -> int:
    """Go on with one order key at each of some agents."""
    return _steer_key(context, "resume", (key, agents), reason, json=json)


def _steer_key(
    context: typer.Context, word: str, what: tuple[str, list[str]], reason: str, *, json: bool
) -> int:
    """Say one word of a key to each agent; what one refuses keeps it from no other."""
    key, agents = what

    async def execute(invocation: Invocation) -> int:
        from holdfast.client import CommandRefused

        told: list[dict[str, Any]] = []
        async with invocation.client() as client:
            await client.agents.require(*agents)  # a name that is mistyped changes nothing
            words = {"pause": client.agents.pause, "resume": client.agents.resume}
            for agent in dict.fromkeys(agents):
                said: dict[str, Any] = {"agent": agent, "order_key": key}
                try:
                    receipt = await words[word](agent, order_key=key, reason=reason)
                    said |= {**_receipt(receipt), "message": receipt.message, "refused": False}
                except CommandRefused as error:
                    said |= {"message": str(error), "refused": True}
                told.append(said)
        if json:
            print_json({"agents": told})
        else:
            print_lines(*(each["message"] for each in told))
        return ExitCode.BAD_INPUT if any(each["refused"] for each in told) else ExitCode.OK

    invocation = invocation_of(context)
    return invocation.run(execute(invocation))


def _steer(
    context: typer.Context, word: str, what: tuple[str, str | None], reason: str, *, json: bool
) -> int:
    agent, key = what

    async def execute(invocation: Invocation) -> int:
        async with invocation.client() as client:
            words = {"pause": client.agents.pause, "resume": client.agents.resume}
            receipt = await words[word](agent, order_key=key, reason=reason)
        if json:
            print_json({"agent": agent, "order_key": key, **_receipt(receipt)})
        else:
            print_lines(receipt.message)
        return ExitCode.OK

    invocation = invocation_of(context)
    return invocation.run(execute(invocation))
