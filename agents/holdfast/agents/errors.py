"""What a handler may raise, and what may be raised into it.

HoldfastError
├── DefinitionError           an agent or a task is defined in a way that cannot work
├── Fatal                     raise it: the task fails and is not tried again
├── EffectNotApplied          raise it in an effect, or its `reconcile`: nothing was changed
├── CallFailed                what a handler waited for has failed
│   ├── RunFailed             ... a run that it started
│   └── SignalTimeout         no signal came in time
└── Parked                    the task stops here and waits for a person
    ├── DuplicateStep         one (name, key) was used twice in one execution
    ├── StepMismatch          the journal does not fit the code
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
    "RunFailed",
    "SignalTimeout",
    "StepMismatch",
]


class DefinitionError(HoldfastError):
    """An agent or a task is defined in a way that cannot work; raised at import."""


class Fatal(HoldfastError):
    """Raise it in a handler: the task fails at once, whatever attempts are left."""


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
