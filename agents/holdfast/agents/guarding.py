"""Steps behind a circuit breaker: let through, called, and what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from holdfast.agents.breaker import Breaker
from holdfast.agents.circuits import Outage, Passage, blamed
from holdfast.agents.procedures import Body, Procedure
from holdfast.schemas.records import Failure

__all__ = ["Guard", "GuardJournal"]

OUTAGES_MAX = 100
"""Of so many errors of one execution it is remembered that they are part of an outage."""


class GuardJournal(Protocol):
    """What guarded steps ask of their slot."""

    async def enter(self, breaker: Breaker) -> Passage:
        """Return once a breaker lets a call through, and the execution has a place."""
        ...

    async def settle(self, passage: Passage, error: BaseException | None) -> Outage | None:
        """Say what came of a call; return the outage that its error is part of, if it is."""
        ...

    async def leave(self, passage: Passage) -> None:
        """Say that nothing came of a call: it was not made, or cancelled."""
        ...


class Guard:
    """The guarded calls of one execution; `prove` as in `Steps`."""

    def __init__(
        self, journal: GuardJournal, prove: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        self._journal = journal
        self._prove = prove
        self._outages: list[tuple[BaseException, Outage]] = []

    def enter(self, breaker: Breaker | None) -> Coroutine[Any, Any, Passage | None]:
        """Wait until a breaker lets a call through; without one nothing is waited for."""
        return _no_passage() if breaker is None else self._journal.enter(breaker)

    def call(self, passage: Passage | None, body: Body) -> Procedure:
        """Call a body, once ownership is proven, and tell the breaker what came of it."""
        if passage is None:
            yield self._prove()
            return (yield body)
        try:
            yield self._prove()
            value = yield body
        except asyncio.CancelledError:
            yield self._journal.leave(passage)
            raise
        except Exception as error:
            outage = yield self._journal.settle(passage, error)
            if outage is not None and len(self._outages) < OUTAGES_MAX:
                self._outages.append((error, outage))
            raise
        yield self._journal.settle(passage, None)
        return value

    def blame(self, failure: Failure, error: BaseException) -> Failure:
        """Return the failure of a handler; as part of an outage, where its error is."""
        outage = self._outage_of(error)
        return failure if outage is None else blamed(failure, outage)

    def _outage_of(self, error: BaseException) -> Outage | None:
        """An error that was raised from one that counts is part of the outage as well; a group
        of them is if all of it is."""
        for known, outage in self._outages:
            if known is error:
                return outage
        if isinstance(error, BaseExceptionGroup):
            found = [self._outage_of(each) for each in error.exceptions]
            return found[0] if all(outage is not None for outage in found) else None
        return None if error.__cause__ is None else self._outage_of(error.__cause__)


async def _no_passage() -> None:
    """There is no breaker to be asked."""
