"""Wrappers round handlers and the bodies of their steps: crash points, and evidence of each start.

They are put on the tasks of an agent by the entry point; the agents know nothing of them.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
import os
import time
from collections.abc import Callable
from typing import Any, Literal

from holdfast.agents import Agent
from holdfast.testing import BodyEnd, BodyStart, EvidenceFile
from tests.torture.points import Control, Point

__all__ = ["watched_agent"]

Outcome = Literal["returned", "raised", "cancelled"]


@dataclasses.dataclass(frozen=True, slots=True)
class Watch:
    """Where bodies are told of."""

    control: Control
    evidence: EvidenceFile


@dataclasses.dataclass(frozen=True, slots=True)
class _Body:
    """One execution of a body. `step` None: the handler itself."""

    watch: Watch
    context: Any
    step: str | None
    key: str

    def begin(self) -> None:
        self.watch.evidence.add(
            BodyStart(
                self.context.run_id,
                self.context.task_id,
                self.context.attempt,
                self.step,
                self.key,
                self.watch.control.instance,
                _process(self.watch),
                time.time_ns() // 1_000_000,
            )
        )

    def end(self, outcome: Outcome) -> None:
        self.watch.evidence.add(
            BodyEnd(
                self.context.run_id,
                self.context.task_id,
                self.context.attempt,
                self.step,
                self.key,
                self.watch.control.instance,
                _process(self.watch),
                time.time_ns() // 1_000_000,
                outcome,
            )
        )


def watched_agent(agent: Agent, watch: Watch) -> Agent:
    """Return the same agent with handlers that tell `watch` of themselves."""
    made = Agent(agent.name, concurrency=agent.concurrency, version=agent.version)
    for task in agent.tasks.values():
        made.add(dataclasses.replace(task, handler=_handler(task.handler, watch)))
    return made


def _handler(handler: Callable[..., Any], watch: Watch) -> Callable[..., Any]:
    if not inspect.iscoroutinefunction(handler):
        raise TypeError(f"{handler} is not async: the torture's agents are")

    @functools.wraps(handler)
    async def watched(context: Any, *arguments: Any) -> Any:
        body = _Body(watch, context, None, "")
        watch.control.reached(Point.BEFORE_HANDLER)
        body.begin()
        result = await _told(body, handler(_WatchedContext(context, watch), *arguments))
        watch.control.reached(Point.AFTER_HANDLER)
        return result

    return watched


async def _told(body: _Body, work: Any) -> Any:
    try:
        result = await work
    except asyncio.CancelledError:
        body.end("cancelled")
        raise
    except BaseException:
        body.end("raised")
        raise
    body.end("returned")
    return result


class _WatchedContext:
    """A context whose steps and effects tell of their bodies."""

    def __init__(self, context: Any, watch: Watch) -> None:
        self._context = context
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def step(self, name: str, function: Callable[..., Any], *args: Any, key: str = "") -> Any:
        points = (Point.BEFORE_STEP, Point.AFTER_STEP)
        body = _Body(self._watch, self._context, name, key)
        return await self._context.step(name, _step_body(function, body, points), *args, key=key)

    async def effect(
        self,
        name: str,
        function: Callable[..., Any],
        *args: Any,
        key: str = "",
        idempotent: bool = False,
    ) -> Any:
        points = (Point.BEFORE_EFFECT, Point.AFTER_EFFECT)
        body = _Body(self._watch, self._context, name, key)
        watched = _step_body(function, body, points)
        return await self._context.effect(name, watched, *args, key=key, idempotent=idempotent)


def _step_body(
    function: Callable[..., Any], body: _Body, points: tuple[Point, Point]
) -> Callable[..., Any]:
    control = body.watch.control
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def watched(*arguments: Any, **named: Any) -> Any:
            control.reached(points[0])
            body.begin()
            result = await _told(body, function(*arguments, **named))
            control.reached(points[1])
            return result

        return watched

    @functools.wraps(function)
    def watched_sync(*arguments: Any, **named: Any) -> Any:
        control.reached(points[0])
        body.begin()
        try:
            result = function(*arguments, **named)
        except BaseException:
            body.end("raised")
            raise
        body.end("returned")
        control.reached(points[1])
        return result

    return watched_sync


def _process(watch: Watch) -> str:
    return f"{watch.control.instance}:{os.getpid()}"
