"""What an operator has paused in one slot: the whole agent, or some of its order keys.

A pause counts from when its record is read, and is journaled in the commit that passes the record:
who reads the record again, or restores the journal, is paused as well. What runs goes on, and so
does what rests in memory; nothing else is begun, sleepers whose answer has come included.
"""

from __future__ import annotations

from collections.abc import Callable

from holdfast.agents.ledger.drafts import Outbox
from holdfast.agents.ledger.entry import Entry
from holdfast.agents.ledger.order import OrderKeys
from holdfast.schemas import Undecodable, decode
from holdfast.schemas.pauses import parse_paused_key, paused_key
from holdfast.schemas.records import AgentJournal, AgentPause

__all__ = ["Pauses"]


class Pauses:
    """The pauses of one slot. `consider` lines a task up whose order key goes on."""

    def __init__(self, order: OrderKeys, outbox: Outbox, consider: Callable[[Entry], None]) -> None:
        self._order = order
        self._outbox = outbox
        self._consider = consider
        self._held: dict[str | None, AgentPause] = {}
        self.changed: Callable[[bool, int], None] = _nobody_counts
        """Hears whether the whole slot is paused, and how many order keys are."""

    @property
    def whole(self) -> bool:
        """Whether no task is to be begun at all."""
        return None in self._held

    def restore(self, key: str, record: bytes | None) -> None:
        """Take one record of the journal, if it is of a pause.

        Raises `Undecodable` for one that this build cannot read.
        """
        place = parse_paused_key(key)
        if place is None:
            return
        if record is None:
            self._set(place[0], None)
            return
        body = decode(AgentJournal, record).body
        if not isinstance(body, AgentPause):
            raise Undecodable(f"a {type(body).__name__} under the journal key of a pause")
        self._set(place[0], body)

    def pause(self, pause: AgentPause) -> None:
        """Begin nothing more of what `pause` names; the next commit passes its record."""
        self._outbox.put([(paused_key(pause.order_key), pause)])
        self._set(pause.order_key, pause)

    def resume(self, order_key: str | None) -> None:
        """End a pause; one that is not known changes nothing."""
        if order_key not in self._held:
            return
        self._outbox.put([(paused_key(order_key), None)])
        self._set(order_key, None)

    def forget(self) -> None:
        """The slot is given up: it is another's to count."""
        self._held.clear()
        self.changed(False, 0)

    def _set(self, order_key: str | None, pause: AgentPause | None) -> None:
        if pause is not None:
            self._held[order_key] = pause
            if order_key is not None:
                self._order.pause(order_key)
        else:
            self._held.pop(order_key, None)
            first = None if order_key is None else self._order.resume(order_key)
            if first is not None:
                self._consider(first)
        self.changed(self.whole, len(self._held) - self.whole)


def _nobody_counts(whole: bool, order_keys: int) -> None:
    """Nothing is measured."""
