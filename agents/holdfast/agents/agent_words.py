"""Control records about an agent as a whole, or one of its order keys, and no task of it."""

from __future__ import annotations

from holdfast.agents.ledger import Ledger
from holdfast.agents.wire import deletion_in, pause_in
from holdfast.bus.port import Received
from holdfast.schemas.records import ControlAction, ControlEnvelope

__all__ = ["take_agent_word"]

_PAUSES = (ControlAction.PAUSE, ControlAction.RESUME)


def take_agent_word(ledger: Ledger, control: ControlEnvelope, received: Received) -> bool:
    """Take a record that is of no task; False: it is of one. Raises `Undecodable`."""
    if control.action is ControlAction.DELETE_STATE:
        deletion = deletion_in(control, received.key)
        ledger.skip(received.topic, received.offset)
        ledger.state.delete(deletion, received.offset)
        return True
    if control.action not in _PAUSES:
        return False
    pause = pause_in(control, received.key)
    ledger.skip(received.topic, received.offset)
    if control.action is ControlAction.PAUSE:
        ledger.pauses.pause(pause)
    else:
        ledger.pauses.resume(pause.order_key)
    return True
