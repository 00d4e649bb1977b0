"""The circuit breakers of one process: who may call now, who waits, and who is told.

Those who wait are let through in the order in which they came: one while the circuit is half open,
all of them once it is closed. Tasks that are not started because of it come after them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from holdfast.agents.breaker import Breaker, Circuit, Pass
from holdfast.agents.errors import DefinitionError
from holdfast.agents.failures import shortened, text_of
from holdfast.agents.metrics import BreakerMetrics
from holdfast.bus.port import Environment
from holdfast.schemas.records import BreakerRow, BreakerState, Failure

__all__ = ["Circuits", "Gate", "Outage", "Passage", "blamed"]

logger = logging.getLogger(__name__)

LOOK_AFTER_MIN_S = 0.001
"""A timer may fire a rounding error too early; without a least delay it would go round in circles
until the clock moves."""
ERROR_CHARS_MAX = 200
"""Of the failure that opened a breaker, where it is shown."""


@dataclass(frozen=True, slots=True)
class Outage:
    """A failure that is not the task's: `breaker` was found out of reach.

    `retry_after_ms`: when the next call may be let through; None: as the task's retries say.
    """

    breaker: str
    retry_after_ms: int | None


def blamed(failure: Failure, outage: Outage) -> Failure:
    """Return a failure as the coordinator is told of it: as part of an outage."""
    if not failure.retryable:
        return failure
    asked = [ms for ms in (failure.retry_after_ms, outage.retry_after_ms) if ms is not None]
    return replace(failure, breaker=outage.breaker, retry_after_ms=max(asked) if asked else None)


@dataclass(frozen=True, slots=True, eq=False)
class Passage:
    """A call, or an attempt, that a gate has let through."""

    gate: Gate
    passed: Pass


class Gate:
    """One circuit of this process. All of it runs on the event loop."""

    def __init__(
        self, breaker: Breaker, environment: Environment, agent: str, changed: Callable[[], None]
    ) -> None:
        self.circuit = Circuit(breaker)
        self._environment = environment
        self._changed = changed
        self._waiting: deque[asyncio.Future[Passage]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._metrics = BreakerMetrics(agent, breaker.name, self.open_s)

    @property
    def name(self) -> str:
        """The breaker's name."""
        return self.circuit.breaker.name

    @property
    def closed(self) -> bool:
        """Whether calls go through."""
        return self.circuit.state is BreakerState.CLOSED

    @property
    def waiting(self) -> int:
        """How many calls wait for it."""
        return sum(not future.done() for future in self._waiting)

    def open_s(self) -> float:
        """Return for how long the circuit has not been closed, in seconds."""
        return self.circuit.open_s(self._now_s())

    def try_enter(self) -> Passage | None:
        """Let a call through, unless it has to wait."""
        passed = self.circuit.admit(self._now_s())
        if passed is None:
            return None
        self._look_again()
        return Passage(self, passed)

    def would_enter(self) -> bool:
        """Tell whether `try_enter` would let a call through now; changes nothing."""
        return self.circuit.would_admit(self._now_s())

    def refused(self) -> None:
        """A call or a task has to wait: count it."""
        self._metrics.refused.inc()

    def queue(self) -> asyncio.Future[Passage]:
        """Return what is done once a call is let through."""
        self.refused()
        future: asyncio.Future[Passage] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._look_again()
        return future

    def succeeded(self, passage: Passage) -> None:
        """What is guarded could be reached."""
        was_closed, open_s = self.closed, self.open_s()
        self.circuit.succeeded(passage.passed, self._now_s())
        if was_closed:
            return
        if self.closed:
            logger.info("breaker %r is closed again, after %.0f s", self.name, open_s)
            self._metrics.state.set(0)
        self._let_in()

    def failed(self, passage: Passage, task: str, error: str) -> Outage | None:
        """A call of `task` failed in a way that counts; return the outage, unless it is none."""
        openings = self.circuit.openings
        outage = self.circuit.failed(
            passage.passed, task, shortened(error, ERROR_CHARS_MAX), self._now_s()
        )
        if self.circuit.openings != openings:
            self._opened()
            self._let_in()
        return Outage(self.name, self._retry_after_ms()) if outage else None

    def settle(self, passage: Passage, task: str, error: BaseException | None) -> Outage | None:
        """Say what came of a call; return the outage that its error is part of, if it is."""
        if error is not None and self.circuit.breaker.counts(error):
            return self.failed(passage, task, f"{type(error).__qualname__}: {text_of(error)}")
        self.succeeded(passage)
        return None

    def left(self, passage: Passage) -> None:
        """Nothing came of a call. May be repeated, and come after its outcome."""
        if self.circuit.on_trial(passage.passed):
            self.circuit.left(passage.passed)
            self._let_in()

    def describe(self) -> str:
        """Return why a call waits, for people."""
        circuit, now_s = self.circuit, self._now_s()
        text = f"waits for {self.name!r}, out of reach for {self.open_s():.0f} s ({circuit.error})"
        if circuit.state is BreakerState.OPEN and circuit.until_s is not None:
            text += f"; the next call is let through in {max(0.0, circuit.until_s - now_s):.0f} s"
        if self.open_s() > circuit.breaker.max_open_s:
            text += f"; this is longer than its max_open_s of {circuit.breaker.max_open_s:g} s"
        return text

    def row(self, held: int) -> BreakerRow | None:
        """Return it as the manifest tells it; None while it is closed."""
        circuit, now_ms = self.circuit, self._environment.now_ms()
        if circuit.state is BreakerState.CLOSED or circuit.until_s is None:
            return None
        until_ms = None
        if circuit.state is BreakerState.OPEN:
            until_ms = now_ms + round((circuit.until_s - self._now_s()) * 1000)
        since_ms = now_ms - round(self.open_s() * 1000)
        held += self.waiting
        return BreakerRow(self.name, circuit.state, since_ms, until_ms, held, circuit.error)

    def close(self) -> None:
        """Wake nobody any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _opened(self) -> None:
        circuit = self.circuit
        self._metrics.openings.inc()
        self._metrics.state.set(2)
        longer = circuit.open_s(self._now_s()) > circuit.breaker.max_open_s
        logger.log(
            logging.ERROR if longer else logging.WARNING,
            "breaker %r is open, for %.0f s so far: %s. Work that needs it is paused; the next "
            "call is let through in %.0f s",
            self.name,
            self.open_s(),
            circuit.error,
            (circuit.until_s or 0.0) - self._now_s(),
        )

    def _let_in(self) -> None:
        """Something has changed: let those in who may come, and say so."""
        while self._waiting:
            if self._waiting[0].done():
                self._waiting.popleft()
                continue
            passed = self.circuit.admit(self._now_s())
            if passed is None:
                break
            self._waiting.popleft().set_result(Passage(self, passed))
        self._look_again()
        self._changed()

    def _look_again(self) -> None:
        """Have those who wait let in when the circuit's time comes."""
        if self.circuit.state is BreakerState.HALF_OPEN:
            self._metrics.state.set(1)
        self.close()
        until_s = self.circuit.until_s
        if until_s is None:
            return
        delay_s = until_s - self._now_s()
        if delay_s > 0 or self._waiting:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(LOOK_AFTER_MIN_S, delay_s), self._let_in)

    def _retry_after_ms(self) -> int | None:
        circuit = self.circuit
        if circuit.state is not BreakerState.OPEN or circuit.until_s is None:
            return None
        return max(0, round((circuit.until_s - self._now_s()) * 1000))

    def _now_s(self) -> float:
        return self._environment.monotonic()


