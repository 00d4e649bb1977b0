"""Payloads too large for a record: kept in a store, and sent as a reference (claim check).

Blobs are named `<run id>/<sha256 of the bytes, hex>`, so that storing one twice changes nothing and
what comes back can be verified. They are written *before* the commit that refers to them; what no
commit refers to is swept with the rest (`list`, `delete`), by age and run.

    sqlite bus          a table in the bus's file (the default there)
    file:///folder      a folder that all machines share
    kafka without one   every large payload is a clear error

Uses: the bus, `schemas`. Must never: hand out bytes whose hash is not the name's.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable
from urllib.parse import unquote, urlsplit

from holdfast.bus.errors import BusUnavailable
from holdfast.bus.port import Environment, RunBlocking
from holdfast.schemas.errors import ConfigurationError, Undecodable
from holdfast.schemas.records import BlobReference

__all__ = [
    "INLINE_BYTES_MAX",
    "BlobStore",
    "ClaimCheck",
    "FolderBlobStore",
    "NoBlobStore",
    "StoredBlob",
    "TableBlobStore",
    "blob_reference",
    "open_blob_store",
]

T = TypeVar("T")

INLINE_BYTES_MAX = 512 * 1024
"""A larger payload goes by reference."""
STORE_ATTEMPTS = 3
LIST_MAX = 1_000
"""Most blobs in one answer of `list`."""

_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}(~[0-9]{1,10})?")
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob in the store. `stored_ms`: wall time, milliseconds since the epoch."""

    name: str
    size_bytes: int
    stored_ms: int


class BlobStore(Protocol):
    """Keeps blobs. All methods raise `BusUnavailable` while the store is out of reach, and
    `ConfigurationError` where there is none."""

    async def put(self, reference: BlobReference, data: bytes) -> None:
        """Keep `data`, durably, before returning; storing it twice changes nothing."""
        ...

    async def get(self, reference: BlobReference) -> bytes | None:
        """Return the bytes, None if the store does not have them; raises `Undecodable` when they
        are not those that were put."""
        ...

    async def list(self, after: str = "", limit: int = LIST_MAX) -> list[StoredBlob]:
        """Return at most `limit` blobs in the store's own order, those after the name given."""
        ...

    async def delete(self, names: Collection[str]) -> None:
        """Forget blobs; unknown ones are ignored."""
        ...


def blob_reference(run_id: str, data: bytes) -> BlobReference:
    """Return the reference by which `data` is kept for a run."""
    return BlobReference(f"{run_id}/{hashlib.sha256(data).hexdigest()}", len(data))


class ClaimCheck:
    """A store as those see it who hold payloads, not references."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store

    async def put(self, run_id: str, data: bytes) -> BlobReference:
        """Keep `data` for a run and return the reference; raises as `BlobStore.put`."""
        reference = blob_reference(run_id, data)
        await self._store.put(reference, data)
        return reference

    async def get(self, reference: BlobReference) -> bytes:
        """Return what was put; raises `Undecodable` when it is gone or damaged."""
        data = await self._store.get(reference)
        if data is None:
            raise Undecodable(f"blob {reference.name} is not in the store any more")
        return data


@runtime_checkable
class _BlobTable(Protocol):
    """What the embedded bus offers beside the log."""

    async def put_blob(self, name: str, data: bytes) -> None: ...

    async def get_blob(self, name: str) -> bytes | None: ...

    async def delete_blobs(self, names: Collection[str]) -> None: ...

    async def list_blobs(
        self, prefix: str = "", *, after: str = "", limit: int = LIST_MAX
    ) -> list[tuple[str, int, int]]: ...


def open_blob_store(url: str | None, environment: Environment) -> BlobStore:
    """Return the store at `url` (`file:///folder`), or the bus's own if it has one.

    Raises `ConfigurationError` for a URL that cannot be used. With no URL and a bus that has no
    table for blobs, the store returned refuses each blob.
    """
    if url is None:
        bus = environment.bus
        return TableBlobStore(bus) if isinstance(bus, _BlobTable) else NoBlobStore()
    parts = urlsplit(url)
    folder = Path(unquote(parts.path))
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not folder.is_absolute():
        raise ConfigurationError(
            f"blob store {url!r} cannot be used; write file:///absolute/folder,"
            " a folder that all machines share"
        )
    if not folder.is_dir():
        raise ConfigurationError(f"blob store {url!r}: there is no folder {folder}; create it")
    return FolderBlobStore(folder, environment.run_blocking, environment.new_id)


class NoBlobStore:
    """Stands where there is no store: says so, and what to do."""

    async def put(self, reference: BlobReference, data: bytes) -> None:  # noqa: ARG002
        """Raise `ConfigurationError`."""
        raise _no_store(f"a payload of {len(data):,} bytes is too large for a record")

    async def get(self, reference: BlobReference) -> bytes | None:
        """Raise `ConfigurationError`."""
        raise _no_store(f"blob {reference.name} cannot be read")

    async def list(self, after: str = "", limit: int = LIST_MAX) -> list[StoredBlob]:  # noqa: ARG002
        """Return nothing."""
        return []

    async def delete(self, names: Collection[str]) -> None:
        """Do nothing."""


def _no_store(what: str) -> ConfigurationError:
    return ConfigurationError(
        f"{what} (at most {INLINE_BYTES_MAX:,} bytes go without a blob store); set"
        " HOLDFAST_BLOBS=file:///folder, a folder that all machines share"
    )


class TableBlobStore:
    """Blobs in a table of the embedded bus."""

    def __init__(self, bus: _BlobTable) -> None:
        self._bus = bus

    async def put(self, reference: BlobReference, data: bytes) -> None:
        """Keep `data`, durably, before returning; storing it twice changes nothing."""
        check_blob(reference, data)
        await self._bus.put_blob(reference.name, data)

    async def get(self, reference: BlobReference) -> bytes | None:
        """Return the bytes, None if the table does not have them; raises `Undecodable`."""
        _split(reference.name)
        data = await self._bus.get_blob(reference.name)
        if data is not None:
            check_blob(reference, data)
        return data

    async def list(self, after: str = "", limit: int = LIST_MAX) -> list[StoredBlob]:
        """Return at most `limit` blobs in the store's own order, those after the name given."""
        return [StoredBlob(*row) for row in await self._bus.list_blobs(after=after, limit=limit)]

    async def delete(self, names: Collection[str]) -> None:
        """Forget blobs; unknown ones are ignored."""
        await self._bus.delete_blobs(names)


