"""What a source may be, and what is told of one that cannot work."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.schemas import ConfigurationError, Plan, PlanError
from holdfast.sources import Source, SourceRuntime, SourceSettings, Topic, source


def plan() -> Plan:
    made = Plan("p")
    made.task("t", "a.t", x=1)
    return made


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"name": "Or.ders"}, "names are 1 to 64"),
        ({"name": "o" * 58}, "more than 57 characters"),
        ({"max_open": 0}, "max_open 0 is outside"),
        ({"max_open": True}, "max_open True is outside"),
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        Source(**{"name": "orders", "topic": "orders.v1", "plan": plan(), **settings})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"name": ""}, "needs a name"),
        ({"format": "xml"}, "format 'xml' cannot be used"),
        ({"start": "now"}, "start 'now' cannot be used"),
    ],
)
def test_topics_that_cannot_be_used(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        Topic(**{"name": "orders.v1", **settings})


def test_a_plan_that_is_wrong_by_itself_is_told_where_it_is_written() -> None:
    with pytest.raises(PlanError, match="names no task"):
        Source("orders", topic="orders.v1", plan="nonsense")
    cyclic = Plan("p")
    cyclic.task("a", "a.t", after=["b"])
    cyclic.task("b", "a.t", after=["a"])
    with pytest.raises(PlanError, match="wait for each other"):
        Source("orders", topic="orders.v1", plan=cyclic)


def test_a_function_takes_the_record() -> None:
    with pytest.raises(ConfigurationError, match="takes one argument"):

        @source("orders.v1")
        def nothing() -> None: ...  # type: ignore[arg-type]

    @source("orders.v1", name="other")
    def ours(record: object, limit: int = 3) -> None: ...

    assert ours.name == "other"
    assert ours.topic == Topic("orders.v1")


def test_a_type_that_cannot_be_read_is_told_before_anything_starts() -> None:
    made = Source("orders", topic=Topic("orders.v1", object()), plan=plan())
    with pytest.raises(ConfigurationError, match="cannot be validated"):
        SourceRuntime(None, made, SourceSettings("i", 4))  # type: ignore[arg-type]