class Circuits:
    """All gates of one process, made when they are first asked for.

    `changed` is called when tasks that were kept back might start.
    """

    def __init__(self, environment: Environment, agent: str, changed: Callable[[], None]) -> None:
        self._environment = environment
        self._agent = agent
        self._changed = changed
        self._gates: dict[str, Gate] = {}
        self.held: dict[str, int] = {}
        """How many tasks are not started because of a breaker, by its name."""
        self._told = True
        self.changes = 0
        """How often something has changed: what was kept back is to be looked at again."""

    def of(self, breaker: Breaker) -> Gate:
        """Return a breaker's gate; raises `DefinitionError` where two have one name."""
        gate = self._gates.get(breaker.name)
        if gate is None:
            gate = Gate(breaker, self._environment, self._agent, self._on_change)
            self._gates[breaker.name] = gate
        elif gate.circuit.breaker != breaker:
            raise DefinitionError(
                f"there are two breakers {breaker.name!r} with different settings; define it once"
            )
        return gate

    def rows(self) -> list[BreakerRow]:
        """Return those that are not closed, as the manifest tells them."""
        found = (gate.row(self.held.get(name, 0)) for name, gate in sorted(self._gates.items()))
        return [row for row in found if row is not None]

    def close(self) -> None:
        """Wake nobody any more."""
        for gate in self._gates.values():
            gate.close()

    def _on_change(self) -> None:
        self.changes += 1
        # Not at once: who says what came of a call may be in the middle of ending its attempt.
        if self._told:
            self._told = False
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self._told = True
        self._changed()
