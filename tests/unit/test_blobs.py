"""The claim check: what goes in comes out, or one clear error."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.bus.blobs import (
    BlobStore,
    ClaimCheck,
    FolderBlobStore,
    NoBlobStore,
    TableBlobStore,
    blob_reference,
    open_blob_store,
)
from holdfast.bus.embedded import EmbeddedBus, EmbeddedSettings
from holdfast.bus.errors import BusUnavailable
from holdfast.bus.kafka import KafkaBus
from holdfast.bus.port import Environment
from holdfast.bus.settings import KafkaSettings
from holdfast.schemas import ConfigurationError, Undecodable
from holdfast.schemas.records import BlobReference
from tests.doubles.sim_place import SimPlace

DATA = bytes(range(256)) * 2_500


@pytest.fixture(params=["folder", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BlobStore]:
    if request.param == "folder":
        (tmp_path / "blobs").mkdir()
        environment = Environment(bus=SimPlace().unconnected_bus())
        yield open_blob_store((tmp_path / "blobs").as_uri(), environment)
        return
    bus = EmbeddedBus(EmbeddedSettings(tmp_path / "bus.db"))
    await bus.start()
    yield open_blob_store(None, Environment(bus=bus))
    await bus.close()


async def test_what_goes_in_comes_out(store: BlobStore) -> None:
    reference = blob_reference("run-1", DATA)
    assert await store.get(reference) is None
    await store.put(reference, DATA)
    await store.put(reference, DATA)
    assert await store.get(reference) == DATA


async def test_twenty_megabytes(store: BlobStore) -> None:
    data = os.urandom(20_000_000)
    reference = await ClaimCheck(store).put("run-1", data)
    assert reference.size_bytes == 20_000_000
    assert await ClaimCheck(store).get(reference) == data


async def test_many_writers_of_one_blob(store: BlobStore) -> None:
    reference = blob_reference("run-1", DATA)
    await asyncio.gather(*(store.put(reference, DATA) for _ in range(8)))
    assert await store.get(reference) == DATA
    assert len(await store.list()) == 1


async def test_bytes_that_are_not_the_named_ones_are_not_taken(store: BlobStore) -> None:
    with pytest.raises(Undecodable, match="is damaged"):
        await store.put(blob_reference("run-1", DATA), DATA[:-1] + b"x")
    assert await store.list() == []


async def test_what_is_gone(store: BlobStore) -> None:
    claims = ClaimCheck(store)
    reference = await claims.put("run-1", DATA)
    await store.delete([reference.name, "run-2/" + "0" * 64])
    assert await store.get(reference) is None
    with pytest.raises(Undecodable, match="not in the store any more"):
        await claims.get(reference)


async def test_listing_is_whole_whatever_the_page(store: BlobStore) -> None:
    claims = ClaimCheck(store)
    names = set()
    for run, content in itertools.product(["a", "a-b", "a.b", "B"], [b"1", b"2", b"3"]):
        names.add((await claims.put(run, content)).name)
    listed: list[Any] = []
    while page := await store.list(after=listed[-1].name if listed else "", limit=5):
        listed += page
    assert len(listed) == len(names)
    assert {each.name for each in listed} == names
    assert all(each.size_bytes == 1 and each.stored_ms > 1_700_000_000_000 for each in listed)


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "..",
        "run/../" + "0" * 64,
        "../" + "0" * 64,
        "/" + "0" * 64,
        "run/" + "0" * 63,
        "run/" + "0" * 64 + "/x",
        "run/" + "G" * 64,
        "r\0n/" + "0" * 64,
        "run/" + "0" * 64 + "\n",
    ],
)
async def test_no_name_leads_elsewhere(store: BlobStore, name: str, tmp_path: Path) -> None:
    reference = BlobReference(name, 1)
    with pytest.raises(Undecodable, match="no blob's name"):
        await store.get(reference)
    with pytest.raises(Undecodable, match="no blob's name"):
        await store.put(reference, b"x")


def folder_store(folder: Path) -> FolderBlobStore:
    counter = itertools.count()
    environment = Environment(bus=SimPlace().unconnected_bus())
    return FolderBlobStore(folder, environment.run_blocking, lambda: str(next(counter)))


async def test_a_damaged_file_is_found_and_healed(tmp_path: Path) -> None:
    store = folder_store(tmp_path)
    reference = blob_reference("run-1", DATA)
    await store.put(reference, DATA)
    path = tmp_path / reference.name
    for damaged in (DATA[:-1], b"x" + DATA[1:], DATA + b"x"):
        path.write_bytes(damaged)
        with pytest.raises(Undecodable, match="is damaged"):
            await store.get(reference)
    await store.put(reference, DATA)
    assert await store.get(reference) == DATA


async def test_a_crash_leaves_nothing_that_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = folder_store(tmp_path)
    reference = blob_reference("run-1", DATA)

    def fail(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(BusUnavailable, match="No space left"):
        await store.put(reference, DATA)
    monkeypatch.undo()
    assert list((tmp_path / "run-1").iterdir()) == []
    (tmp_path / "run-1" / f".{'0' * 64}.half").write_bytes(b"half")
    assert await store.list() == []
    assert await store.get(reference) is None


async def test_a_file_stands_there_only_once_it_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = folder_store(tmp_path)
    reference = blob_reference("run-1", DATA)
    calls: list[str] = []
    sync, replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        calls.append("fsync")
        sync(descriptor)

    def rename(self: Path, target: Path) -> Path:
        calls.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    await store.put(reference, DATA)
    # The root for the new folder, the file, its name, the folder for the name.
    assert calls == ["fsync", "fsync", "rename", "fsync"]


async def test_a_share_that_is_away_is_not_an_empty_one(tmp_path: Path) -> None:
    folder = tmp_path / "share"
    folder.mkdir()
    store = folder_store(folder)
    folder.rmdir()
    reference = blob_reference("run-1", DATA)
    for call in (store.get(reference), store.put(reference, DATA), store.list()):
        with pytest.raises(BusUnavailable, match="blob store"):
            await call
    assert not folder.exists(), "nothing is written where the share should be"


async def test_a_bus_without_a_store() -> None:
    store = open_blob_store(
        None, Environment(bus=KafkaBus(KafkaSettings(bootstrap=("nowhere:1",))))
    )
    assert isinstance(store, NoBlobStore)
    with pytest.raises(ConfigurationError, match=r"640,000 bytes .*set HOLDFAST_BLOBS=file"):
        await ClaimCheck(store).put("run-1", DATA)
    with pytest.raises(ConfigurationError, match="HOLDFAST_BLOBS"):
        await store.get(blob_reference("run-1", DATA))
    assert await store.list() == []
    await store.delete(["x"])


@pytest.mark.parametrize(
    "url", ["folder", "s3://bucket", "file://host/folder", "file:relative", "/folder", ""]
)
def test_urls_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ConfigurationError, match="write file:///absolute/folder"):
        open_blob_store(url, Environment(bus=SimPlace().unconnected_bus()))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="create it"):
        open_blob_store((tmp_path / "none").as_uri(), Environment(bus=SimPlace().unconnected_bus()))


def test_the_sqlite_bus_has_its_own(tmp_path: Path) -> None:
    bus = EmbeddedBus(EmbeddedSettings(tmp_path / "bus.db"))
    assert isinstance(open_blob_store(None, Environment(bus=bus)), TableBlobStore)
