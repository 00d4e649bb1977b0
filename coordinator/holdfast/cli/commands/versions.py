"""`replay-test`, `journals export`, `run restart-task`: changing code under tasks in flight."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli.commands.finding import find_run, open_run_key
from holdfast.cli.commands.runs import print_receipt
from holdfast.cli.failures import BadInput, ExitCode
from holdfast.cli.invocation import Invocation, invocation_of
from holdfast.cli.printing import note, print_json, print_lines, print_table

if TYPE_CHECKING:
    from holdfast.agents import Agent
    from holdfast.agents.replay import Replayed, TaskJournal
    from holdfast.bus.port import Environment
    from holdfast.bus.topics import Topics

__all__ = ["register"]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RUNS_MAX = 100_000


def register(app: typer.Typer) -> None:
    """Add the commands; `run` is there already."""
    app.command("replay-test")(replay_test)
    group = typer.Typer(help="What agents have journaled of their tasks.", no_args_is_help=True)
    group.command("export")(export)
    app.add_typer(group, name="journals")
    runs = next(each.typer_instance for each in app.registered_groups if each.name == "run")
    assert runs is not None, "it is registered before"
    runs.command("restart-task")(restart_task)


# --- replaying ---------------------------------------------------------------------------------


def replay_test(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="MODULE[:NAME]", show_default=False)],
    runs: Annotated[
        int, typer.Option(min=1, max=RUNS_MAX, help="Of so many runs, the newest.")
    ] = 100,
    agent: Annotated[
        str | None, typer.Option(metavar="AGENT", help="Whose journal, if not its own.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="Exported journals, instead of the bus."),
    ] = None,
    json: AsJson = False,
) -> int:
    """Replay recent journals against code, before it is deployed.

    Runs each task's handler with its steps answered from the journal; no step's function is called,
    nothing is written. Exits with 1 if a journal does not fit.
    """
    from holdfast.cli.modules import agents_in, find_agent

    served = [find_agent(target)] if ":" in target else list(agents_in(target).values())
    if agent is not None and len(served) > 1:
        raise BadInput(f"{target} has several agents: name one, {target}:NAME, beside --agent")
    invocation = invocation_of(context)

    async def execute() -> int:
        found: list[Replayed] = []
        async with _source(invocation, file) as environment:
            place = str(file) if file is not None else invocation.settings.bus
            names = {agent or each.name: each for each in served}
            for name in await _with_journal(invocation, environment, list(names), place):
                found += await _replay(invocation, environment, names[name], name, runs)
        return _report(found, json=json)

    return invocation.run(execute())


async def _with_journal(
    invocation: Invocation, environment: Environment, agents: list[str], place: str
) -> list[str]:
    """Return those of the agents that have a journal there; raises `BadInput` if none has."""
    topics = await environment.bus.describe_topics()
    there = [name for name in agents if invocation.settings.topics.journal(name) in topics]
    if not there:
        raise BadInput(
            f"{place} holds no journal of {', '.join(agents)}: the agent has never run there, or"
            " another one was exported; --agent names whose journal to take"
        )
    for name in agents:
        if name not in there:
            note(f"{place} holds no journal of {name}: nothing of it is replayed")
    return there


@asynccontextmanager
async def _source(invocation: Invocation, file: Path | None) -> AsyncIterator[Environment]:
    """The bus that the journals stand on; of a file, one that is made for it."""
    if file is None:
        async with invocation.environment() as environment:
            yield environment
        return
    from holdfast.bus.connect import open_bus
    from holdfast.bus.port import Environment
    from holdfast.bus.saved import load_records
    from holdfast.bus.settings import parse_bus_url

    with tempfile.TemporaryDirectory(prefix="holdfast-") as folder:
        bus = open_bus(parse_bus_url(f"sqlite:///{folder}/journals.db"))
        await bus.start()
        try:
            await load_records(bus, _lines(file))
            yield Environment(bus)
        finally:
            await bus.close()


def _lines(file: Path) -> Iterable[str]:
    try:
        data = file.read_bytes()
        text = gzip.decompress(data) if file.suffix == ".gz" else data
        return text.decode().splitlines()
    except OSError as error:
        raise BadInput(f"file {str(file)!r}: {error.strerror or error}") from None
    except (UnicodeDecodeError, EOFError) as error:
        raise BadInput(f"file {str(file)!r} holds no exported journals: {error}") from None


async def _replay(
    invocation: Invocation, environment: Environment, agent: Agent, name: str, runs: int
) -> list[Replayed]:
    from holdfast.agents.replay import REPLAY_S, Replayer, read_journals
    from holdfast.bus.blobs import ClaimCheck, open_blob_store
    from holdfast.bus.registry import BusRegistry

    settings = invocation.settings
    registry = BusRegistry(environment, settings.topics)
    await registry.start()
    try:
        blobs = ClaimCheck(open_blob_store(settings.blobs, environment))
        replayer = await Replayer.open(environment, agent, registry, blobs, settings.build)
        journals = await read_journals(environment.bus, settings.topics.journal(name))
        wanted = _newest(journals, runs)
        note(f"{name}: {len(wanted)} tasks; each is given up after {REPLAY_S:g} s")
        return [await replayer.replay(journal) for journal in wanted]
    finally:
        await registry.close()


def _newest(journals: list[TaskJournal], runs: int) -> list[TaskJournal]:
    """Return the tasks of the newest runs."""
    wanted = list(dict.fromkeys(journal.run_id for journal in journals))[:runs]
    return [journal for journal in journals if journal.run_id in set(wanted)]


def _report(found: list[Replayed], *, json: bool) -> int:
    bad = [each for each in found if not each.fit.good]
    if json:
        print_json({"tasks": [_document(each) for each in found], "bad": len(bad)})
        return ExitCode.RUN_FAILED if bad else ExitCode.OK
    rows = [
        (each.task, each.name, each.fit.value, each.standing.value, str(each.steps), each.build)
        for each in found
    ]
    headers = ("TASK", "HANDLER", "FIT", "STANDS", "STEPS", "BEGUN BY")
    print_table(headers, rows, "No journal holds a task: nothing was replayed.")
    for each in bad:
        print_lines("", f"{each.task}: {each.fit.value}", each.told)
    note(f"{len(found)} tasks replayed, {len(bad)} do not fit")
    return ExitCode.RUN_FAILED if bad else ExitCode.OK


def _document(replayed: Replayed) -> dict[str, Any]:
    return {
        "task": replayed.task,
        "handler": replayed.name,
        "fit": replayed.fit.value,
        "good": replayed.fit.good,
        "standing": replayed.standing.value,
        "steps": replayed.steps,
        "build": replayed.build,
        "told": replayed.told,
    }


# --- exporting ---------------------------------------------------------------------------------


def export(
    context: typer.Context,
    agents: Annotated[list[str], typer.Argument(metavar="AGENT…", show_default=False)],
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="Compressed, if *.gz.")],
) -> int:
    """Write the journals of agents to a file, for `replay-test --from` where no bus is.

    It holds what the tasks were given and what their steps returned: keep it as you keep those.
    """
    from holdfast.bus.saved import save_records

    async def execute(invocation: Invocation) -> int:
        names: Topics = invocation.settings.topics
        topics = [names.schemas, *(names.journal(agent) for agent in agents)]
        async with invocation.environment() as environment:
            lines = [line async for line in save_records(environment.bus, topics)]
        data = ("\n".join(lines) + "\n").encode()
        try:
            to.write_bytes(gzip.compress(data, mtime=0) if to.suffix == ".gz" else data)
        except OSError as error:
            raise BadInput(f"file {str(to)!r}: {error.strerror or error}") from None
        print_lines(f"{len(lines) - 1} records of {', '.join(agents)} in {to}")
        return ExitCode.OK

    invocation = invocation_of(context)
    return invocation.run(execute(invocation))


# --- restarting --------------------------------------------------------------------------------


def restart_task(
    context: typer.Context,
    run_id: Annotated[str, typer.Argument(metavar="RUN", show_default=False)],
    task_id: Annotated[str, typer.Argument(metavar="TASK", show_default=False)],
    reason: Annotated[
        str, typer.Option("--reason", help="Why, for the audit trail.", show_default=False)
    ],
    json: AsJson = False,
) -> int:
    """Let a task begin anew, without the steps that it has journaled.

    Its next attempt runs all steps again. Effects are called again too, with the idempotency keys
    that they had: what was applied is not applied twice where the receiver honours them.
    """

    async def execute(invocation: Invocation) -> int:
        order_key = await open_run_key(invocation, run_id)
        effects = await _effects(invocation, run_id, task_id)
        async with invocation.client() as client:
            run = await client.run(run_id, order_key)
            receipt = await run.restart_task(task_id, reason=reason)
        print_receipt(run_id, receipt, json=json)
        if effects:
            note(
                f"{len(effects)} effects had been committed, and are called again, with the same "
                f"idempotency keys: {', '.join(effects[:10])}"
            )
        return ExitCode.OK

    invocation = invocation_of(context)
    return invocation.run(execute(invocation))


async def _effects(invocation: Invocation, run_id: str, task_id: str) -> list[str]:
    """Return the effects that the task has journaled; one that was begun may have been applied."""
    from holdfast.agents.replay import TaskStanding, read_journals
    from holdfast.cli.reading import reading
    from holdfast.coordinator.projection import list_tasks
    from holdfast.schemas.records import StepKind

    async with reading(invocation) as opened:
        await find_run(opened, run_id)
        base = task_id.partition(".")[0] if "." in task_id else None
        tasks = await opened.ask(lambda c: list_tasks(c, run_id, items_of=base))
        agents = [task.agent for task in tasks if task.task_id == task_id and task.agent]
    if not agents:
        return []
    async with invocation.environment() as environment:
        topic = invocation.settings.topics.journal(agents[0])
        journals = await read_journals(environment.bus, topic)
    kinds = {StepKind.EFFECT: "", StepKind.INTENT: " (begun, its outcome is not known)"}
    return [
        f"{step.name}{f' (key {step.key!r})' if step.key else ''}{kinds[step.kind]}"
        for journal in journals
        if journal.task == f"{run_id}/{task_id}" and journal.standing is not TaskStanding.ENDED
        for step in journal.steps.values()
        if step.kind in kinds
    ]
