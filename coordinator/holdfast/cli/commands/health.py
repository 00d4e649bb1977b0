"""`doctor`, `version`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from holdfast.cli.failures import ExitCode
from holdfast.cli.invocation import Invocation, invocation_of
from holdfast.cli.printing import duration, print_json, print_lines

__all__ = ["register"]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(doctor)
    app.command()(version)


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. `state`: ok, warning or problem; a problem comes with its remedy."""

    check: str
    state: str
    text: str


def version(json: AsJson = False) -> int:
    """Say which versions these are."""
    found = _versions()
    if json:
        print_json(found)
    else:
        print_lines(
            f"holdfast {found['holdfast']}, Python {found['python']}, SQLite {found['sqlite']}"
        )
    return ExitCode.OK


def _versions() -> dict[str, str]:
    import platform
    import sqlite3
    from importlib.metadata import version as version_of

    return {
        "holdfast": version_of("holdfast"),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "aiokafka": version_of("aiokafka"),
    }


def doctor(context: typer.Context, json: AsJson = False) -> int:
    """Check settings, bus, topics, agents and dead letters; say what is wrong and what to do."""
    invocation = invocation_of(context)

    async def work() -> list[Finding]:
        return [finding async for finding in _findings(invocation)]

    found = invocation.run(work())
    if json:
        print_json({"findings": [asdict(finding) for finding in found]})
    else:
        for finding in found:
            print_lines(f"{finding.state:8}{finding.check}: {finding.text}")
    problems = any(finding.state == "problem" for finding in found)
    return ExitCode.BAD_INPUT if problems else ExitCode.OK


async def _findings(invocation: Invocation) -> AsyncIterator[Finding]:
    from holdfast.schemas import HoldfastError

    versions = _versions()
    yield Finding("versions", "ok", ", ".join(f"{k} {v}" for k, v in versions.items()))
    try:
        settings = invocation.settings
        where = settings.bus.partition("?")[0]
        yield Finding("settings", "ok", f"bus {where}, namespace {settings.namespace}")
        async for finding in _on_the_bus(invocation):
            yield finding
    except HoldfastError as error:
        yield Finding("bus", "problem", str(error))


async def _on_the_bus(invocation: Invocation) -> AsyncIterator[Finding]:
    settings = invocation.settings
    async with invocation.environment() as environment:
        monotonic = environment.monotonic
        began = monotonic()
        specs = settings.topics.coordinator_specs(settings.topic_partitions)
        found = await environment.bus.describe_topics([spec.name for spec in specs])
        took = duration(round((monotonic() - began) * 1_000))
        yield Finding("bus", "ok", f"{environment.bus.url} answered in {took}")
        missing = [spec.name for spec in specs if spec.name not in found]
        if missing:
            text = f"{missing[0]} is missing: start a coordinator or `holdfast topics create`"
            yield Finding("topics", "problem", text)
            return
        counts = {found[spec.name].partitions for spec in specs if spec.partitions > 1}
        if counts != {settings.topic_partitions} and settings.topic_partitions > 1:
            told = "/".join(str(count) for count in sorted(counts))
            text = (
                f"they have {told} partitions, the configuration says {settings.topic_partitions}"
            )
            yield Finding("topics", "problem", f"{text}: set HOLDFAST_PARTITIONS")
        else:
            yield Finding("topics", "ok", f"{len(specs)} of the coordinators")
        lag = await environment.bus.lag(
            settings.topics.group("coordinator"), [settings.topics.coordinator]
        )
        behind = sum(lag.values())
        state = "warning" if behind > 1_000 else "ok"
        yield Finding("coordinator", state, f"{behind} records wait to be read")
    async for finding in _in_the_projection(invocation):
        yield finding


async def _in_the_projection(invocation: Invocation) -> AsyncIterator[Finding]:
    from holdfast.cli.reading import reading
    from holdfast.coordinator.projection import ALIVE_MS, list_agents, list_dead_letters

    async with reading(invocation) as opened:
        agents = await opened.ask(list_agents)
        letters = await opened.ask(lambda c: list_dead_letters(c, only_open=True, limit=1_000))
        now_ms = opened.now_ms
    alive = sorted({agent.agent for agent in agents if now_ms - agent.seen_ms <= ALIVE_MS})
    silent = sorted({agent.agent for agent in agents} - set(alive))
    if silent:
        text = f"no sign of life from {', '.join(silent)}; alive: {', '.join(alive) or 'none'}"
        yield Finding("agents", "warning", text)
    else:
        yield Finding("agents", "ok", ", ".join(alive) or "none has published itself")
    if letters:
        text = f"{len(letters)} wait for a decision: `holdfast dead-letters list --open`"
        yield Finding("dead letters", "warning", text)
    else:
        yield Finding("dead letters", "ok", "none wait for a decision")
