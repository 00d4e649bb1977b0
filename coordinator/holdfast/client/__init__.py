"""The client: submit a plan, follow its run, steer it.

Holds `Client` (asynchronous), `Client.sync()` (for scripts) and what they raise. May use: the bus
and the schemas. Must never: import agents or the coordinator, or need a database of theirs.
"""

from holdfast.client.agents import Agents
from holdfast.client.bulk import BulkAction, BulkOutcome, BulkResult, BulkTarget
from holdfast.client.client import Client
from holdfast.client.errors import (
    ClientClosed,
    ClientError,
    CommandRefused,
    EventsLost,
    RunCancelled,
    RunConflict,
    RunFailed,
    RunNotFound,
    RunRefused,
    ScheduleNotFound,
    WaitTimeout,
)
from holdfast.client.receipts import CommandReceipt, SignalOutcome, SignalReceipt
from holdfast.client.run import Run
from holdfast.client.schedules import ScheduleReceipt, Schedules
from holdfast.client.settings import ClientSettings
from holdfast.client.state import KeyState, StateDeleted, StatePlace
from holdfast.client.status import RunStatus
from holdfast.client.sync import SyncClient, SyncRun
from holdfast.client.sync_agents import SyncAgents
from holdfast.client.sync_schedules import SyncSchedules
from holdfast.client.sync_state import SyncKeyState

__all__ = [
    "Agents",
    "BulkAction",
    "BulkOutcome",
    "BulkResult",
    "BulkTarget",
    "Client",
    "ClientClosed",
    "ClientError",
    "ClientSettings",
    "CommandReceipt",
    "CommandRefused",
    "EventsLost",
    "KeyState",
    "Run",
    "RunCancelled",
    "RunConflict",
    "RunFailed",
    "RunNotFound",
    "RunRefused",
    "RunStatus",
    "ScheduleNotFound",
    "ScheduleReceipt",
    "Schedules",
    "SignalOutcome",
    "SignalReceipt",
    "StateDeleted",
    "StatePlace",
    "SyncAgents",
    "SyncClient",
    "SyncKeyState",
    "SyncRun",
    "SyncSchedules",
    "WaitTimeout",
]
