"""The pure engine: entities, their states and transitions, plans being worked, timers.

An input and a view go in, a reaction comes out: new state as an overlay, and records to be
written in the same commit. May use: `schemas`. Must never: read a clock, draw lots, do I/O, use
asyncio.
"""

from __future__ import annotations

from holdfast.coordinator.engine.counting import CALLED, UNDOING, Value
from holdfast.coordinator.engine.effects import (
    Effect,
    Emit,
    Fetch,
    FindSchema,
    Need,
    Park,
    Reaction,
    Report,
    SendControl,
    SendTask,
    Store,
    Tell,
)
from holdfast.coordinator.engine.engine import Engine, Kind, View
from holdfast.coordinator.engine.graph import Drop, Graph, Node, compile_graph
from holdfast.coordinator.engine.graphs import Graphs
from holdfast.coordinator.engine.inputs import (
    Arrival,
    Broken,
    Continuation,
    Eviction,
    Input,
    TimerDue,
)
from holdfast.coordinator.engine.limits import EngineLimits
from holdfast.coordinator.engine.markers import eviction_due_ms
from holdfast.coordinator.engine.run.asks import ask_name
from holdfast.coordinator.engine.run.calls import call_id
from holdfast.coordinator.engine.run.children import tell_parent
from holdfast.coordinator.engine.schedule import SCHEDULE_TRANSITIONS
from holdfast.coordinator.engine.state import (
    CLOSED_KIND,
    Entity,
    Overlay,
    State,
    closed_key,
)
from holdfast.coordinator.engine.states import (
    OPEN_TASK_STATES,
    RUN_ENDS,
    RUN_TRANSITIONS,
    TASK_ENDS,
    TASK_TRANSITIONS,
    IllegalMove,
)
from holdfast.coordinator.engine.values import INLINE_BYTES_MAX, Documents, Values

__all__ = [
    "CALLED",
    "CLOSED_KIND",
    "INLINE_BYTES_MAX",
    "OPEN_TASK_STATES",
    "RUN_ENDS",
    "RUN_TRANSITIONS",
    "SCHEDULE_TRANSITIONS",
    "TASK_ENDS",
    "TASK_TRANSITIONS",
    "UNDOING",
    "Arrival",
    "Broken",
    "Continuation",
    "Documents",
    "Drop",
    "Effect",
    "Emit",
    "Engine",
    "EngineLimits",
    "Entity",
    "Eviction",
    "Fetch",
    "FindSchema",
    "Graph",
    "Graphs",
    "IllegalMove",
    "Input",
    "Kind",
    "Need",
    "Node",
    "Overlay",
    "Park",
    "Reaction",
    "Report",
    "SendControl",
    "SendTask",
    "State",
    "Store",
    "Tell",
    "TimerDue",
    "Value",
    "Values",
    "View",
    "ask_name",
    "call_id",
    "closed_key",
    "compile_graph",
    "eviction_due_ms",
    "tell_parent",
]
