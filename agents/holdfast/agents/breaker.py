"""Circuit breakers: when what a handler needs is out of reach, work pauses.

               `failures` within `window_s`
    CLOSED --------------------------------> OPEN <---------------+
      ^                                       | its time is over, |
      |                                       v somebody calls    | the trial fails
      +--------- the trial succeeds ------ HALF_OPEN -------------+

Each opening after the first doubles the time up to the next trial: `open_s`, at most `max_open_s`.

A breaker is a measurement of now, so it is not durable: each process makes its own, in memory. One
that starts again finds out anew what the others know; that costs a few calls and no attempts.

`Breaker` is what users define, `Circuit` its state in one process: pure, the time is passed in.
"""

from __future__ import annotations

import re
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from holdfast.agents.errors import DefinitionError
from holdfast.schemas.records import BreakerState
from holdfast.schemas.retrying import error_name, error_names, named_by

__all__ = ["TRANSITIONS", "Breaker", "Circuit", "IllegalMove", "Pass"]

FAILURES_MAX = 1_000
SECONDS_MAX = 86_400.0
BLAMED_MAX = 1_000
"""Of so many tasks it is known when they failed last."""
CAUSES_MAX = 8
"""So far an exception's causes are followed."""
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")

_S = BreakerState
TRANSITIONS: dict[BreakerState, frozenset[BreakerState]] = {
    _S.CLOSED: frozenset({_S.OPEN}),
    _S.OPEN: frozenset({_S.HALF_OPEN}),
    _S.HALF_OPEN: frozenset({_S.OPEN, _S.CLOSED}),
}


class IllegalMove(AssertionError):
    """A change of state that the table does not hold: a fault of ours, never of a user."""


@dataclass(frozen=True)
class Breaker:
    """Watches something that handlers need: `failures` within `window_s` open it.

        crm = Breaker("crm", failures=5, window_s=60, open_s=30, on=(ConnectionError, TimeoutError))

    While it is open no guarded call is made; after `open_s` seconds one is let through, and what
    comes of it decides. Each failed trial doubles that time, up to `max_open_s`. `on`: the errors
    that count, as classes or names, bases too; any other outcome shows that it can be reached.
    Raises `DefinitionError`.
    """

    name: str
    failures: int = field(default=5, kw_only=True)
    window_s: float = field(default=60.0, kw_only=True)
    open_s: float = field(default=30.0, kw_only=True)
    max_open_s: float = field(default=600.0, kw_only=True)
    on: tuple[type[BaseException] | str, ...] = field(
        default=(ConnectionError, TimeoutError), kw_only=True
    )

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or _NAME.fullmatch(self.name) is None:
            raise DefinitionError(
                f"breaker name {self.name!r} cannot be used: 1 to 64 letters, digits, '.', '_', '-'"
            )
        where = f"breaker {self.name!r}"
        if isinstance(self.failures, bool) or not isinstance(self.failures, int):
            raise DefinitionError(f"{where}: failures={self.failures!r} must be a number")
        if not 1 <= self.failures <= FAILURES_MAX:
            raise DefinitionError(
                f"{where}: failures={self.failures} is outside 1 to {FAILURES_MAX}"
            )
        for option in ("window_s", "open_s", "max_open_s"):
            _check_seconds(where, option, getattr(self, option))
        if self.open_s > self.max_open_s:
            raise DefinitionError(
                f"{where}: open_s={self.open_s:g} is longer than max_open_s={self.max_open_s:g}"
            )
        if not self.on or isinstance(self.on, str):
            raise DefinitionError(f"{where}: on= must name the errors that count, as a tuple")
        for error in self.on:
            if not isinstance(error, str) and not _is_error(error):
                raise DefinitionError(f"{where}: on= holds {error!r}, which is no class of errors")

    @cached_property
    def errors(self) -> frozenset[str]:
        """The names of the errors that count."""
        return frozenset(e if isinstance(e, str) else error_name(e) for e in self.on)

    def counts_names(self, classes: Iterable[str]) -> bool:
        """Tell whether a failure of these classes (with its bases) counts."""
        return any(named_by(name, self.errors) is not None for name in classes)

    def counts(self, error: BaseException) -> bool:
        """Tell whether an exception counts, or one that it was raised from."""
        return any(self.counts_names(error_names(type(each))) for each in _causes(error))


def _check_seconds(where: str, option: str, value: object) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= SECONDS_MAX:  # type: ignore[operator]
        raise DefinitionError(
            f"{where}: {option}={value!r} must be seconds above 0, at most {SECONDS_MAX:g}"
        )


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def _causes(error: BaseException) -> Iterator[BaseException]:
    each: BaseException | None = error
    for _ in range(CAUSES_MAX):
        if each is None:
            return
        yield each
        each = each.__cause__


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """A call that was let through; `generation`: how often the circuit had changed by then."""

    generation: int
    trial: bool


