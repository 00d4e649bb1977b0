"""A task's handler with its codecs, and those of older builds that end what they have begun."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.agents.agent import AgentTask
from holdfast.agents.build import code_of
from holdfast.agents.payloads import TypeCodec
from holdfast.schemas.records import StepEntry

__all__ = ["Handler", "began_by"]


@dataclass(frozen=True, slots=True)
class Handler:
    """A task with the codecs of its types. `kept`: older handlers of it, by build."""

    task: AgentTask[Any, Any]
    input: TypeCodec
    output: TypeCodec
    kept: Mapping[str, Handler] = field(default_factory=dict)

    def for_journal(self, journaled: Callable[[], Collection[StepEntry]]) -> Handler:
        """Return who works a task of which `journaled` returns the steps: itself, or an older one.

        The build that journaled the first step has begun the task: code is chosen once, and a task
        does not change sides because a newer build has journaled a step of it since.
        """
        steps = journaled() if self.kept else ()
        if not steps:
            return self
        build = began_by(steps)
        return self.kept.get(build) or self.kept.get(code_of(build)) or self


def began_by(journaled: Collection[StepEntry]) -> str:
    """Return the build that journaled the first of some steps."""
    first = min(journaled, key=lambda step: (step.started_ms, step.name, step.key))
    return first.build_id
