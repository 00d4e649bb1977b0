"""One record of each kind, with something in every field that can hold something."""

from __future__ import annotations

from typing import Any

from holdfast.schemas import records as r

BLOB = r.BlobReference("run-1/" + "a" * 64, 20_000_000)
FAILURE = r.Failure(
    r.FailureKind.ERROR, "builtins.ValueError", "no – ünicode", "tb", True, ["ValueError"], 9, "crm"
)
STEPS = [
    r.StepSummary("read", "", r.StepKind.STEP, 1_790_000_000_000, 12, 345),
    r.StepSummary("notify", "k", r.StepKind.EFFECT, 1_790_000_000_001, 0, 0),
]
TASK = r.TaskEnvelope(
    run_id="audit-2026-11-21",
    task_id="review.17",
    task="review",
    attempt=2,
    input=b"\x00" * 200,
    reply_key="audit-2026-11-21",
    origin="audit-2026-11-21",
    sent_ms=1_790_000_000_000,
    order_key="customer-9",
    loose_order=True,
    timeout_ms=600_000,
    deadline_ms=1_790_000_600_000,
)
RUN_ROW = r.RunRow(
    run_id="audit-2026-11-21",
    version=3,
    plan_name="audit",
    state=r.RunState.RUNNING,
    input=b"in",
    output=BLOB,
    failure=FAILURE,
    order_key=None,
    origin="audit",
    submitted_by="ada",
    input_hash="0" * 64,
    created_ms=1,
    deadline_ms=2,
    finished_ms=None,
)
TASK_ROW = r.TaskRow(
    task_id="review.17",
    agent="reviewer",
    task="review",
    state=r.TaskState.DEAD,
    attempt=2,
    input=None,
    output=BLOB,
    failure=FAILURE,
    steps=STEPS,
    resumes=1,
    instance="reviewer-1",
    order_key=None,
    dispatched_ms=1,
    started_ms=2,
    finished_ms=3,
    retry_ms=4,
    total=5,
    done=4,
    failed=3,
    version=9,
)


def _sample(kind: type, /, **given: Any) -> Any:
    """Return a record with plain values for what is not given: others add fields at any time."""
    return kind(**{**_plain_values(kind), **given})


def _plain_values(kind: type) -> dict[str, Any]:
    plain = {"str": "x", "int": 7, "bool": True, "float": 0.5, "bytes": b"x"}
    values: dict[str, Any] = {}
    for name, field in kind.__dataclass_fields__.items():  # type: ignore[attr-defined]
        text = str(field.type)
        if text in plain:
            values[name] = plain[text]
        elif text.startswith("list["):
            values[name] = []
        elif text.startswith("dict["):
            values[name] = {}
        elif "None" in text or text == "Payload":
            values[name] = None
    return values


DELETION = r.StateDeletion("d", "customer/9", "budget", "ada", "she asked", 5, ["budget"])


def _journal_bodies() -> list[Any]:
    return [
        _sample(r.StateEntry),
        DELETION,
        _sample(r.Accepted, envelope=TASK),
        _sample(r.Failed),
        _sample(r.StepEntry, kind=r.StepKind.INTENT, result=BLOB),
        _sample(r.Cancelled),
    ]


def _coordinator_bodies() -> list[Any]:
    return [
        r.Submission("{}", BLOB, "hash", "origin", "ada", "key", {"a": b"x", "b": None, "c": BLOB}),
        _sample(r.Submission, source=r.SourceSlot("orders", 3)),
        r.Command("c1", r.CommandAction.REPLAY, "t", "{}", "ada", "why"),
        r.TaskResult(
            "t", 1, r.Outcome.FAILED, BLOB, FAILURE, STEPS, 1, 2, 0, "reviewer-1", "build"
        ),
        r.TaskProgress("t", 1, "half", 0.5),
        DELETION,
        r.TaskProgress("t", 1, "somewhere", None),
    ]


def _state_bodies() -> list[Any]:
    return [
        _sample(r.RunEntry, row=RUN_ROW),
        _sample(r.TaskEntry, row=TASK_ROW, cancel_kind=r.FailureKind.TIMEOUT),
        _sample(r.ListChunk, items=[b"a", None, BLOB]),
        _sample(r.Marker, state=r.RunState.CANCELLED),
    ]


SAMPLES: list[Any] = [
    TASK,
    r.ControlEnvelope("run", "task", 1, r.ControlAction.RELEASE, "why", "run", 1),
    _sample(r.ControlEnvelope, action=r.ControlAction.DELETE_STATE, deletion=DELETION),
    _sample(r.Event, type=r.EventType.STATE_DELETED, deletion=DELETION),
    *(r.CoordinatorEnvelope("run", 1, body) for body in _coordinator_bodies()),
    r.Event("run", r.EventType.TASK_DEAD, 1, r.Cause(3, 4), RUN_ROW, TASK_ROW, "m", "{}", None, 9),
    r.Event("run", r.EventType.RUN_STARTED, 1, None, None, None, ""),
    r.SlotOffset(7, [r.ConsumedOffset("ns.tasks.a", 9)], "i", "p", True, 1),
    *(r.AgentJournal(body, "build") for body in _journal_bodies()),
    *(r.CoordinatorJournal(body) for body in _state_bodies()),
    _sample(
        r.DeadLetter,
        reason=r.DeadLetterReason.POISON,
        failure=FAILURE,
        input=BLOB,
        source=r.SourceRecord("t", 0, 1, None, b"v", [r.RecordHeader("h", b"1")], "0" * 64),
    ),
    r.Manifest(
        "a", "i", "p", "1", "b", [r.TaskManifest("t", 1, 2, r.RetryPolicy(), None, 5, "")], 8, 1, 2
    ),
    r.SchemaEntry("a.t.input", 1, 1_000, '"string"'),
    r.RunEnded("orders-3-17", r.RunState.SUCCEEDED, 9),
    r.RunEnded("orders-3-18", None, 9),
    r.SourceJournal(7),
]


def sample_id(sample: Any) -> str:
    body = getattr(sample, "body", None)
    return type(sample).__name__ + (f"-{type(body).__name__}" if body is not None else "")
