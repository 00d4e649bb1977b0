"""`Client.agents` without `await`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from holdfast.client.agents import Agents
from holdfast.client.receipts import CommandReceipt
from holdfast.schemas import AgentPause

__all__ = ["SyncAgents"]


class SyncAgents:
    """See `Agents`, whose methods it has."""

    def __init__(self, agents: Agents, call: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._agents = agents
        self._call = call

    def pause(
        self, agent: str, *, order_key: str | None = None, reason: str = ""
    ) -> CommandReceipt:
        """See `Agents.pause`."""
        word = self._agents.pause(agent, order_key=order_key, reason=reason)
        receipt: CommandReceipt = self._call(word)
        return receipt

    def resume(
        self, agent: str, *, order_key: str | None = None, reason: str = ""
    ) -> CommandReceipt:
        """See `Agents.resume`."""
        word = self._agents.resume(agent, order_key=order_key, reason=reason)
        receipt: CommandReceipt = self._call(word)
        return receipt

    def paused(self, agent: str) -> list[AgentPause]:
        """See `Agents.paused`."""
        found: list[AgentPause] = self._call(self._agents.paused(agent))
        return found
