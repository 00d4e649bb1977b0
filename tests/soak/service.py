"""The processes of the soak: what `holdfast agent` and `holdfast coordinator` run, measured.

    python -m tests.soak.service agent MODULE:NAME --instance a-1
    python -m tests.soak.service coordinator --instance c1

A composition root of its own, as the torture's: evidence of each body, a row of what the process
uses every few seconds, and nothing else. The rest is told by variables:

    HOLDFAST_TORTURE_FOLDER   control files, evidence and samples (required)
    HOLDFAST_SOAK_SAMPLE_S    seconds between two samples (required)
    HOLDFAST_SOAK_LEAK        a planted leak: bytes that each task leaves behind
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.cli.failures import report
from holdfast.cli.invocation import Invocation
from holdfast.cli.service import Build, Service, ServiceOptions, serve
from tests.soak.leak import leaking
from tests.soak.usage import Sampler
from tests.torture.bodies import Watch, watched_agent
from tests.torture.points import Control
from tests.torture.service import EVIDENCE, FOLDER

if TYPE_CHECKING:
    from holdfast.bus.port import Environment

__all__ = ["LEAK", "SAMPLE_S", "USAGE", "main"]

SAMPLE_S = "HOLDFAST_SOAK_SAMPLE_S"
LEAK = "HOLDFAST_SOAK_LEAK"
USAGE = "usage.jsonl"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one service to its end; return its exit code."""
    parser = argparse.ArgumentParser(prog="tests.soak.service")
    roles = parser.add_subparsers(dest="role", required=True)
    for role in ("agent", "coordinator"):
        found = roles.add_parser(role)
        if role == "agent":
            found.add_argument("target")
        found.add_argument("--instance", required=True)
    given = parser.parse_args(argv)
    os.setpriority(os.PRIO_PROCESS, 0, 0)  # the harness may have more
    try:
        if given.role == "agent":
            return _agent(Invocation(), given.instance, given.target)
        return _coordinator(Invocation(), given.instance)
    except Exception as error:
        return report(error, debug=True)


def _agent(invocation: Invocation, instance: str, target: str) -> int:
    from holdfast.agents import AgentRuntime, AgentSettings
    from holdfast.cli.modules import find_agent
    from holdfast.testing import EvidenceFile

    folder, settings = Path(os.environ[FOLDER]), invocation.settings
    agent = find_agent(target)
    if LEAK in os.environ:
        agent = leaking(agent, int(os.environ[LEAK]))
    watch = Watch(Control(folder, instance), EvidenceFile(folder / EVIDENCE))
    served = watched_agent(agent, watch)

    def build(environment: Environment) -> Service:
        return AgentRuntime(
            environment,
            served,
            AgentSettings(
                instance=instance,
                partitions=settings.topic_partitions,
                namespace=settings.namespace,
                blobs=settings.blobs,
            ),
        )

    return _serve(invocation, ServiceOptions(f"agent {served.name}", instance), build)


def _coordinator(invocation: Invocation, instance: str) -> int:
    from holdfast.coordinator import CoordinatorRuntime, CoordinatorSettings, ProcessSettings

    settings = invocation.settings

    def build(environment: Environment) -> Service:
        return CoordinatorRuntime(
            environment,
            ProcessSettings(
                instance=instance,
                partitions=settings.topic_partitions,
                namespace=settings.namespace,
                blobs=settings.blobs,
                keep_events=settings.keep_events,
                limits=CoordinatorSettings(),
            ),
        )

    return _serve(invocation, ServiceOptions("coordinator", instance), build)


def _serve(invocation: Invocation, options: ServiceOptions, build: Build) -> int:
    folder, every_s = Path(os.environ[FOLDER]), float(os.environ[SAMPLE_S])
    samplers = []

    def sampled(environment: Environment) -> Service:
        samplers.append(Sampler(folder / USAGE, options.instance_name(), every_s))
        return build(environment)

    return serve(invocation, options, sampled)


if __name__ == "__main__":
    sys.exit(main())
