"""Circuit breakers at the door of a slot: which tasks are not started, and what attempts tell.

A task is kept back while its agent's breaker, or one that it `uses`, lets nothing through: it
waits where it stands, in memory and in the journal as any task that has no place yet. When a
breaker changes, those kept back are lined up again by their place in the topic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from holdfast.agents.breaker import Breaker
from holdfast.agents.circuits import Circuits, Gate, Passage, blamed
from holdfast.agents.execution import Handler
from holdfast.agents.ledger import Ending, Entry, Phase
from holdfast.agents.runs import Run
from holdfast.schemas.records import Failure, Outcome

__all__ = ["Admission"]


class Admission:
    """The gates of one slot's tasks; `line_up` makes a task startable again."""

    def __init__(
        self,
        circuits: Circuits,
        breaker: Breaker | None,
        handlers: Mapping[str, Handler],
        line_up: Callable[[Entry], None],
    ) -> None:
        self._circuits = circuits
        self._own = None if breaker is None else circuits.of(breaker)
        self._gates = {
            name: _gates(self._own, [circuits.of(used) for used in handler.task.uses])
            for name, handler in handlers.items()
        }
        self._line_up = line_up
        self._held: list[tuple[Entry, int, str]] = []
        self._seen = 0

    def admit(self, entry: Entry) -> list[Passage] | None:
        """Return the passages of a task that is about to start; None: it is kept back."""
        assert entry.envelope is not None
        gates = self._gates.get(entry.envelope.task, ())
        # All are asked before one is entered. A trial that is given back is a change, which lines
        # up what is kept back, which would take it, and give it back: for ever, in no time.
        for gate in gates:
            if not gate.would_enter():
                self._hold(entry, gate)
                return None
        return [passage for gate in gates if (passage := gate.try_enter()) is not None]

    def look_again(self) -> None:
        """Line up what was kept back, if a breaker has changed since."""
        if not self._held or self._seen == self._circuits.changes:
            return
        held = self._held
        self.clear()
        for entry, attempt, _ in held:
            if entry.phase is Phase.WAITING and entry.attempt == attempt:
                self._line_up(entry)

    def clear(self) -> None:
        """Forget what is kept back: its slot is given up, or it is lined up again."""
        for _, _, name in self._held:
            self._circuits.held[name] -= 1
        self._held = []
        self._seen = self._circuits.changes

    def settle(self, run: Run, ending: Ending) -> None:
        """Tell the agent's own breaker how an attempt ended; an outage is none of its attempts."""
        own = next((p for p in run.passages if p.gate is self._own), None)
        failure = ending.failure
        if own is None or ending.outcome is Outcome.CANCELLED:
            return
        run.passages.remove(own)
        if failure is None or not _is_own(own.gate, failure):
            own.gate.succeeded(own)
            return
        text = f"{failure.error_class}: {failure.message}"
        outage = own.gate.failed(own, run.entry.name, text)
        if outage is not None:
            ending.failure = blamed(failure, outage)

    def _hold(self, entry: Entry, gate: Gate) -> None:
        gate.refused()
        if not self._held:
            self._seen = self._circuits.changes
        self._held.append((entry, entry.attempt, gate.name))
        self._circuits.held[gate.name] = self._circuits.held.get(gate.name, 0) + 1


def _gates(own: Gate | None, used: list[Gate]) -> tuple[Gate, ...]:
    gates = used if own is None else [own, *used]
    return tuple(dict.fromkeys(gates))


def _is_own(gate: Gate, failure: Failure) -> bool:
    """Whether a failure counts for the agent's breaker; one that another explains does not."""
    if not failure.retryable or failure.breaker is not None:
        return False
    return gate.circuit.breaker.counts_names(failure.classes)
