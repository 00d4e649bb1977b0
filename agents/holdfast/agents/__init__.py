"""Agents: what a user writes against, and the runtime that serves it.

    from holdfast.agents import Agent, Context, Retry

Holds the agent and its tasks, the context of a handler, the ledger of a slot (pure), the execution
of one handler, places, and the runtime that hosts it all. May use `holdfast.bus` and
`holdfast.schemas`; must never import the coordinator or its client: they speak by records only.
"""

from __future__ import annotations

from holdfast.agents.agent import Agent, AgentTask, Retry
from holdfast.agents.breaker import Breaker
from holdfast.agents.context import Context, SyncContext
from holdfast.agents.errors import (
    CallFailed,
    DefinitionError,
    DuplicateStep,
    EffectNotApplied,
    EffectOutcomeUnknown,
    Fatal,
    Parked,
    PayloadTooLarge,
    PlanRefused,
    RetryLater,
    RunFailed,
    SignalTimeout,
    StateMismatch,
    StateTooLarge,
    StepMismatch,
)
from holdfast.agents.runtime import AgentRuntime, AgentSettings

__all__ = [
    "Agent",
    "AgentRuntime",
    "AgentSettings",
    "AgentTask",
    "Breaker",
    "CallFailed",
    "Context",
    "DefinitionError",
    "DuplicateStep",
    "EffectNotApplied",
    "EffectOutcomeUnknown",
    "Fatal",
    "Parked",
    "PayloadTooLarge",
    "PlanRefused",
    "Retry",
    "RetryLater",
    "RunFailed",
    "SignalTimeout",
    "StateMismatch",
    "StateTooLarge",
    "StepMismatch",
    "SyncContext",
]
