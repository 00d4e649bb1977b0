"""Meeting the needs of inputs that wait: blobs fetched and stored, schemas waited for.

A store or a registry that is out of reach is no fault of the run: it is asked again until it
answers, and the inputs of that lane wait. Only what is certain (no store is configured, the bytes
are not what they are named by) ends the waiting with a reason.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial

from holdfast.bus.port import Environment
from holdfast.coordinator.batch import Pending
from holdfast.coordinator.engine import Fetch, FindSchema, Need, Store, Values
from holdfast.coordinator.ports import Blobs, Schemas
from holdfast.schemas.errors import ConfigurationError, Undecodable

__all__ = ["Needs"]

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1
LAST_PAUSE_S = 5.0


class Needs:
    """Runs one task for each input that waits; `ready` hears when one can be tried again.

    `ready(pending, reason)`: with a reason its needs can never be met.
    """

    def __init__(
        self,
        environment: Environment,
        values: Values,
        blobs: Blobs,
        schemas: Schemas,
        schema_wait_s: float,
        ready: Callable[[Pending, str | None], None],
    ) -> None:
        self._environment = environment
        self._values = values
        self._blobs = blobs
        self._schemas = schemas
        self._schema_wait_s = schema_wait_s
        self._ready = ready
        self._tasks: dict[asyncio.Task[None], None] = {}

    def meet(self, pending: Pending, needs: Sequence[Need]) -> None:
        """Start to meet the needs of an input."""
        self._start(self._meet_all(pending, needs))

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)

    def recheck(self, pending: Pending, check: Callable[[], Awaitable[None]]) -> None:
        """Let `check` look again at a submission that seemed impossible, then let it enter."""

        async def look() -> None:
            await self._insist(pending, "the agents' manifests", check)
            self._ready(pending, None)

        self._start(look())

    def forget(self, pending: Pending) -> None:
        """An input has passed: what was loaded for it is not needed any more."""
        for name in pending.loaded:
            self._values.loaded.pop(name, None)
            self._values.stored.discard(name)
        pending.loaded.clear()

    def cancel(self) -> None:
        """Stop all of it."""
        for task in self._tasks:
            task.cancel()

    async def _meet_all(self, pending: Pending, needs: Sequence[Need]) -> None:
        reason: str | None = None
        for need in needs:
            reason = await self._insist(pending, need, partial(self._meet, pending, need))
            if reason is not None:
                break
        self._ready(pending, reason)

    async def _insist(
        self, pending: Pending, need: Need | str, meet: Callable[[], Awaitable[None]]
    ) -> str | None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                await meet()
            except ConfigurationError as error:
                return str(error)
            except Exception as error:  # noqa: BLE001 - whatever it is, the input must not be lost
                logger.warning("%s waits for %s: %s", pending.lane, need, error)
                await asyncio.sleep(pause_s * (0.5 + self._environment.random.random()))
                pause_s = min(pause_s * 2, LAST_PAUSE_S)
            else:
                return None

    async def _meet(self, pending: Pending, need: Need) -> None:
        if isinstance(need, FindSchema):
            if await self._schemas.find(need.schema_id, self._schema_wait_s):
                self._values.unknown.discard(need.schema_id)
            else:
                logger.warning("schema id %d is not in the registry", need.schema_id)
                self._values.unknown.add(need.schema_id)
            return
        pending.loaded.add(need.reference.name)
        if isinstance(need, Fetch):
            self._values.loaded[need.reference.name] = await self._fetch(need)
        elif isinstance(need, Store):
            await self._blobs.put(need.reference, need.data)
            self._values.stored.add(need.reference.name)

    async def _fetch(self, need: Fetch) -> bytes | None:
        try:
            return await self._blobs.get(need.reference)
        except Undecodable as error:
            # To ask again would give the same bytes: the run is told that it is not there.
            logger.error("%s", error)  # noqa: TRY400 - the message says it all
            return None
