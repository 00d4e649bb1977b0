"""`dev`, `agent`, `source`, `coordinator`: the commands that run something."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.failures import BadInput
from holdfast.cli.invocation import invocation_of

if TYPE_CHECKING:
    from holdfast.bus.port import Environment
    from holdfast.cli.service import Service
    from holdfast.coordinator import CoordinatorSettings

__all__ = ["register"]

Instance = Annotated[
    str | None,
    typer.Option(help="Stable name: started again under it, it gets its slots back at once."),
]
MetricsPort = Annotated[
    str | None, typer.Option(metavar="[HOST:]PORT", help="Serve /metrics and /livez here.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(dev)
    app.command()(agent)
    app.command()(source)
    app.command()(coordinator)


def dev(
    context: typer.Context,
    modules: Annotated[list[str], typer.Argument(metavar="MODULE…", show_default=False)],
    run: Annotated[
        str | None, typer.Option(metavar="AGENT.TASK", help="Run this task once, then stop.")
    ] = None,
    input: Annotated[  # noqa: A002 - the flag's name
        list[str] | None,
        typer.Option(metavar="NAME=VALUE|JSON|@FILE", help="Input of --run."),
    ] = None,
    fresh: Annotated[bool, typer.Option(help="Begin with an empty embedded bus.")] = False,
    json: Annotated[bool, typer.Option(help="Print the result of --run as JSON.")] = False,
) -> int:
    """Run the coordinator and all agents and sources of some modules on this machine."""
    from holdfast.cli.dev import DevOptions, run_dev
    from holdfast.cli.inputs import parse_input
    from holdfast.cli.service import run_loop

    if run is None and (input or json):
        raise BadInput("--input and --json belong to --run AGENT.TASK")
    if run is not None:
        from holdfast.schemas import split_task_name

        split_task_name(run)
    options = DevOptions(tuple(modules), run, parse_input(input or []), fresh, json)
    return run_loop(run_dev(invocation_of(context), options))


def agent(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="MODULE:NAME", show_default=False)],
    instance: Instance = None,
    metrics_port: MetricsPort = None,
) -> int:
    """Run one agent as a service."""
    from holdfast.agents import AgentRuntime, AgentSettings
    from holdfast.cli.modules import find_agent
    from holdfast.cli.service import ServiceOptions, serve

    invocation = invocation_of(context)
    settings = invocation.settings
    served = find_agent(target)
    options = ServiceOptions(f"agent {served.name}", instance, metrics_port)

    def build(environment: Environment) -> Service:
        return AgentRuntime(
            environment,
            served,
            AgentSettings(
                instance=options.instance_name(),
                partitions=settings.topic_partitions,
                namespace=settings.namespace,
                blobs=settings.blobs,
                build=settings.build,
            ),
        )

    return serve(invocation, options, build)


def source(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="MODULE:NAME", show_default=False)],
    instance: Instance = None,
    metrics_port: MetricsPort = None,
) -> int:
    """Run one source as a service: a run for each record of its topic."""
    from holdfast.cli.modules import find_source
    from holdfast.cli.service import ServiceOptions, serve
    from holdfast.sources import SourceRuntime, SourceSettings

    invocation = invocation_of(context)
    settings = invocation.settings
    served = find_source(target)
    options = ServiceOptions(f"source {served.name}", instance, metrics_port)

    def build(environment: Environment) -> Service:
        return SourceRuntime(
            environment,
            served,
            SourceSettings(
                instance=options.instance_name(),
                partitions=settings.topic_partitions,
                namespace=settings.namespace,
                blobs=settings.blobs,
            ),
        )

    return serve(invocation, options, build)


def coordinator(
    context: typer.Context,
    instance: Instance = None,
    metrics_port: MetricsPort = None,
) -> int:
    """Run a coordinator as a service; any number of them share the work."""
    from holdfast.cli.service import ServiceOptions, serve
    from holdfast.coordinator import CoordinatorRuntime, ProcessSettings

    invocation = invocation_of(context)
    settings = invocation.settings
    options = ServiceOptions("coordinator", instance, metrics_port)
    limits = _limits()

    def build(environment: Environment) -> Service:
        return CoordinatorRuntime(
            environment,
            ProcessSettings(
                instance=options.instance_name(),
                partitions=settings.topic_partitions,
                namespace=settings.namespace,
                blobs=settings.blobs,
                keep_events=settings.keep_events,
                limits=limits,
            ),
        )

    return serve(invocation, options, build)


def _limits() -> CoordinatorSettings:
    from pydantic import ValidationError

    from holdfast.coordinator import CoordinatorSettings

    try:
        return CoordinatorSettings()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = f"HOLDFAST_COORDINATOR_{str(first['loc'][0]).upper()}"
        raise BadInput(f"variable {name}: {first['msg']}") from None
