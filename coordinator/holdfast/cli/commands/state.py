"""`state list|get|delete|deletions`: what agents keep under order keys."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from holdfast.cli.failures import ExitCode, NotThere
from holdfast.cli.invocation import Invocation, invocation_of
from holdfast.cli.printing import moment, note, print_json, print_lines, print_table, shown

__all__ = ["register"]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AgentName = Annotated[str, typer.Argument(metavar="AGENT", show_default=False)]
OrderKey = Annotated[str, typer.Argument(metavar="KEY", help="The order key.", show_default=False)]
StateName = Annotated[str | None, typer.Argument(metavar="[NAME]", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="What agents keep under order keys.", no_args_is_help=True)
    group.command("list")(list_state)
    group.command()(get)
    group.command()(delete)
    group.command()(deletions)
    app.add_typer(group, name="state")


def list_state(
    context: typer.Context,
    agent: AgentName,
    key: Annotated[
        str | None, typer.Option("--key", metavar="KEY", help="Only of this order key.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000)] = 1_000,
    json: AsJson = False,
) -> int:
    """List what an agent keeps, without the values. Reads its journal: no process need run."""

    async def execute(invocation: Invocation) -> int:
        found, more = [], False
        async with invocation.client() as client:
            if key is not None:
                found = list((await client.state(agent, key).places()).values())
            else:
                async for place in client.states(agent):
                    if more := len(found) == limit:
                        break
                    found.append(place)
        if more:
            note(f"only the first {limit}: ask for one --key, or raise --limit")
        if json:
            print_json({"state": [place._asdict() for place in found], "more": more})
            return ExitCode.OK
        rows = [(p.order_key, p.name, str(p.size_bytes), p.task, moment(p.at_ms)) for p in found]
        headers = ("KEY", "NAME", "BYTES", "WRITTEN BY", "AT")
        print_table(headers, rows, f"Agent {agent} keeps nothing{'' if key is None else ' there'}.")
        return ExitCode.OK

    invocation = invocation_of(context)
    return invocation.run(execute(invocation))


def get(
    context: typer.Context,
    agent: AgentName,
    key: OrderKey,
    name: StateName = None,
    json: AsJson = False,
) -> int:
    """Show what an agent keeps under an order key: all of it, or one name."""

    async def execute(invocation: Invocation) -> int:
        async with invocation.client() as client:
            found = await client.state(agent, key).documents()
        if name is not None and name not in found:
            known = ", ".join(found) or "nothing"
            raise NotThere(
                f"agent {agent!r} keeps no {name!r} under order key {key!r}; it keeps: {known}"
            )
        if json:
            print_json(_document(agent, key, found) if name is None else found[name])
        elif name is not None:
            print_lines(shown(found[name]))
        else:
            rows = [(each, shown(value)) for each, value in found.items()]
            empty = f"Agent {agent} keeps nothing under order key {key}."
            if all("\n" not in text for _, text in rows):
                print_table(("NAME", "VALUE"), rows, empty)
            else:
                print_lines(*(f"{each}:\n{text}\n" for each, text in rows))
        return ExitCode.OK

    invocation = invocation_of(context)
    return invocation.run(execute(invocation))


def _document(agent: str, key: str, found: dict[str, Any]) -> dict[str, Any]:
    return {"agent": agent, "order_key": key, "state": found}


def delete(
    context: typer.Context,
    agent: AgentName,
    key: OrderKey,
    reason: Annotated[
        str,
        typer.Option("--reason", "--because", help="Why, for the audit trail.", show_default=False),
    ],
    name: StateName = None,
    json: AsJson = False,
) -> int:
    """Delete what an agent keeps under an order key: all of it, or one name.

    Done between two tasks of the key: one that is at work, or waits for its next attempt, goes
    on with what it has read, and the deletion follows its end.
    """

    async def execute(invocation: Invocation) -> int:
        async with invocation.client() as client:
            done = await client.state(agent, key).delete(name, reason=reason)
        if json:
            print_json({**_document(agent, key, {}), "deleted": list(done.names)})
            return ExitCode.OK
        names = ", ".join(done.names)
        print_lines(f"deleted: {names}" if names else "nothing was there; the audit trail says so")
        return ExitCode.OK

    invocation = invocation_of(context)
    return invocation.run(execute(invocation))


def deletions(
    context: typer.Context,
    agent: AgentName,
    limit: Annotated[int, typer.Option(min=1, max=100_000)] = 1_000,
    json: AsJson = False,
) -> int:
    """List what was deleted of an agent's state, when, by whom and why."""

    async def execute(invocation: Invocation) -> int:
        from holdfast.cli.reading import reading
        from holdfast.coordinator.projection import list_history
        from holdfast.schemas import state_entity

        async with reading(invocation) as opened:
            entity = state_entity(agent)
            found = await opened.ask(lambda c: list_history(c, entity, limit=limit))
        told = [{"at_ms": entry.at_ms, **(entry.command or {})} for entry in found]
        if json:
            print_json({"deletions": told})
            return ExitCode.OK
        rows = [
            (
                moment(each["at_ms"]),
                each.get("order_key", ""),
                ", ".join(each.get("deleted", ())) or "-",
                each.get("actor", ""),
                each.get("reason", ""),
            )
            for each in told
        ]
        print_table(("AT", "KEY", "DELETED", "BY", "WHY"), rows, f"Nothing of {agent} was deleted.")
        return ExitCode.OK

    invocation = invocation_of(context)
    return invocation.run(execute(invocation))
