"""Opens files of a folder that may be hostile: never outside it, never more than the bound.

Nothing here raises for a bad file: a problem is an answer, in words, that ends up in the report.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from .models import Reading, SourceFile

__all__ = [
    "CHANGED",
    "MAX_FILE_BYTES",
    "Loaded",
    "Refused",
    "load",
    "load_unchanged",
    "open_inside",
    "read",
    "sniff",
    "too_large",
]

#: All tools together take about 5 s for this much; what is larger is nearly always data.
MAX_FILE_BYTES = 512 * 1024
#: How far git looks for a NUL byte to call a file binary.
SNIFF_BYTES = 8_000

CHANGED = "it changed while it was inspected"


class Refused(Exception):
    """A file is not opened; the message is the reason, fit for the report."""


@dataclass(frozen=True)
class Loaded:
    """A file's bytes, and its text with what is not UTF-8 replaced."""

    full_path: Path
    raw: bytes
    text: str


def open_inside(folder: Path, path: str) -> int:
    """Open the regular file ``path`` of ``folder`` for reading and return its descriptor.

    Raises ``Refused`` for links, for what lies outside of ``folder`` (a directory on the way may
    be a link), and for whatever is not a regular file of at most ``MAX_FILE_BYTES``.
    """
    full_path = folder / path
    try:
        parent = full_path.parent.resolve(strict=True)
        if not parent.is_relative_to(folder.resolve()):
            raise Refused("it lies outside of the folder")
        # NONBLOCK: a pipe that nobody writes to would hold us for ever.
        descriptor = os.open(full_path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, RuntimeError, ValueError) as error:
        raise Refused(_reason(full_path, error)) from error
    about = os.fstat(descriptor)
    problem = ""
    if not stat.S_ISREG(about.st_mode):
        problem = "not a regular file"
    elif about.st_size > MAX_FILE_BYTES:
        problem = too_large(about.st_size)
    if problem:
        os.close(descriptor)
        raise Refused(problem)
    return descriptor


def too_large(size_bytes: int) -> str:
    """The reason for leaving out a file of this size."""
    return f"larger than {MAX_FILE_BYTES // 1024} KiB ({size_bytes // 1024:,} KiB)"


def _reason(full_path: Path, error: Exception) -> str:
    if full_path.is_symlink():
        return "a symbolic link"
    if isinstance(error, FileNotFoundError):
        return "no longer there"
    if isinstance(error, OSError) and error.strerror:
        return f"not readable: {error.strerror}"
    return "not readable"


def sniff(folder: Path, path: str) -> int:
    """Return the size in bytes of a file worth inspecting; raise ``Refused`` for any other."""
    descriptor = open_inside(folder, path)
    with os.fdopen(descriptor, "rb") as stream:
        if b"\0" in _read(stream.fileno(), SNIFF_BYTES):
            raise Refused("binary")
        return os.fstat(stream.fileno()).st_size


def load(source: SourceFile) -> Loaded:
    """Read a file whole. Raises ``Refused``."""
    descriptor = open_inside(Path(source.folder), source.path)
    with os.fdopen(descriptor, "rb") as stream:
        raw = _read(stream.fileno(), MAX_FILE_BYTES + 1)
    if len(raw) > MAX_FILE_BYTES:  # it grew after it was opened
        raise Refused(too_large(len(raw)))
    return Loaded(Path(source.folder) / source.path, raw, raw.decode("utf-8-sig", "replace"))


def load_unchanged(source: SourceFile, digest: str) -> Loaded:
    """Read a file that must still be what ``read`` saw. Raises ``Refused``."""
    try:
        loaded = load(source)
    except Refused as refused:
        raise Refused(CHANGED) from refused
    if hashlib.sha256(loaded.raw).hexdigest() != digest:
        raise Refused(CHANGED)
    return loaded


def _read(descriptor: int, limit: int) -> bytes:
    try:
        return os.read(descriptor, limit)
    except OSError as error:
        raise Refused(f"not readable: {error.strerror}") from error


def read(source: SourceFile) -> Reading:
    """What the file is: its digest, its lines, and whether it can be inspected at all."""
    try:
        loaded = load(source)
    except Refused as refused:
        return Reading(problem=str(refused))
    return Reading(
        digest=hashlib.sha256(loaded.raw).hexdigest(),
        lines=len(loaded.text.splitlines()),
        utf8=_is_utf8(loaded.raw),
        problem="binary" if b"\0" in loaded.raw else "",
    )


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