class Circuit:
    """A breaker's state in one process. `at_s` is a monotonic clock's seconds."""

    def __init__(self, breaker: Breaker) -> None:
        self.breaker = breaker
        self.state = BreakerState.CLOSED
        self.openings = 0
        """How often it has opened since it was closed."""
        self.since_s: float | None = None
        """Since when it has not been closed."""
        self.until_s: float | None = None
        """When it lets the next one through without a word from anybody; None: it is closed."""
        self.error = ""
        """The failure that opened it last."""
        self._generation = 0
        self._trial: Pass | None = None
        self._failed_s: deque[float] = deque(maxlen=breaker.failures)
        self._succeeded_s = float("-inf")
        self._blamed: OrderedDict[str, float] = OrderedDict()

    def admit(self, at_s: float) -> Pass | None:
        """Let a call through, or not.

        A trial that says nothing for `open_s` is given up for lost: its handler rests perhaps, and
        all others would wait for it.
        """
        if self.state is BreakerState.CLOSED:
            return Pass(self._generation, trial=False)
        if not self.would_admit(at_s):
            return None
        if self.state is BreakerState.OPEN:
            self._move(BreakerState.HALF_OPEN)
        self._trial = Pass(self._generation, trial=True)
        self.until_s = at_s + self.breaker.open_s
        return self._trial

    def would_admit(self, at_s: float) -> bool:
        """Tell whether `admit` would let a call through; changes nothing."""
        if self.state is BreakerState.CLOSED:
            return True
        if self._trial is None and self.state is BreakerState.HALF_OPEN:
            return True
        assert self.until_s is not None, "it is not closed"
        return at_s >= self.until_s

    def on_trial(self, passed: Pass) -> bool:
        """Tell whether the circuit waits for what comes of this call."""
        return self._trial is passed

    def succeeded(self, passed: Pass, at_s: float) -> None:
        """It could be reached."""
        if passed.generation != self._generation:
            return  # it was begun before the circuit opened: that is old news
        self._succeeded_s = at_s
        if self.state is BreakerState.HALF_OPEN:
            self._move(BreakerState.CLOSED)
            self.openings, self.since_s, self.until_s, self.error = 0, None, None, ""
            self._failed_s.clear()
            self._blamed.clear()  # whoever failed in an outage is to blame for nothing

    def failed(self, passed: Pass, task: str, error: str, at_s: float) -> bool:
        """A call of `task` failed; tell whether that is an outage, and so none of its attempts.

        It is, unless the circuit is closed and others were answered since the same task failed
        last: then it is about the task, which must not be tried for ever, nor stop all others.
        A first failure never is: outages begin before the circuit opens, and a task may have one
        attempt only.
        """
        before_s = self._blamed.pop(task, None)
        self._blamed[task] = at_s
        if len(self._blamed) > BLAMED_MAX:
            self._blamed.popitem(last=False)
        if passed.generation != self._generation:
            return True
        if self.state is BreakerState.HALF_OPEN:
            self._open(error, at_s)
            return True
        if before_s is not None and self._succeeded_s > before_s:
            return False
        self._failed_s.append(at_s)
        full = len(self._failed_s) == self.breaker.failures
        if full and at_s - self._failed_s[0] <= self.breaker.window_s:
            self._open(error, at_s)
        return True

    def left(self, passed: Pass) -> None:
        """Nothing came of the call: it was not made, or cancelled. Another may try."""
        if self._trial is passed:
            self._trial = None

    def open_s(self, at_s: float) -> float:
        """Return for how long it has not been closed, in seconds."""
        return 0.0 if self.since_s is None else max(0.0, at_s - self.since_s)

    def _open(self, error: str, at_s: float) -> None:
        self._move(BreakerState.OPEN)
        self.openings += 1
        # The exponent is bounded before the power is taken: a long outage overflows a float.
        open_s = self.breaker.open_s * 2.0 ** min(self.openings - 1, 64)
        self.until_s = at_s + min(open_s, self.breaker.max_open_s)
        self.since_s = at_s if self.since_s is None else self.since_s
        self.error = error

    def _move(self, state: BreakerState) -> None:
        if state not in TRANSITIONS[self.state]:
            raise IllegalMove(f"breaker {self.breaker.name!r}: {self.state} -> {state}")
        self.state = state
        self._generation += 1
        self._trial = None