class FolderBlobStore:
    """Blobs as files in a folder: `<folder>/<run id>/<sha256>`.

    A file appears under its name only when all of it is on the disk: written beside, synced,
    renamed, and the folder synced. What a crash left half-written begins with a dot and is not
    listed.
    """

    def __init__(self, folder: Path, run_blocking: RunBlocking, new_id: Callable[[], str]) -> None:
        self._folder = folder
        self._run_blocking = run_blocking
        self._new_id = new_id

    async def put(self, reference: BlobReference, data: bytes) -> None:
        """Keep `data`, durably, before returning; storing it twice changes nothing."""
        check_blob(reference, data)
        path = self._path(reference.name)
        beside = path.with_name(f".{path.name}.{self._new_id()}")
        await self._blocking(lambda: _store(self._folder, path, beside, data))

    async def get(self, reference: BlobReference) -> bytes | None:
        """Return the bytes, None if the folder does not have them; raises `Undecodable`."""
        path = self._path(reference.name)
        data = await self._blocking(lambda: _load(self._folder, path, reference.size_bytes))
        if data is not None:
            check_blob(reference, data)
        return data

    async def list(self, after: str = "", limit: int = LIST_MAX) -> list[StoredBlob]:
        """Return at most `limit` blobs in the store's own order, those after the name given."""
        return await self._blocking(lambda: _list(self._folder, after, limit))

    async def delete(self, names: Collection[str]) -> None:
        """Forget blobs; unknown ones are ignored."""
        paths = [self._path(name) for name in names]
        await self._blocking(lambda: _delete(paths))

    def _path(self, name: str) -> Path:
        run_id, digest = _split(name)
        return self._folder / run_id / digest

    async def _blocking(self, call: Callable[[], T]) -> T:
        try:
            return await self._run_blocking(call)
        except OSError as error:
            raise BusUnavailable(f"blob store {self._folder}: {error.strerror or error}") from error


def check_blob(reference: BlobReference, data: bytes) -> None:
    """Raise `Undecodable` if `data` is not what `reference` names."""
    _, digest = _split(reference.name)
    if len(data) != reference.size_bytes or hashlib.sha256(data).hexdigest() != digest:
        raise Undecodable(f"blob {reference.name} is damaged: its hash is not that of its name")


def _split(name: str) -> tuple[str, str]:
    """Return (run id, hash) of a blob's name: nothing else ever becomes a path."""
    run_id, _, digest = name.partition("/")
    if _RUN.fullmatch(run_id) is None or _HASH.fullmatch(digest) is None:
        raise Undecodable(f"{name[:200]!r} is no blob's name: <run id>/<sha256, hex>")
    return run_id, digest


def _store(folder: Path, path: Path, beside: Path, data: bytes) -> None:
    if _load(folder, path, len(data)) == data:
        # A sweep goes by age: it must see that the blob is needed again.
        os.utime(path)
        return
    for attempt in range(STORE_ATTEMPTS):
        if not path.parent.is_dir():
            path.parent.mkdir(exist_ok=True)
            _sync_folder(folder)
        try:
            _write(beside, path, data)
        except FileNotFoundError:
            # A sweep has just taken the run's folder, which was empty.
            if attempt + 1 == STORE_ATTEMPTS:
                raise
        else:
            return


def _write(beside: Path, path: Path, data: bytes) -> None:
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _load(folder: Path, path: Path, size_bytes: int) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(size_bytes + 1)
    except FileNotFoundError:
        if not folder.is_dir():
            # A share that is not mounted: the blob is not gone, the store is away.
            raise
        return None


def _list(folder: Path, after: str, limit: int) -> list[StoredBlob]:
    found: list[StoredBlob] = []
    after_run, _, after_hash = after.partition("/")
    for run in sorted(path for path in folder.iterdir() if _RUN.fullmatch(path.name)):
        if run.name < after_run or not run.is_dir():
            continue
        for path in sorted(run.iterdir()):
            # Run and hash are compared apart: as one text "a-b/" comes before "a/".
            if (run.name, path.name) <= (after_run, after_hash) or not _HASH.fullmatch(path.name):
                continue
            stat = path.stat()
            stored_ms = stat.st_mtime_ns // 1_000_000
            found.append(StoredBlob(f"{run.name}/{path.name}", stat.st_size, stored_ms))
            if len(found) == limit:
                return found
    return found


def _delete(paths: Collection[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
        try:
            path.parent.rmdir()
        except OSError:
            # Others of the run are still there, or one is just being written.
            continue
