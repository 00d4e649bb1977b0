"""One word to many runs or tasks: a command each, all under one id, a summary of what became of it.

Nothing is sent twice by itself. Whoever was interrupted repeats the call: the state of each run
decides, so what was done before is refused, and says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from holdfast.client.errors import ClientError, WaitTimeout
from holdfast.schemas import HoldfastError
from holdfast.schemas.command_arguments import CancelArguments

__all__ = [
    "PARALLEL",
    "BulkAction",
    "BulkOutcome",
    "BulkResult",
    "BulkTarget",
    "bulk_arguments",
    "send_all",
]

PARALLEL = 16
"""Commands under way at once: each waits for its answer."""


class BulkAction(StrEnum):
    """What can be asked of many at once."""

    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    RETRY = "retry"  # a task of an open run goes on; a run that has ended badly is forked
    REPLAY = "replay"
    SKIP = "skip"
    DISCARD = "discard"

    @property
    def of_tasks(self) -> bool:
        """Whether it is about tasks, not about whole runs."""
        return self not in (BulkAction.CANCEL, BulkAction.PAUSE, BulkAction.RESUME)


@dataclass(frozen=True, slots=True)
class BulkTarget:
    """A run, or a task of it. `order_key`: what its plan declares; `ended`: the run has."""

    run_id: str
    order_key: str | None = None
    task_id: str | None = None
    ended: bool = False


class BulkOutcome(StrEnum):
    """What became of one command."""

    ACCEPTED = "accepted"
    REFUSED = "refused"  # the state does not allow it, or does not need it
    UNANSWERED = "unanswered"  # kept, but no coordinator has answered


@dataclass(frozen=True, slots=True)
class BulkResult:
    """What became of one target. `message`: what the coordinator says."""

    target: BulkTarget
    outcome: BulkOutcome
    message: str


def bulk_arguments(action: BulkAction, compensate: bool | None) -> str:
    """Return the arguments that each command carries, as JSON.

    `compensate`: of a cancel, whether what has succeeded is undone first (None: as each plan says).
    Raises `ClientError` where it has no meaning.
    """
    if action is BulkAction.CANCEL:
        return CancelArguments(compensate=compensate).to_json()
    if compensate is not None:
        raise ClientError(
            f"compensate={compensate} says what a cancel undoes first, and {action} cancels"
            " nothing: leave it out"
        )
    return "{}"


async def send_all(
    targets: Iterable[BulkTarget],
    send: Callable[[BulkTarget], Awaitable[str]],
    parallel: int = PARALLEL,
) -> AsyncIterator[BulkResult]:
    """Yield what became of each target as it is known; what fails otherwise is raised.

    `send` returns what was said, and raises as `Run`'s commands do.
    """
    if parallel < 1:
        raise ValueError(f"parallel={parallel}: at least one command is under way at once")
    waiting = _once_each(targets)
    under_way: set[asyncio.Task[BulkResult]] = set()
    try:
        while True:
            while len(under_way) < parallel and (target := next(waiting, None)) is not None:
                under_way.add(asyncio.create_task(_send(target, send)))
            if not under_way:
                return
            done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                yield each.result()
    finally:
        for each in under_way:
            each.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


def _once_each(targets: Iterable[BulkTarget]) -> Iterator[BulkTarget]:
    """Of a run that has ended the first task stands for all: it is forked once."""
    seen: set[tuple[str, str | None]] = set()
    for target in targets:
        key = (target.run_id, None if target.ended else target.task_id)
        if key not in seen:
            seen.add(key)
            yield target


async def _send(target: BulkTarget, send: Callable[[BulkTarget], Awaitable[str]]) -> BulkResult:
    try:
        return BulkResult(target, BulkOutcome.ACCEPTED, await send(target))
    except WaitTimeout as error:
        return BulkResult(target, BulkOutcome.UNANSWERED, str(error))
    except HoldfastError as error:
        return BulkResult(target, BulkOutcome.REFUSED, str(error))
