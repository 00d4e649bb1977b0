"""The names of topics, and how each is kept."""

from __future__ import annotations

import pytest

from holdfast.bus.port import Cleanup
from holdfast.bus.topics import COORDINATOR_GROUP, SCHEMAS_GROUP, Topics, check_name
from holdfast.schemas import ConfigurationError

TOPICS = Topics("demo")


def test_names() -> None:
    assert TOPICS.coordinator == "demo.coordinator"
    assert TOPICS.dead_letters == "demo.dead-letters"
    assert TOPICS.tasks("scout") == "demo.tasks.scout"
    assert TOPICS.control("scout") == "demo.control.scout"
    assert TOPICS.journal("scout") == "demo.journal.scout"
    assert TOPICS.group("scout") == "demo.scout"


@pytest.mark.parametrize("name", ["", "a.b", "A", "a_b", "a/b", "a" * 65, "ä", "a\n"])
def test_names_that_cannot_be_used(name: str) -> None:
    for call in (Topics, TOPICS.tasks, TOPICS.group, lambda each: check_name(each, "instance")):
        with pytest.raises(ConfigurationError, match="names are 1 to 64"):
            call(name)


@pytest.mark.parametrize("name", [COORDINATOR_GROUP, SCHEMAS_GROUP, "source-orders"])
def test_agents_do_not_take_our_own_groups(name: str) -> None:
    with pytest.raises(ConfigurationError, match="choose another"):
        TOPICS.agent_specs(name, 4)


def test_the_topics_of_a_source() -> None:
    group = TOPICS.source_group("orders")
    specs = {
        spec.name: (spec.partitions, spec.cleanup) for spec in TOPICS.source_specs("orders", 3)
    }
    assert specs == {
        TOPICS.control(group): (3, Cleanup.CONSUMED),
        TOPICS.journal(group): (3, Cleanup.COMPACT),
    }
    with pytest.raises(ConfigurationError, match="group of a source"):
        TOPICS.source_group("o" * 58)


def test_how_topics_are_kept() -> None:
    specs = {
        spec.name: spec for spec in [*TOPICS.coordinator_specs(4), *TOPICS.agent_specs("a", 3)]
    }
    assert {name: spec.cleanup for name, spec in specs.items()} == {
        "demo.coordinator": Cleanup.CONSUMED,
        "demo.events": Cleanup.RETAIN,
        "demo.journal.coordinator": Cleanup.COMPACT,
        "demo.dead-letters": Cleanup.RETAIN,
        "demo.agents": Cleanup.COMPACT,
        "demo.schemas": Cleanup.COMPACT,
        "demo.tasks.a": Cleanup.CONSUMED,
        "demo.control.a": Cleanup.CONSUMED,
        "demo.journal.a": Cleanup.COMPACT,
    }
    days_90_ms = 90 * 24 * 3_600 * 1_000
    assert specs["demo.events"].retention_ms == days_90_ms
    assert specs["demo.events"].retention_bytes * 4 == 50 * 10**9
    assert specs["demo.dead-letters"].retention_ms == days_90_ms
    assert specs["demo.tasks.a"].retention_ms == -1
    assert specs["demo.schemas"].partitions == 1
    assert specs["demo.events"].partitions == specs["demo.coordinator"].partitions == 4
    kept = {spec.name: spec for spec in TOPICS.coordinator_specs(4, keep_events=True)}[
        "demo.events"
    ]
    assert (kept.retention_ms, kept.retention_bytes) == (-1, -1)
