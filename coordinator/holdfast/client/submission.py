"""From a plan and an input to what is submitted: resolved, checked, canonical, hashed.

1. The plan as data, with the order key and the deadline of this submission put over its own.
2. Resolved against the agents' manifests: names, schema ids, retries, time-outs.
3. The input as JSON, checked against what the plan reads of it.
4. The hash: over the plan *as it was written* and the input. What agents say of themselves is left
   out, so that a submission repeated after a deployment is still the same.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from pydantic_core import PydanticSerializationError, to_jsonable_python

from holdfast.client.delay import AT_ONCE, Start
from holdfast.client.directory import Directory
from holdfast.client.payloads import Payloads
from holdfast.schemas import (
    Manifest,
    Payload,
    Plan,
    PlanDocument,
    PlanError,
    ResolvedPlan,
    Submission,
    Task,
    Unencodable,
    agents_of,
    check_run_input,
    encode_json,
    escape_text,
    render_order_key,
    resolve,
    split_task_name,
)

__all__ = ["Prepared", "Resolved", "Submissions", "Work", "document_of"]

Work: TypeAlias = "Plan | PlanDocument | Task[Any, Any] | str"
"""What can be submitted: a plan, a task, or a task's name (`agent.task`)."""

RESOLVED_MAX = 256
"""How many resolved plans are kept."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A submission but for its run id; `record_key` None: the run id."""

    plan_name: str
    resolved: str
    input: bytes
    input_hash: str
    order_key: str | None

    def submission(
        self, run_id: str, payload: Payload, submitted_by: str, start: Start = AT_ONCE
    ) -> Submission:
        """Return it for a run."""
        return Submission(
            plan=self.resolved,
            input=payload,
            input_hash=self.input_hash,
            origin=run_id,
            submitted_by=submitted_by,
            order_key=self.order_key,
            start_ms=start.at_ms,
            start_in_ms=start.in_ms,
        )


@dataclass(frozen=True, slots=True)
class Resolved:
    """A plan as agents say of themselves now; `written`: its JSON as it was given."""

    plan: ResolvedPlan
    json: str
    written: str
    manifests: tuple[Manifest, ...]

    def holds(self, manifests: Mapping[str, Manifest]) -> bool:
        """Whether the agents still say what they said."""
        return all(
            (now := manifests.get(then.agent)) is then
            or (now is not None and now.tasks == then.tasks)
            for then in self.manifests
        )


class Submissions:
    """Prepares submissions; remembers what it has resolved. Used on one event loop."""

    def __init__(self, directory: Directory, payloads: Payloads) -> None:
        self._directory = directory
        self._payloads = payloads
        self._resolved: OrderedDict[str, Resolved] = OrderedDict()

    async def prepare(
        self, work: Work, run_input: Any, order_key: str | None, deadline_s: float | None
    ) -> Prepared:
        """Raises `PlanError` naming the task, the place and the remedy; `UnknownSchema`."""
        document = document_of(work, order_key, deadline_s)
        value = _jsonable(run_input)
        return self._fill(await self.resolve(document), value)

    def fill(self, resolved: Resolved, run_input: Any) -> Prepared:
        """Return the submission of a resolved plan with an input.

        Raises `PlanError` where the input does not fit, naming the task and the field.
        """
        return self._fill(resolved, _jsonable(run_input))

    def _fill(self, resolved: Resolved, value: Any) -> Prepared:
        check_run_input(resolved.plan, value, self._payloads.schema)
        document, canonical = resolved.plan.plan, _canonical(value)
        return Prepared(
            plan_name=document.name,
            resolved=resolved.json,
            input=_encode(value),
            input_hash=hashlib.sha256(f"{resolved.written}\0{canonical}".encode()).hexdigest(),
            order_key=render_order_key(document.order_key, {"input": value}),
        )

    async def resolve(self, document: PlanDocument, written: str | None = None) -> Resolved:
        """Check a plan against the agents, waiting a while for those that are about to come.

        `written`: the plan's JSON, where it is known. Raises `PlanError` naming the task, the place
        and the remedy; `UnknownSchema`.
        """
        written = document.to_json() if written is None else written
        agents = agents_of(document)
        manifests = await self._directory.find(agents)
        known = self._resolved.get(written)
        if known is not None and known.holds(manifests):
            self._resolved.move_to_end(written)
            return known
        try:
            found = await self._resolve_by(document, written, manifests)
        except PlanError:
            # Perhaps an agent was started anew, with more to offer, since its manifest was read.
            if not await self._directory.read_again():
                raise
            found = await self._resolve_by(document, written, self._directory.manifests)
        self._resolved[written] = found
        if len(self._resolved) > RESOLVED_MAX:
            self._resolved.popitem(last=False)
        return found

    async def _resolve_by(
        self, document: PlanDocument, written: str, manifests: Mapping[str, Manifest]
    ) -> Resolved:
        agents = sorted(agents_of(document))
        needed = [manifests[agent] for agent in agents if agent in manifests]
        for manifest in needed:
            for task in manifest.tasks:
                await self._payloads.require(task.input_schema_id)
                await self._payloads.require(task.output_schema_id)
        plan = resolve(document, manifests, self._payloads.schema)
        return Resolved(plan, plan.to_json(), written, tuple(needed))


def document_of(
    work: Work, order_key: str | None = None, deadline_s: float | None = None
) -> PlanDocument:
    """Return what is submitted as data; `order_key`, `deadline_s` stand over the plan's own.

    Raises `PlanError` for what cannot be a plan.
    """
    if isinstance(work, str):
        split_task_name(work)
        work = Plan.of_task(work)
    elif isinstance(work, Task):
        work = Plan.of_task(work)
    document = work.document() if isinstance(work, Plan) else work
    if not isinstance(document, PlanDocument):
        raise PlanError(
            f"a {type(work).__name__} cannot be started: a plan, a task, or a task's name"
            " (agent.task)"
        )
    if order_key is None and deadline_s is None:
        return document
    over: dict[str, Any] = {}
    if order_key is not None:
        if not isinstance(order_key, str):
            raise PlanError(f"order_key={order_key!r} must be text")
        over["order_key"] = escape_text(order_key)
    if deadline_s is not None:
        number = isinstance(deadline_s, int | float) and not isinstance(deadline_s, bool)
        if not number or not 0 < deadline_s < float("inf"):
            raise PlanError(f"deadline_s={deadline_s!r} must be a positive number of seconds")
        over["deadline_s"] = deadline_s
    return document.model_copy(update=over)


def _jsonable(run_input: Any) -> Any:
    if run_input is None:
        return {}
    try:
        return to_jsonable_python(run_input, bytes_mode="base64")
    except (PydanticSerializationError, ValueError) as error:
        raise PlanError(f"the run's input cannot be written as JSON: {error}") from None


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _encode(value: Any) -> bytes:
    try:
        return encode_json(value)
    except Unencodable as error:
        raise PlanError(f"the run's input cannot be written as JSON: {error}") from None
