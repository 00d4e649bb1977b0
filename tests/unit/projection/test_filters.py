"""The filter language: what it reads, what it says of what it cannot read, what it selects."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.coordinator.projection import FilterError, Projection, Selected, select_targets
from holdfast.coordinator.projection.filters import (
    DEPTH_MAX,
    FIELDS,
    FILTER_CHARS_MAX,
    And,
    Compare,
    Expression,
    Not,
    Operator,
    Or,
    fields_of,
    parse_filter,
)
from holdfast.schemas import EventType, RunState, TaskState
from holdfast.schemas.records import Failure, FailureKind
from tests.unit.projection.conftest import OpenProjection, World, run_row, task_row

NOW_MS = 10_000_000


def is_(field: str, value: str) -> Compare:
    return Compare(field, Operator.IS, value)


def test_and_binds_more_than_or_and_not_most() -> None:
    found = parse_filter("agent=a or agent=b and not plan=c")
    assert found == Or((is_("agent", "a"), And((is_("agent", "b"), Not(is_("plan", "c"))))))
    found = parse_filter("(agent = a or agent = b) and NOT (plan=c)")
    assert found == And((Or((is_("agent", "a"), is_("agent", "b"))), Not(is_("plan", "c"))))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("run=audit-2026.11:21", "audit-2026.11:21"),
        ('run="and"', "and"),
        (r'order_key="a \"b\" \\ c"', r'a "b" \ c'),
        ("task=~00ab", "00ab"),
        ("error=httpx.TimeoutError", "httpx.TimeoutError"),
    ],
)
def test_values_are_words_or_quoted(text: str, value: str) -> None:
    if text.startswith("task"):
        with pytest.raises(FilterError):
            parse_filter(text)  # `=~` is no operator: quote it
        text = 'task="00ab"'
    found = parse_filter(text)
    assert isinstance(found, Compare)
    assert found.value == value


@pytest.mark.parametrize(
    ("text", "number"),
    [("age > 90s", 90_000), ("age<2h", 7_200_000), ("age > 7d", 604_800_000), ("attempt > 3", 3)],
)
def test_lengths_of_time_and_counts(text: str, number: int) -> None:
    found = parse_filter(text)
    assert isinstance(found, Compare)
    assert found.number == number


@pytest.mark.parametrize(
    ("text", "position", "told"),
    [
        ("", 0, "a field is missing: one of run, plan"),
        ("agent=reviewer and statu=failed", 19, "no field 'statu'; did you mean 'status'?"),
        ("agent", 5, "'agent' is compared by =, !=, ~"),
        ("agent > 3", 6, "'agent' is compared by =, !=, ~"),
        ("age = 3h", 4, "'age' is compared by <, >"),
        ("age > soon", 6, "'soon' is no length of time: 30s, 10m, 2h, 7d"),
        ("age > 3", 6, "'3' is no length of time"),
        ("attempt > x", 10, "'x' is no number of an attempt"),
        ("state=dead", 6, "no state of a run is 'dead'"),
        ("status=fialed", 7, "no state of a task is 'fialed'; did you mean 'failed'?"),
        ("agent=a agent=b", 8, "'and' or 'or' is missing before 'agent'"),
        ("(agent=a", 8, "')' is missing"),
        ("agent=a)", 7, "'and' or 'or' is missing before ')'"),
        ("agent=", 6, "a value for 'agent' is missing"),
        ("agent=a and", 11, "a field is missing"),
        ("not", 3, "a field is missing"),
        ('agent="a', 6, "a quote that is not closed cannot stand here"),
        ("agent=a; drop table runs", 9, "'and' or 'or' is missing before 'drop'"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(text: str, position: int, told: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse_filter(text)
    assert caught.value.position == position
    assert told in caught.value.problem
    assert str(caught.value).endswith(f"\n  {text}\n  {' ' * position}^")


def test_bounds() -> None:
    with pytest.raises(FilterError, match="at most"):
        parse_filter("agent=" + "a" * FILTER_CHARS_MAX)
    parse_filter("(" * DEPTH_MAX + "agent=a" + ")" * DEPTH_MAX)
    with pytest.raises(FilterError, match="in each other"):
        parse_filter("(" * (DEPTH_MAX + 1) + "agent=a" + ")" * (DEPTH_MAX + 1))


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    position, fields = 0, frozenset[str]()
    try:
        fields = fields_of(parse_filter(text))
    except FilterError as error:
        position = error.position
    assert 0 <= position <= len(text)
    assert fields <= FIELDS.keys()


# --- selecting -----------------------------------------------------------------------------------


AGENTS, ERRORS = ("scout", "editor"), ("OSError", "httpx.TimeoutError")
TASK_STATES = (TaskState.DISPATCHED, TaskState.DEAD, TaskState.RETRYING, TaskState.SUCCEEDED)


@pytest.fixture
async def filled(world: World, opened: OpenProjection) -> Projection:
    """Six runs with up to three tasks each."""
    rng = random.Random(4)
    for number in range(6):
        state = (RunState.RUNNING, RunState.PAUSED, RunState.FAILED)[number % 3]
        row = run_row(f"r{number}", 1, state)
        row.plan_name = ("audit", "Audit")[number % 2]
        row.created_ms = NOW_MS - number * 60_000
        row.order_key = f"key-{number}" if number > 2 else None
        await world.event(EventType.RUN_STARTED, row, run_id=row.run_id)
        for name in ("a", "b", "c")[: number % 4]:
            task = task_row(name, 1, rng.choice(TASK_STATES), rng.randint(1, 3))
            task.agent = rng.choice(AGENTS)
            if task.failure is not None:
                error = rng.choice(ERRORS)
                task.failure = Failure(FailureKind.ERROR, error, "no", "", True)
            await world.event(EventType.TASK_DISPATCHED, None, task, run_id=row.run_id)
    projection = opened()
    await projection.start()
    assert await projection.catch_up()
    return projection


async def select(projection: Projection, action: str, where: str) -> list[Selected]:
    return await projection.query(lambda c: select_targets(c, action, where, NOW_MS))


async def names(projection: Projection, action: str, where: str) -> list[str]:
    found = await select(projection, action, where)
    return [each.run_id + (f"/{each.task_id}" if each.task_id else "") for each in found]


async def test_runs_are_selected_the_oldest_first(filled: Projection) -> None:
    assert await names(filled, "cancel", "run~r") == ["r4", "r3", "r1", "r0"]
    assert await names(filled, "resume", "run~r") == ["r4", "r1"]
    assert await names(filled, "cancel", "plan=Audit") == ["r3", "r1"]
    assert await names(filled, "cancel", "plan~A") == ["r3", "r1"], "capitals count"
    assert await names(filled, "cancel", "age > 2m and not order_key=key-4") == ["r3"]
    assert await names(filled, "pause", "state=failed") == []
    assert await names(filled, "cancel", "age < 90s") == ["r1", "r0"]


async def test_a_run_is_selected_once_by_its_tasks(filled: Projection) -> None:
    assert await names(filled, "cancel", "task~a or task~b or task~c") == ["r3", "r1"]
    assert await names(filled, "cancel", 'task=""') == ["r4", "r0"], "runs of which none has begun"


async def test_text_never_becomes_a_query(filled: Projection) -> None:
    for value in ("%", "_0", "' or 1=1 --", "\\"):
        quoted = value.replace("\\", "\\\\")
        assert await names(filled, "cancel", f'run="{quoted}"') == []
        assert await names(filled, "cancel", f'run~"{quoted}"') == []


@pytest.mark.parametrize("seed", range(30))
async def test_a_filter_selects_what_it_says(filled: Projection, seed: int) -> None:
    """The query against the same filter, evaluated in the plainest way."""
    rng = random.Random(seed)
    text = _filter(rng, 3)
    expression = parse_filter(text)
    every = await filled.query(_all_tasks)
    wanted = {
        (row["run_id"], row["task_id"])
        for row in every
        if row["task_id"] is not None
        and row["run_state"] in ("running", "paused")
        and row["status"] in ("dispatched", "dead", "retrying")
        and _holds(expression, row)
    }
    found = {(s.run_id, s.task_id) for s in await select(filled, "skip", text)}
    assert found == wanted, text


def _filter(rng: random.Random, depth: int) -> str:
    if depth == 0 or rng.random() < 0.3:
        conditions = [
            f"agent{rng.choice(['=', '!='])}{rng.choice(AGENTS)}",
            f"status{rng.choice(['=', '!='])}{rng.choice(TASK_STATES)}",
            f"error{rng.choice(['=', '!=', '~'])}{rng.choice(['TimeoutError', 'OS', 'httpx'])}",
            f"attempt{rng.choice(['<', '>', '=', '!='])}{rng.randint(1, 3)}",
            f"age{rng.choice(['<', '>'])}{rng.randint(1, 5)}m",
            f"order_key~key-{rng.choice(['', '3', '5'])}",
            f"plan={rng.choice(['audit', 'Audit'])}",
        ]
        return rng.choice(conditions)
    if rng.random() < 0.25:
        return f"not ({_filter(rng, depth - 1)})"
    word = rng.choice([" and ", " or "])
    return "(" + word.join(_filter(rng, depth - 1) for _ in range(rng.randint(2, 3))) + ")"


def _all_tasks(connection: Any) -> list[dict[str, Any]]:
    from sqlalchemy import select as query

    from holdfast.coordinator.projection import tables

    runs, tasks = tables.runs, tables.tasks
    rows = connection.execute(
        query(
            runs,
            tasks.c.task_id,
            tasks.c.agent,
            tasks.c.attempt,
            tasks.c.failure.label("task_failure"),
            tasks.c.state.label("status"),
        ).select_from(runs.outerjoin(tasks, tasks.c.run_id == runs.c.run_id))
    ).mappings()
    return [{**row, "run_state": row["state"]} for row in rows]


def _holds(expression: Expression, row: dict[str, Any]) -> bool:
    if isinstance(expression, Not):
        return not _holds(expression.inner, row)
    if isinstance(expression, And):
        return all(_holds(part, row) for part in expression.parts)
    if isinstance(expression, Or):
        return any(_holds(part, row) for part in expression.parts)
    return _compares(expression, row)


def _compares(compare: Compare, row: dict[str, Any]) -> bool:
    sign = compare.operator
    if compare.field in ("age", "attempt"):
        is_age = compare.field == "age"
        value = NOW_MS - row["created_ms"] if is_age else row["attempt"] or 0
        return {
            "<": value < compare.number,
            ">": value > compare.number,
            "=": value == compare.number,
            "!=": value != compare.number,
        }[sign]
    columns = {"plan": "plan_name"}
    values = (
        [row[columns.get(compare.field, compare.field)] or ""] if compare.field != "error" else []
    )
    if compare.field == "error":
        import json

        error = json.loads(row["task_failure"])["error_class"] if row["task_failure"] else ""
        values = [error, error.rpartition(".")[2]]
    if sign is Operator.BEGINS:
        return any(value.startswith(compare.value) for value in values)
    return (compare.value in values) is (sign is Operator.IS)
