"""What a handler may raise, and what may be raised into it.

HoldfastError
├── DefinitionError           an agent or a task is defined in a way that cannot work
├── Fatal                     raise it: the task fails and is not tried again
│   └── StateTooLarge         more than may be kept under an order key, or in a slot
├── RetryLater                raise it: the attempt fails, the next one comes after a while
├── EffectNotApplied          raise it in an effect, or its `reconcile`: nothing was changed
├── CallFailed                what a handler waited for has failed
│   ├── RunFailed             ... a run that it started
│   ├── PlanRefused           ... a change of its run's plan that cannot be made
│   └── SignalTimeout         no signal came in time
└── Parked                    the task stops here and waits for a person
    ├── DuplicateStep         one (name, key) was used twice in one execution
    ├── StepMismatch          the journal does not fit the code
    ├── StateMismatch         what is kept is not of the type that it is read or set as
    ├── EffectOutcomeUnknown  an effect was open when its process died
    └── PayloadTooLarge       more than a record takes, and no store for large payloads
"""

from __future__ import annotations

from holdfast.schemas.errors import HoldfastError
from holdfast.schemas.records import Failure, FailureKind

__all__ = [
    "CallFailed",
    "DefinitionError",
    "DuplicateStep",
    "EffectNotApplied",
    "EffectOutcomeUnknown",
    "Fatal",
    "Parked",
    "PayloadTooLarge",
    "PlanRefused",
    "RetryLater",
    "RunFailed",
    "SignalTimeout",
    "StateMismatch",
    "StateTooLarge",
    "StepMismatch",
]


class DefinitionError(HoldfastError):
    """An agent or a task is defined in a way that cannot work; raised at import."""


class Fatal(HoldfastError):
    """Raise it in a handler: the task fails at once, whatever attempts are left."""


class RetryLater(HoldfastError):
    """Raise it in a handler: the attempt fails, and the next one is made `after_s` from now.

    It counts as an attempt, like any failure. Any exception that has a number as `retry_after_s` is
    honoured the same way.
    """

    def __init__(self, after_s: float, reason: str = "") -> None:
        if not 0 <= after_s < float("inf"):
            raise DefinitionError(f"RetryLater({after_s!r}): give seconds from 0 on")
        super().__init__(reason or f"to be tried again in {after_s:g} s")
        self.retry_after_s = float(after_s)


class EffectNotApplied(HoldfastError):
    """Raise it in an effect's function or in `reconcile`: it certainly changed nothing.

    From the function: the intent is taken back, and the next attempt calls it again. From
    `reconcile`: the effect is called now.
    """


class CallFailed(HoldfastError):
    """What a handler waited for has failed; `failure` says how, the same in each execution."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class RunFailed(CallFailed):
    """A run that the handler started did not succeed, or could not be started."""


class PlanRefused(CallFailed):
    """The run's plan cannot be changed so: nothing of the change was made; the message says why."""


class SignalTimeout(CallFailed):
    """No signal came within the time that the handler would wait."""


class Parked(HoldfastError):
    """A task that must not go on by itself. Catching it does not help: its attempt is over."""

    kind = FailureKind.ERROR


class DuplicateStep(Parked):
    """One (name, key) was used twice in one execution: give each use a `key=` of its own."""


class StepMismatch(Parked):
    """The journal does not fit what the code asks for; the message holds the difference."""

    kind = FailureKind.MISMATCH


class EffectOutcomeUnknown(Parked):
    """An effect was open when its process died, and nothing says how to find out what it did."""

    kind = FailureKind.OUTCOME_UNKNOWN


class PayloadTooLarge(Parked):
    """A result is larger than a record takes, and there is no store for large payloads."""

    kind = FailureKind.TOO_LARGE


class StateMismatch(Parked):
    """What is kept under an order key is not of the type that it is read, or to be set, as."""

    kind = FailureKind.SCHEMA


class StateTooLarge(Fatal):
    """More than may be kept; a handler that does not catch it fails, and is not tried again."""
