"""Items that a handler hands out while it works: batch after batch, each an ask. See docs/adr/0019.

A batch is named by the index of its first item. The digest that is journaled with it covers all
that was handed out before it as well. So the journal need keep the newest batch alone: what an
execution hands out again, before it, is passed over, and the newest shows whether it was the same.
"""

from __future__ import annotations

import hashlib

from holdfast.agents.batches import Batch
from holdfast.agents.errors import CallFailed, DefinitionError
from holdfast.agents.payloads import Payloads
from holdfast.agents.procedures import Procedure
from holdfast.agents.steps import Steps
from holdfast.schemas import encode_json
from holdfast.schemas.records import EMIT_NAME, EmitAsk, StepKind

__all__ = ["Emissions"]


class Emissions:
    """What one execution has handed out."""

    def __init__(self, steps: Steps, payloads: Payloads, run_id: str) -> None:
        self._steps = steps
        self._payloads = payloads
        self._run_id = run_id
        self._first = 0
        self._digest = ""
        self._journaled: set[int] | None = None
        """The batches that the journal holds, by their first item."""
        self._newest = -1
        """The newest of those that earlier executions have handed out."""
        self.under_way = False
        """Whether a batch is on its way."""

    def emit(self, batch: Batch) -> Procedure:
        """Hand out a batch, once; return when the maps over the items have taken them.

        Raises `DefinitionError`, `StepMismatch`, `CallFailed`.
        """
        if self.under_way:
            raise DefinitionError(
                "items are handed out one after the other: await each emit before the next, or"
                " give them to emit_many together"
            )
        first, self._first = self._first, self._first + len(batch.items)
        self._digest = hashlib.sha256(f"{self._digest}/{batch.digest}".encode()).hexdigest()
        self.under_way = True
        try:
            yield from self._emit(first, batch)
        finally:
            self.under_way = False

    def _emit(self, first: int, batch: Batch) -> Procedure:
        journaled = self._read()
        last = self._first - 1
        if first < self._newest and first not in journaled:
            if last >= self._newest:
                raise self._steps.other_batch(str(self._newest), f"items {first} to {last}")
            return  # an earlier execution has handed it out; the newest tells whether it is so
        begun = self._steps.begin_batch(first, (f"items {first} to {last}", self._digest))
        found = begun.found
        if found is None:
            items = yield self._payloads.pack(self._run_id, encode_json(batch.items))
            yield self._steps.ask(begun, EmitAsk(first, len(batch.items), items))
            for stale in sorted(journaled):  # never ahead of what takes their place
                yield self._steps.forget(EMIT_NAME, str(stale))
                journaled.discard(stale)
            journaled.add(first)
        if found is None or found.kind is not StepKind.ANSWER:
            found = yield self._steps.answer(begun)
        if found.failure is not None:
            raise CallFailed(found.failure)

    def _read(self) -> set[int]:
        if self._journaled is None:
            found = {int(entry.key) for entry in self._steps.named(EMIT_NAME)}
            self._journaled, self._newest = found, max(found, default=-1)
        return self._journaled
