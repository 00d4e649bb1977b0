"""The client: submit a plan, follow its run, steer it.

Holds `Client` (asynchronous), `Client.sync()` (for scripts) and what they raise. May use: the bus
and the schemas. Must never: import agents or the coordinator, or need a database of theirs.
"""

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
    WaitTimeout,
)
from holdfast.client.run import CommandReceipt, Run
from holdfast.client.settings import ClientSettings
from holdfast.client.sync import SyncClient, SyncRun

__all__ = [
    "Client",
    "ClientClosed",
    "ClientError",
    "ClientSettings",
    "CommandReceipt",
    "CommandRefused",
    "EventsLost",
    "Run",
    "RunCancelled",
    "RunConflict",
    "RunFailed",
    "RunNotFound",
    "RunRefused",
    "SyncClient",
    "SyncRun",
    "WaitTimeout",
]
