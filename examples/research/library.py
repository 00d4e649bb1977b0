"""The folder: which documents it has, and what stands in one. Reads files, thinks nothing."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from examples.audit.models import SourceFile
from examples.audit.names import printable
from examples.audit.reading import Refused, load

from .models import LeftOut
from .passages import lines_of, title_of
from .words import content_words

__all__ = [
    "DOCUMENTS_MAX",
    "SUFFIXES",
    "BadFolder",
    "Counted",
    "Refused",
    "check_folder",
    "count_words",
    "open_document",
]

DOCUMENTS_MAX = 5_000
SUFFIXES = frozenset({".adoc", ".markdown", ".md", ".org", ".rst", ".text", ".txt"})
_PASSED_BY = frozenset({"node_modules", "__pycache__", "venv", "build", "dist", "target"})


class BadFolder(ValueError):
    """The folder cannot be researched, or not be written to; the message has the remedy."""


@dataclass(frozen=True, slots=True)
class Counted:
    """One document's words, by stem."""

    path: str
    title: str
    words: Counter[str]


@dataclass(frozen=True, slots=True)
class Opened:
    """A document's lines, and the SHA-256 of the file (hexadecimal)."""

    lines: list[str]
    digest: str


def check_folder(folder: str) -> Path:
    """Return the folder's absolute path. Raises `BadFolder`."""
    path = Path(folder).expanduser()
    try:
        path = path.resolve(strict=True)
        if not path.is_dir():
            raise BadFolder(f"{folder!r} is not a folder: name the folder that holds it")
        with os.scandir(path):
            pass
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BadFolder(f"cannot read {folder!r}: {reason}. Name a folder you can read") from error
    return path


def open_document(folder: Path, path: str, digest: str = "") -> Opened:
    """Read a document; with a `digest` it must still be what it was.

    Raises `Refused` (the message is the reason, fit for the answer) for what is not there, lies
    outside of the folder, is a link, is no text, or is too large.
    """
    if not os.path.lexists(folder / path):
        raise Refused("not there")
    raw = load(SourceFile(folder=str(folder), path=path, size_bytes=0))
    found = hashlib.sha256(raw.raw).hexdigest()
    if digest and found != digest:
        raise Refused("it changed while it was read")
    if b"\0" in raw.raw:
        raise Refused("binary")
    return Opened(lines_of(raw.text), found)


def count_words(folder: Path, left_out: list[LeftOut]) -> Iterator[Counted]:
    """Yield the words of each document, by path; what is no source goes to `left_out`.

    Raises `BadFolder` for more than `DOCUMENTS_MAX` documents.
    """
    for path in _documents(folder, left_out):
        try:
            lines = open_document(folder, path).lines
        except Refused as refused:
            left_out.append(LeftOut(path=printable(path), reason=str(refused)))
            continue
        stems = Counter(stem for line in lines for stem, _ in content_words(line))
        yield Counted(path, title_of(path, lines), stems)


def _documents(folder: Path, left_out: list[LeftOut]) -> list[str]:
    def unreadable(error: OSError) -> None:
        path = printable(os.path.relpath(error.filename, folder))
        left_out.append(LeftOut(path=f"{path}/", reason=f"not readable: {error.strerror}"))

    found: list[str] = []
    for here, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(n for n in folders if not n.startswith(".") and n not in _PASSED_BY)
        for name in files:
            if PurePosixPath(name).suffix.lower() not in SUFFIXES or name.startswith("."):
                continue
            path = os.path.relpath(Path(here, name), folder)
            if printable(path) != path:  # it could not be handed on as text
                left_out.append(LeftOut(path=printable(path), reason="its name is not UTF-8"))
                continue
            found.append(path)
            if len(found) > DOCUMENTS_MAX:
                raise BadFolder(
                    f"{folder} holds more than {DOCUMENTS_MAX:,} documents: ask one of its folders"
                )
    return sorted(found)
