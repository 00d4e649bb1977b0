"""`agents`, `pause-key`, `resume-key`, `schemas list|show|check`, `topics create|check`."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli.commands import operating
from holdfast.cli.failures import BadInput, ExitCode, NotThere
from holdfast.cli.invocation import Invocation, invocation_of
from holdfast.cli.printing import duration, moment, print_json, print_lines, print_table

if TYPE_CHECKING:
    from holdfast.bus.port import TopicInfo, TopicSpec
    from holdfast.bus.registry import BusRegistry, RegisteredSchema
    from holdfast.cli.settings import Settings
    from holdfast.coordinator.projection import PauseView

__all__ = ["register"]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AgentNames = Annotated[
    list[str] | None, typer.Argument(metavar="AGENT…", help="Agents that need topics too.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="List agents; pause and resume them.", invoke_without_command=True)
    group.callback()(agents)
    group.command("pause")(operating.pause_agent)
    group.command("resume")(operating.resume_agent)
    app.add_typer(group, name="agents")
    app.command("pause-key")(operating.pause_key)
    app.command("resume-key")(operating.resume_key)
    schemas = typer.Typer(help="Avro schemas of inputs and outputs.", no_args_is_help=True)
    schemas.command("list")(list_schemas)
    schemas.command("show")(show_schema)
    schemas.command("check")(check_schema)
    app.add_typer(schemas, name="schemas")
    topics = typer.Typer(help="The topics on the bus.", no_args_is_help=True)
    topics.command("create")(create_topics)
    topics.command("check")(check_topics)
    app.add_typer(topics, name="topics")


def agents(context: typer.Context, json: AsJson = False) -> int:
    """List the agents that have published themselves, instance by instance."""
    if context.invoked_subcommand is not None:
        return ExitCode.OK
    from holdfast.cli.reading import reading
    from holdfast.coordinator.projection import ALIVE_MS, list_agents, list_pauses

    async def execute(invocation: Invocation) -> int:
        async with reading(invocation) as opened:
            found = await opened.ask(list_agents)
            pauses = await opened.ask(list_pauses)
            now_ms = opened.now_ms
        if json:
            from holdfast.cli.documents import agent_document, pause_document

            documents = [agent_document(agent, now_ms, ALIVE_MS) for agent in found]
            print_json({"agents": documents, "pauses": [pause_document(p) for p in pauses]})
            return ExitCode.OK
        rows = [
            (
                agent.agent,
                agent.instance,
                agent.build_id.partition("+holdfast-")[0] or "-",
                str(agent.concurrency),
                ", ".join(task["name"] for task in agent.tasks),
                f"{duration(max(0, now_ms - agent.seen_ms))} ago",
                ", ".join(f"{row['name']} {row['state']}" for row in agent.breakers) or "-",
            )
            for agent in found
        ]
        headers = ("AGENT", "INSTANCE", "BUILD", "PLACES", "TASKS", "SEEN", "BREAKERS")
        print_table(headers, rows, "No agent has published itself.")
        _print_pauses(pauses)
        return ExitCode.OK

    invocation = invocation_of(context)
    return invocation.run(execute(invocation))


def _print_pauses(pauses: list[PauseView]) -> None:
    if not pauses:
        return
    print_lines("")
    rows = [
        (p.agent, p.order_key or "all of it", p.actor, moment(p.since_ms), p.reason) for p in pauses
    ]
    print_table(("PAUSED", "KEY", "BY", "SINCE", "WHY"), rows, "")


# --- schemas -----------------------------------------------------------------------------------


def list_schemas(context: typer.Context, json: AsJson = False) -> int:
    """List all subjects with their newest versions."""

    async def execute(registry: BusRegistry) -> int:
        found = [
            newest
            for subject in await registry.subjects()
            if (newest := await registry.latest(subject)) is not None
        ]
        if json:
            print_json({"schemas": [_schema_document(schema) for schema in found]})
            return ExitCode.OK
        rows = [(each.subject, str(each.version), str(each.schema_id)) for each in found]
        print_table(("SUBJECT", "VERSION", "ID"), rows, "No schemas are registered.")
        return ExitCode.OK

    return _with_registry(context, execute)


def show_schema(
    context: typer.Context,
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", show_default=False)],
    version: Annotated[int | None, typer.Option(help="The newest if not given.")] = None,
    json: AsJson = False,
) -> int:
    """Show one schema."""

    async def execute(registry: BusRegistry) -> int:
        found = await _find_schema(registry, subject, version)
        if json:
            print_json(_schema_document(found))
        else:
            print_lines(json_module.dumps(found.schema, indent=2, ensure_ascii=False))
        return ExitCode.OK

    return _with_registry(context, execute)


def check_schema(
    context: typer.Context,
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", show_default=False)],
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False)],
    mode: Annotated[str, typer.Option(help="backward, forward, full or none.")] = "backward",
) -> int:
    """Check whether a schema (an .avsc file) may follow the newest one of a subject."""
    from holdfast.schemas import Compatibility, check_compatible, did_you_mean

    known = {each.value: each for each in Compatibility}
    if mode not in known:
        raise BadInput(f"--mode {mode!r} is none{did_you_mean(mode, known)}")
    schema = _read_schema(file)

    async def execute(registry: BusRegistry) -> int:
        newest = await _find_schema(registry, subject, None)
        check_compatible(
            newest.schema, schema, known[mode], subject=subject, old_version=newest.version
        )
        print_lines(f"{file} may follow version {newest.version} of {subject} ({mode})")
        return ExitCode.OK

    return _with_registry(context, execute)


def _read_schema(file: Path) -> Any:
    try:
        return json_module.loads(file.read_text("utf-8"))
    except OSError as error:
        raise BadInput(f"schema file {str(file)!r}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise BadInput(f"schema file {str(file)!r} is not UTF-8 text") from None
    except json_module.JSONDecodeError as error:
        raise BadInput(f"{file}:{error.lineno}:{error.colno}: {error.msg}") from None


async def _find_schema(
    registry: BusRegistry, subject: str, version: int | None
) -> RegisteredSchema:
    from holdfast.schemas import did_you_mean

    versions = await registry.versions(subject)
    if not versions:
        raise NotThere(f"no subject {subject!r}{did_you_mean(subject, await registry.subjects())}")
    for found in versions:
        if found.version == (version or versions[-1].version):
            return found
    numbers = ", ".join(str(each.version) for each in versions)
    raise NotThere(f"subject {subject!r} has no version {version}; it has {numbers}")


def _schema_document(schema: RegisteredSchema) -> dict[str, Any]:
    return {
        "subject": schema.subject,
        "version": schema.version,
        "schema_id": schema.schema_id,
        "schema": schema.schema,
    }


def _with_registry(context: typer.Context, execute: Any) -> int:
    from holdfast.bus.registry import BusRegistry

    invocation = invocation_of(context)

    async def work() -> int:
        async with invocation.environment() as environment:
            registry = BusRegistry(environment, invocation.settings.topics)
            try:
                await registry.start()
                return int(await execute(registry))
            finally:
                await registry.close()

    return invocation.run(work())


# --- topics ------------------------------------------------------------------------------------


def create_topics(context: typer.Context, agents: AgentNames = None, json: AsJson = False) -> int:
    """Create the topics of a namespace, and those of the agents that are named; safe to repeat."""

    async def execute(invocation: Invocation) -> int:
        specs = _specs(invocation.settings, agents or [])
        async with invocation.environment(create=True) as environment:
            before = await environment.bus.describe_topics([spec.name for spec in specs])
            await environment.bus.create_topics(specs)
        _print_topics(specs, before, "created", "was there", json=json)
        return ExitCode.OK

    invocation = invocation_of(context)
    return invocation.run(execute(invocation))


def check_topics(context: typer.Context, agents: AgentNames = None, json: AsJson = False) -> int:
    """Check that the topics are there, with the partitions of the configuration."""

    async def execute(invocation: Invocation) -> int:
        specs = _specs(invocation.settings, agents or [])
        async with invocation.environment() as environment:
            found = await environment.bus.describe_topics([spec.name for spec in specs])
        _print_topics(specs, found, "missing", "ok", json=json)
        problems = [problem for spec in specs if (problem := _problem(spec, found)) is not None]
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise BadInput(f"{problems[0]}{more}")
        return ExitCode.OK

    invocation = invocation_of(context)
    return invocation.run(execute(invocation))


def _specs(settings: Settings, agents: list[str]) -> list[TopicSpec]:
    topics, partitions = settings.topics, settings.topic_partitions
    specs = topics.coordinator_specs(partitions, keep_events=settings.keep_events)
    for agent in agents:
        specs += topics.agent_specs(agent, partitions)
    return specs


def _problem(spec: TopicSpec, found: dict[str, TopicInfo]) -> str | None:
    info = found.get(spec.name)
    if info is None:
        return f"topic {spec.name} does not exist: `holdfast topics create` creates it"
    if info.partitions != spec.partitions:
        return (
            f"topic {spec.name} has {info.partitions} partitions, the configuration says "
            f"{spec.partitions}: set HOLDFAST_PARTITIONS={info.partitions}, "
            "or use another namespace"
        )
    if info.cleanup is not spec.cleanup:
        return (
            f"topic {spec.name} is kept as {info.cleanup.value!r}, not {spec.cleanup.value!r}: "
            "use another namespace"
        )
    return None


def _print_topics(
    specs: list[TopicSpec], there: dict[str, TopicInfo], absent: str, present: str, *, json: bool
) -> None:
    rows: list[dict[str, Any]] = []
    for spec in specs:
        info = there.get(spec.name)
        wrong = info is not None and _problem(spec, there) is not None
        state = absent if info is None else ("mismatch" if wrong else present)
        partitions = spec.partitions if info is None else info.partitions
        kept = spec.cleanup if info is None else info.cleanup
        rows.append(
            {"topic": spec.name, "partitions": partitions, "kept": kept.value, "state": state}
        )
    if json:
        print_json({"topics": rows})
        return
    cells = [tuple(str(value) for value in row.values()) for row in rows]
    print_table(("TOPIC", "PARTITIONS", "KEPT", "STATE"), cells, "No topics.")
