"""How commands find the run that they are about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from holdfast.cli.failures import BadInput, NotThere
from holdfast.cli.invocation import Invocation, invocation_of

if TYPE_CHECKING:
    from holdfast.cli.reading import Reading
    from holdfast.coordinator.projection import RunView

__all__ = ["find_run", "open_run_key", "read_with"]


def read_with(context: typer.Context, execute: Any) -> int:
    """Run `execute(reading)` to its end; return its exit code."""
    from holdfast.cli.reading import reading

    invocation = invocation_of(context)

    async def work() -> int:
        async with reading(invocation) as opened:
            return int(await execute(opened))

    return invocation.run(work())


async def find_run(reading: Reading, run_id: str) -> RunView:
    """Return a run; raises `NotThere`."""
    from holdfast.coordinator.projection import find_run as query

    found = await reading.ask(lambda connection: query(connection, run_id))
    if found is not None:
        return found
    if waiting := await reading.waiting():
        raise NotThere(
            f"no coordinator has taken in a run {run_id!r} yet, and {waiting} records wait for "
            "one: is one running? (`holdfast doctor`)"
        )
    raise NotThere(f"no run {run_id!r} on this bus and namespace; see `holdfast runs`")


async def open_run_key(invocation: Invocation, run_id: str, what: str = "commands") -> str | None:
    """Return the order key of a run that is open; raises `NotThere`, `BadInput`."""
    from holdfast.cli.reading import reading

    async with reading(invocation) as opened:
        run = await find_run(opened, run_id)
    # What was continued is asked all the same: a cancel goes on to the one that is open.
    if run.finished_ms is not None and run.successor is None:
        raise BadInput(
            f"run {run_id!r} is closed ({run.state}): it takes no more {what}; from a task on it"
            f" can be worked again: `holdfast run retry {run_id} TASK`"
        )
    return run.order_key
