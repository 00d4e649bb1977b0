"""The registry on the bus: ids are given once, whoever asks and whatever happens on the way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from holdfast.bus.errors import BusUnavailable
from holdfast.bus.port import Environment, Record
from holdfast.bus.registry import BusRegistry, input_subject, output_subject
from holdfast.bus.topics import Topics
from holdfast.schemas import IncompatibleSchema, SchemaError, UnknownSchema, encode, own_schema
from holdfast.schemas.compatibility import Compatibility
from holdfast.schemas.records import SchemaEntry
from holdfast.testing.sim import Fate
from tests.doubles.sim_place import LOST_ANSWERS, SimPlace

TOPICS = Topics("test")


def schema(*fields: str, name: str = "R") -> dict[str, Any]:
    return {
        "type": "record",
        "name": name,
        "fields": [{"name": field, "type": "string", "default": ""} for field in fields],
    }


class Registries:
    """Registries on one broker, each with a connection of its own."""

    def __init__(self) -> None:
        self.place = SimPlace()
        self._opened: list[BusRegistry] = []

    async def open(self, seed: int = 0) -> BusRegistry:
        bus = self.place.bus()
        if TOPICS.schemas not in self.place.broker.topics:
            await bus.create_topics(TOPICS.shared_specs())
        registry = BusRegistry(Environment(bus=bus, random=random.Random(seed)), TOPICS)
        await registry.start()
        self._opened.append(registry)
        return registry

    async def close(self) -> None:
        for registry in self._opened:
            await registry.close()


@pytest.fixture
async def registries() -> AsyncIterator[Registries]:
    found = Registries()
    yield found
    await found.close()


async def test_ids_begin_at_a_thousand_and_stay(registries: Registries) -> None:
    registry = await registries.open()
    assert await registry.register("a", schema("x")) == 1_000
    assert await registry.register("b", schema("y")) == 1_001
    assert await registry.register("a", schema("x")) == 1_000
    assert await registry.register("c", schema("x")) == 1_000, "one schema, one id"
    assert registry.known(1_001) == schema("y")
    assert await registry.subjects() == ["a", "b", "c"]
    assert len(registries.place.commits) == 3


async def test_versions(registries: Registries) -> None:
    registry = await registries.open()
    assert await registry.latest("a") is None
    await registry.register("a", schema("x"))
    await registry.register("a", schema("x", "y"))
    assert [each.version for each in await registry.versions("a")] == [1, 2]
    newest = await registry.latest("a")
    assert newest is not None
    assert (newest.version, newest.schema_id, newest.schema) == (2, 1_001, schema("x", "y"))
    assert await registry.register("a", schema("x")) == 1_000, "a step back is no new version"
    assert len(await registry.versions("a")) == 2


async def test_a_restarted_registry_knows_it_all(registries: Registries) -> None:
    first = await registries.open()
    await first.register("a", schema("x"))
    second = await registries.open()
    assert second.known(1_000) == schema("x")
    assert await second.register("b", schema("y")) == 1_001


async def test_others_see_what_one_registers(registries: Registries) -> None:
    one, other = await registries.open(), await registries.open()
    asked = asyncio.create_task(other.find(1_000, timeout_s=5))
    await one.register("a", schema("x"))
    assert await asked
    assert other.known(1_000) == schema("x")
    assert await other.schema(1_000) == schema("x")


async def test_many_at_once_agree(registries: Registries) -> None:
    """Eight that start together: each opens the writer, and so fences the others."""
    many = [await registries.open(seed) for seed in range(8)]
    ids = await asyncio.gather(
        *(registry.register(f"s{n % 3}", schema(f"f{n % 3}")) for n, registry in enumerate(many))
    )
    assert sorted(set(ids)) == [1_000, 1_001, 1_002]
    by_subject = {n % 3: found for n, found in enumerate(ids)}
    assert all(found == by_subject[n % 3] for n, found in enumerate(ids))
    assert len(registries.place.commits) == 3


async def test_what_others_registered_is_read_before_an_id_is_given(
    registries: Registries,
) -> None:
    """One whose follower is behind (here: stopped) must not give an id twice."""
    behind, other = await registries.open(), await registries.open()
    await behind.close()
    assert await other.register("a", schema("x")) == 1_000
    assert await behind.register("b", schema("y")) == 1_001
    assert await behind.register("a", schema("x")) == 1_000


@pytest.mark.parametrize("fault", LOST_ANSWERS, ids=lambda fault: fault.name)
async def test_a_lost_answer(registries: Registries, fault: Fate) -> None:
    registry = await registries.open()
    registries.place.faults.append(fault)
    async with asyncio.timeout(3):  # less than the 5 s until the transaction left open is aborted
        assert await registry.register("a", schema("x")) == 1_000
    assert len(await registry.versions("a")) == 1
    assert len(registries.place.commits) == 1


async def test_always_too_late(registries: Registries, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.bus.registry.REGISTER_PAUSE_S", 0.0)
    registry = await registries.open()
    registries.place.faults.extend([Fate.LOSE_REQUEST] * 30)
    with pytest.raises(BusUnavailable, match="others were faster 25 times"):
        await registry.register("a", schema("x"))


async def test_a_schema_that_breaks_its_readers(registries: Registries) -> None:
    registry = await registries.open()
    await registry.register("a", schema("x"))
    broken = schema("x")
    broken["fields"].append({"name": "new", "type": "string"})
    with pytest.raises(IncompatibleSchema, match=r"'a': as a reader, the new version .*'new'"):
        await registry.register("a", broken)
    assert await registry.register("a", broken, Compatibility.NONE) == 1_001


async def test_what_is_no_schema(registries: Registries) -> None:
    registry = await registries.open()
    for wrong in ({"type": "recrod"}, {"type": object()}, None):
        with pytest.raises(SchemaError, match="no Avro schema"):
            await registry.register("a", wrong)


async def test_own_schemas_need_no_registering(registries: Registries) -> None:
    registry = await registries.open()
    assert registry.known(20) == own_schema(20)
    assert registry.known(999) is None


async def test_an_unknown_id_is_only_unknown_after_reading_to_the_end(
    registries: Registries, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = await registries.open()
    with pytest.raises(UnknownSchema, match="1000"):
        await registry.schema(1_000)
    assert not await registry.find(1_000, timeout_s=0.01)
    # One that does not get to the end is out of reach: not poison.
    await registry.close()
    await (await registries.open()).register("a", schema("x"))
    monkeypatch.setattr("holdfast.bus.registry.READ_TO_END_S", 0.01)
    with pytest.raises(BusUnavailable, match="could not be read to their end"):
        await registry.schema(1_000)


async def test_junk_on_the_topic_is_passed_over(
    registries: Registries, caplog: pytest.LogCaptureFixture
) -> None:
    registry = await registries.open()
    junk = [
        Record(TOPICS.schemas, b"k1", b"junk", partition=0),
        Record(TOPICS.schemas, b"k2", encode(SchemaEntry("j", 1, 1_000, "{")), partition=0),
        Record(TOPICS.schemas, b"k3", None, partition=0),
    ]
    await registries.place.bus().publish(junk)
    assert await registry.register("a", schema("x")) == 1_000
    conflict = encode(SchemaEntry("b", 1, 1_000, '"string"'))
    await registries.place.bus().publish([Record(TOPICS.schemas, b"k4", conflict, partition=0)])
    assert await registry.register("c", schema("y")) == 1_001
    assert registry.known(1_000) == schema("x")
    assert "stands for another schema already" in caplog.text


def test_subjects() -> None:
    assert input_subject("scout", "list") == "scout.list.input"
    assert output_subject("scout", "list") == "scout.list.output"
