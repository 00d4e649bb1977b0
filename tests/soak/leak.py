"""A planted leak: an agent that keeps each of its inputs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from holdfast.agents import Agent

__all__ = ["leaking"]

PAGE_BYTES = 4_096


def leaking(agent: Agent, each_bytes: int) -> Agent:
    """Return the same agent, which keeps each input for ever, and so many bytes beside it."""
    kept: list[tuple[Any, bytearray]] = []
    made = Agent(agent.name, concurrency=agent.concurrency, version=agent.version)
    for task in agent.tasks.values():
        handler = _keeping(task.handler, kept, each_bytes)
        made.add(dataclasses.replace(task, handler=handler))
    return made


def _keeping(handler: Callable[..., Any], kept: list[Any], each_bytes: int) -> Callable[..., Any]:
    @functools.wraps(handler)
    async def keeping(context: Any, value: Any) -> Any:
        room = bytearray(each_bytes)
        room[::PAGE_BYTES] = b"x" * len(room[::PAGE_BYTES])  # or the kernel does not give it yet
        kept.append((value, room))
        return await handler(context, value)

    return keeping
