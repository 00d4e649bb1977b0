"""The processes of the torture: what `holdfast agent` and `holdfast coordinator` run, watched.

    python -m tests.torture.service agent MODULE:NAME --instance a-1
    python -m tests.torture.service coordinator --instance c1
    python -m tests.torture.service projection --instance p1

A composition root of its own: the same runtimes, served by the same `holdfast.cli.service`, with
wrappers round the bus, the adapter, the clock and the handlers. The rest is told by variables:

    HOLDFAST_TORTURE_FOLDER   control files, hits and evidence (required)
    HOLDFAST_TORTURE_MEMORY   bound of the address space, in bytes
    HOLDFAST_PLANTED          name of a planted bug to be switched on
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.bus.errors import TopicMissing
from holdfast.cli.failures import report
from holdfast.cli.invocation import Invocation
from holdfast.cli.service import Service, ServiceOptions, serve
from tests.torture.adapters import watch_adapter
from tests.torture.bodies import Watch, watched_agent
from tests.torture.moments import AgentMoments, CoordinatorMoments, Moments
from tests.torture.points import Control, Point
from tests.torture.registries import HurtRegistry
from tests.torture.watched_bus import WatchedBus

if TYPE_CHECKING:
    from holdfast.bus.port import Environment
    from holdfast.coordinator.projection import Projection

__all__ = ["FOLDER", "MEMORY", "PLANTED", "main"]

FOLDER = "HOLDFAST_TORTURE_FOLDER"
MEMORY = "HOLDFAST_TORTURE_MEMORY"
PLANTED = "HOLDFAST_PLANTED"
EVIDENCE = "evidence.jsonl"
PROJECTION = "projection.db"
TOPICS_LOOK_S = 0.1


def main(argv: Sequence[str] | None = None) -> int:
    """Run one service to its end; return its exit code."""
    arguments = _parse(argv)
    folder = Path(os.environ[FOLDER])
    control = Control(folder, arguments.instance)
    _bound_memory()
    planted = contextlib.ExitStack()  # never closed: the process has the bug to its end
    if name := os.environ.get(PLANTED):
        from tests.planted import plant

        planted.enter_context(plant(name))
    invocation = Invocation()
    watch_adapter(invocation.settings.bus, control)
    try:
        if arguments.role == "agent":
            return _agent(invocation, control, folder, arguments.target)
        if arguments.role == "projection":
            return asyncio.run(_projection(invocation, control, folder))
        return _coordinator(invocation, control)
    except Exception as error:
        return report(error, debug=True)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.torture.service")
    roles = parser.add_subparsers(dest="role", required=True)
    for role in ("agent", "coordinator", "projection"):
        found = roles.add_parser(role)
        if role == "agent":
            found.add_argument("target")
        found.add_argument("--instance", required=True)
    return parser.parse_args(argv)


def _bound_memory() -> None:
    if bound := os.environ.get(MEMORY):
        resource.setrlimit(resource.RLIMIT_AS, (int(bound), int(bound)))


def _agent(invocation: Invocation, control: Control, folder: Path, target: str) -> int:
    from holdfast.agents import AgentRuntime, AgentSettings
    from holdfast.cli.modules import find_agent
    from holdfast.testing import EvidenceFile

    settings = invocation.settings
    watch = Watch(control, EvidenceFile(folder / EVIDENCE))
    served = watched_agent(find_agent(target), watch)
    moments = AgentMoments(control, settings.topics, served.name)
    options = ServiceOptions(f"agent {served.name}", control.instance)

    def build(environment: Environment) -> Service:
        watched = watched_environment(environment, moments, control)
        return AgentRuntime(
            watched,
            served,
            AgentSettings(
                instance=options.instance_name(),
                partitions=settings.topic_partitions,
                namespace=settings.namespace,
                blobs=settings.blobs,
            ),
            HurtRegistry(watched, settings.topics, control),
        )

    return serve(invocation, options, build)


def _coordinator(invocation: Invocation, control: Control) -> int:
    from holdfast.coordinator import CoordinatorRuntime, CoordinatorSettings, ProcessSettings

    settings = invocation.settings
    moments = CoordinatorMoments(control, settings.topics)
    options = ServiceOptions("coordinator", control.instance)

    def build(environment: Environment) -> Service:
        watched = watched_environment(environment, moments, control)
        return CoordinatorRuntime(
            watched,
            ProcessSettings(
                instance=options.instance_name(),
                partitions=settings.topic_partitions,
                namespace=settings.namespace,
                blobs=settings.blobs,
                keep_events=settings.keep_events,
                limits=CoordinatorSettings(),
            ),
            HurtRegistry(watched, settings.topics, control),
        )

    return serve(invocation, options, build)


async def _projection(invocation: Invocation, control: Control, folder: Path) -> int:
    """Follow the events into a database, until killed."""
    from sqlalchemy.engine.default import DefaultDialect

    from holdfast.coordinator.projection import Projection

    do_commit: Any = DefaultDialect.do_commit

    def watched(self: DefaultDialect, connection: Any) -> None:
        control.reached(Point.BEFORE_PROJECTION)
        do_commit(self, connection)
        control.reached(Point.AFTER_PROJECTION)

    DefaultDialect.do_commit = watched  # type: ignore[method-assign]
    async with invocation.environment(patient=True) as environment:
        url = f"sqlite:///{folder / PROJECTION}"
        projection = Projection(environment, invocation.settings.topics, url)
        await _started_after_the_topics(projection)
        print("projection is ready", file=sys.stderr, flush=True)
        await projection.follow()
    return 0


async def _started_after_the_topics(projection: Projection) -> None:
    """All services start in one moment here, and only the others make topics."""
    while True:
        with contextlib.suppress(TopicMissing):
            return await projection.start()
        await asyncio.sleep(TOPICS_LOOK_S)


def watched_environment(
    environment: Environment, moments: Moments, control: Control
) -> Environment:
    """Return `environment` with the bus watched, and a wall clock that the harness can move."""

    def now_ms() -> int:
        return time.time_ns() // 1_000_000 + control.clock_offset_ms

    bus = WatchedBus(environment.bus, moments, control)
    return replace(environment, bus=bus, now_ms=now_ms)


if __name__ == "__main__":
    sys.exit(main())
