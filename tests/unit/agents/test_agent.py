"""What a user writes, and what is said of it at import when it cannot work."""

from __future__ import annotations

import functools
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

import holdfast.agents
from holdfast.agents import Agent, Context, DefinitionError, Fatal, Retry, SyncContext
from holdfast.agents.failures import TRACEBACK_CHARS_MAX, failure_of
from holdfast.agents.step_results import digest, is_async, result_codec
from holdfast.schemas import FailureKind, Unencodable


class In(BaseModel):
    n: int


class Out(BaseModel):
    n: int


def test_a_task_knows_its_types_and_stays_callable() -> None:
    agent = Agent("counter")

    @agent.task
    def bare(ctx: SyncContext, value: In) -> Out:
        """Count."""
        return Out(n=value.n + 1)

    @agent.task(name="named", retry=Retry(attempts=5, never=(KeyError,)), timeout_s=2)
    async def other(ctx: Context) -> None:
        return None

    assert bare(None, In(n=1)) == Out(n=2)
    assert (bare.full_name, bare.input_type, bare.output_type) == ("counter.bare", In, Out)
    assert bare.description == "Count."
    assert (other.input_type, other.output_type, other.is_async) == (None, None, True)
    assert other.retry is not None
    assert (other.retry.policy().attempts, other.retry.policy().never) == (5, ["KeyError"])
    assert set(agent.tasks) == {"bare", "named"}


def _no_context() -> Out: ...


def _three(ctx: Context, a: In, b: In) -> Out: ...


def _no_model(ctx: Context, value: int) -> Out: ...


def _not_annotated(ctx: Context, value) -> Out: ...  # type: ignore[no-untyped-def]


def _no_return(ctx: Context, value: In): ...  # type: ignore[no-untyped-def]


def _swapped(value: In, ctx: Context) -> Out: ...


async def _wrong_context(ctx: SyncContext, value: In) -> Out: ...


def _unknown_name(ctx: Context, value: Nowhere) -> Out: ...  # type: ignore[name-defined] # noqa: F821


def _yields(ctx: Context, value: In) -> Out:
    yield  # type: ignore[misc]


def _keyword(ctx: Context, *, value: In) -> Out: ...


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (_no_context, "takes"),
        (_three, "takes"),
        (_keyword, "takes"),
        (_no_model, "found int"),
        (_not_annotated, "found nothing"),
        (_no_return, "what it returns"),
        (_swapped, "first parameter is the context"),
        (_wrong_context, "gets a Context"),
        (_unknown_name, "Nowhere"),
        (_yields, "cannot yield"),
    ],
)
def test_a_bad_handler_is_refused_by_name(handler: Callable[..., Any], words: str) -> None:
    with pytest.raises(DefinitionError, match=words) as caught:
        Agent("counter").task(handler)
    assert handler.__name__ in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"timeout_s": 0},
        {"queue_timeout_s": -1},
        {"timeout_s": "1"},
        {"name": "no spaces"},
        {"retry": 3},
        {"compatibility": "sideways"},
    ],
)
def test_a_bad_option_is_refused(options: dict[str, Any]) -> None:
    async def task(ctx: Context) -> None: ...

    with pytest.raises(DefinitionError):
        Agent("counter").task(**options)(task)


@pytest.mark.parametrize(
    ("name", "concurrency"), [("Bad", 1), ("a.b", 1), ("", 1), ("a", 0), ("a", 10**6), ("a", True)]
)
def test_a_bad_agent_is_refused(name: str, concurrency: int) -> None:
    with pytest.raises(DefinitionError):
        Agent(name, concurrency=concurrency)


def test_two_tasks_of_one_name_and_a_bad_retry_are_refused() -> None:
    agent = Agent("counter")

    async def task(ctx: Context) -> None: ...

    agent.task(task)
    with pytest.raises(DefinitionError, match="two tasks"):
        agent.task(task)
    with pytest.raises(DefinitionError, match="attempts=0"):
        Retry(attempts=0)


def test_the_door_is_explicit() -> None:
    assert sorted(holdfast.agents.__all__) == holdfast.agents.__all__
    assert all(hasattr(holdfast.agents, name) for name in holdfast.agents.__all__)


# --- failures ------------------------------------------------------------------------------------


def test_a_failure_is_bounded_and_begins_in_the_users_code() -> None:
    def deep(n: int) -> None:
        if n:
            deep(n - 1)
        raise ValueError("x" * 100_000)

    with pytest.raises(ValueError) as caught:
        deep(200)
    failure = failure_of(caught.value)
    assert len(failure.traceback) < TRACEBACK_CHARS_MAX + 100
    assert len(failure.message) < 2_100
    assert failure.retryable
    assert failure.kind is FailureKind.ERROR


def test_what_is_not_tried_again() -> None:
    assert not failure_of(Fatal("no")).retryable
    assert not failure_of(KeyError("k"), Retry(never=(LookupError,)).policy()).retryable
    assert failure_of(KeyError("k"), Retry(never=(OSError,)).policy()).retryable

    class Rude(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert "cannot be made" in failure_of(Rude()).message


# --- results of steps ----------------------------------------------------------------------------


def test_results_come_back_as_the_annotation_says() -> None:
    def typed() -> dict[int, tuple[In, bytes, Decimal]]: ...

    value = {1: (In(n=2), b"\xff\x00", Decimal("1.10"))}
    codec = result_codec(typed)
    assert codec.decode("s", codec.encode("s", value)) == value
    plain = result_codec(lambda: 0)
    assert plain.decode("s", plain.encode("s", (1, "a"))) == [1, "a"]
    with pytest.raises(Unencodable, match="'s'"):
        codec.encode("s", "not a dict")


def test_functions_of_one_code_and_different_types_are_kept_apart() -> None:
    def make(kind: type[BaseModel]) -> Callable[..., Any]:
        def made() -> Any: ...

        made.__annotations__["return"] = kind
        return made

    for kind in (In, Out):
        codec = result_codec(make(kind))
        assert type(codec.decode("s", codec.encode("s", kind(n=1)))) is kind


def test_a_digest_depends_on_values_alone() -> None:
    assert digest("s", [{"b", "a", "c"}]) == digest("s", [{"c", "b", "a"}])
    assert digest("s", [In(n=1), b"\xff"]) != digest("s", [In(n=2), b"\xff"])
    with pytest.raises(DefinitionError, match="step 's'"):
        digest("s", [object()])


def test_coroutine_functions_are_found_behind_wrappers() -> None:
    async def plain(a: int) -> int: ...

    class Called:
        async def __call__(self) -> int: ...

        async def method(self) -> int: ...

    assert is_async(functools.partial(plain, 1))
    assert is_async(Called())
    assert is_async(Called().method)
    assert not is_async(len)
    assert not is_async(int)
