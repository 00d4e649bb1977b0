"""Somebody's words to a run: kept until a task waits for them, each counted once."""

from __future__ import annotations

from collections.abc import Iterator

from holdfast.coordinator.engine.counting import SIGNALS
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.schemas.errors import Undecodable, Unencodable
from holdfast.schemas.records import (
    EventType,
    Payload,
    Signal,
    SignalAsk,
    SignalEntry,
)

__all__ = [
    "keep_signal",
    "knows_signal",
    "misfit",
    "signal_payload",
    "take_signal",
    "unusable",
]

SIGNALS_MAX = 1_000
"""Kept signals of a run, those that were taken included: the oldest of these make room."""
SIGNAL_CHARS_MAX = 16_384
"""Of name, id and actor together: events repeat them."""
_NUMBER_DIGITS = 20


def _kept(t: Transition) -> Iterator[tuple[str, SignalEntry]]:
    """Yield the signals of a run in the order in which they came."""
    for name, _ in sorted(t.overlay.members(SIGNALS, "")):
        entry = t.overlay.get(name)
        if isinstance(entry, SignalEntry):
            yield name, entry


def knows_signal(t: Transition, signal: Signal) -> bool:
    """Tell whether the very same signal came before."""
    if not t.overlay.count(SIGNALS, ""):
        return False
    return any(entry.signal.signal_id == signal.signal_id for _, entry in _kept(t))


def keep_signal(t: Transition, signal: Signal, *, taken: bool) -> bool:
    """Keep a signal, or that it was taken; False if there is no room for it."""
    if t.overlay.count(SIGNALS, "") >= SIGNALS_MAX:
        oldest = next((name for name, entry in _kept(t) if entry.taken), None)
        if oldest is None:
            return False
        t.overlay.put(oldest, None)
    assert t.cause is not None, "signals come from the topic"
    name = f"{SIGNALS}{t.cause.offset:0{_NUMBER_DIGITS}d}"
    t.overlay.put(name, SignalEntry(_without(signal) if taken else signal, t.now_ms, taken))
    return True


def take_signal(t: Transition, what: SignalAsk) -> Signal | None:
    """Take the oldest kept signal that a task waits for; what does not fit is refused."""
    if not t.overlay.count(SIGNALS, what.signal):
        return None
    for name, entry in _kept(t):
        if entry.taken or entry.signal.signal != what.signal:
            continue
        t.overlay.put(name, SignalEntry(_without(entry.signal), entry.received_ms, taken=True))
        try:
            payload = signal_payload(t, what, entry.signal.payload)
        except (Undecodable, Unencodable) as error:
            t.emit_signal(EventType.SIGNAL_REFUSED, entry.signal, misfit(entry.signal, error))
            continue
        signal = entry.signal
        return Signal(signal.signal_id, signal.signal, payload, signal.actor)
    return None


def signal_payload(t: Transition, what: SignalAsk, payload: Payload) -> Payload:
    """Return a signal's payload as its reader wants it.

    Raises `Unencodable` naming the field that does not fit, `Undecodable`; `Blocked` while
    something must be fetched or stored.
    """
    if what.schema_id is None:
        return payload
    values = t.scope.values
    return values.payload(t.run_id, values.encode(what.schema_id, values.document(payload)))


def unusable(signal: Signal) -> str | None:
    """Return why a signal cannot be taken by any run, or None."""
    if not signal.signal or not signal.signal_id:
        return "a signal needs a name and an id"
    if len(signal.signal) + len(signal.signal_id) + len(signal.actor) > SIGNAL_CHARS_MAX:
        return f"name and id of the signal are too long: at most {SIGNAL_CHARS_MAX} characters"
    return None


def misfit(signal: Signal, error: Exception) -> str:
    """Return why a signal is refused that does not fit what a task waits for."""
    return (
        f"signal {signal.signal!r} does not fit what a task waits for: {error};"
        f" `holdfast schemas show signal.{signal.signal}` has what it expects"
    )


def _without(signal: Signal) -> Signal:
    return Signal(signal.signal_id, signal.signal, None, signal.actor)
