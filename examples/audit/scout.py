"""The scout: which files of a folder are worth inspecting, and why the others are not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from .gitlog import GitError, ask
from .models import FileList, LeftOut, ListRequest, SourceFile
from .names import printable
from .reading import Refused, sniff

__all__ = ["MAX_FILES", "REPORT_NAMES", "BadFolder", "check_folder", "list_files"]

#: As many items as one map of a plan may have.
MAX_FILES = 100_000
#: What the editor writes; the scout passes it over, so that a second audit sees the same files.
REPORT_NAMES = ("report.md", "report.html", "hotspots.svg")
#: Not walked into where there is no git to say what belongs to the project.
_PASSED_BY = frozenset({"node_modules", "__pycache__", "venv", "build", "dist", "target"})


class BadFolder(ValueError):
    """The folder cannot be audited; the message names it and the remedy."""


def check_folder(folder: str) -> Path:
    """Return the folder's absolute path. Raises ``BadFolder``."""
    path = Path(folder).expanduser()
    try:
        path = path.resolve(strict=True)
        if not path.is_dir():
            raise BadFolder(f"{folder!r} is not a folder: name the folder that holds it")
        with os.scandir(path):
            pass
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, BadFolder):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BadFolder(f"cannot audit {folder!r}: {reason}. Name a folder you can read") from error
    return path


def list_files(request: ListRequest) -> FileList:
    """List the files to inspect: what git tracks, or, where there is no git, what is there.

    Raises ``BadFolder`` when the folder is not there or holds more than ``MAX_FILES`` files.
    """
    folder = check_folder(request.folder)
    own = {Path(request.out).absolute() / name for name in REPORT_NAMES}
    found_by: Literal["git", "walk"] = "git"
    note = ""
    try:
        names = _tracked(folder)
        if not names:
            found_by, note = "walk", "git tracks no file here, so all files were taken"
    except GitError as error:
        names, found_by, note = [], "walk", f"all files were taken: {error}"
    left_out: list[LeftOut] = []
    if found_by == "walk":
        names = list(_walk(folder, left_out))
    files: list[SourceFile] = []
    for name in sorted(set(names)):
        if folder / name not in own:
            _sort_in(folder, name, files, left_out)
    left_out.sort(key=lambda entry: (entry.path, entry.reason))
    return FileList(
        name=printable(folder.name or str(folder)),
        found_by=found_by,
        note=note,
        files=files,
        left_out=left_out,
    )


def _sort_in(folder: Path, name: str, files: list[SourceFile], left_out: list[LeftOut]) -> None:
    shown = printable(name)
    try:
        if shown != name:
            raise Refused("its name is not UTF-8")  # it could not be handed on as text
        size_bytes = sniff(folder, name)
    except Refused as refused:
        left_out.append(LeftOut(path=shown, reason=str(refused)))
    else:
        files.append(SourceFile(folder=str(folder), path=name, size_bytes=size_bytes))


def _tracked(folder: Path) -> list[str]:
    listed = ask(folder, "ls-files", "-z", "--cached")
    names = [os.fsdecode(name) for name in listed.split(b"\0") if name]
    if len(names) > MAX_FILES:
        raise _too_many(folder)
    return names


def _walk(folder: Path, left_out: list[LeftOut]) -> Iterator[str]:
    """Every file below ``folder`` but hidden folders and those that builds leave behind."""

    def unreadable(error: OSError) -> None:
        path = os.path.relpath(error.filename, folder)
        reason = f"not readable: {error.strerror}"
        left_out.append(LeftOut(path=printable(path) + "/", reason=reason))

    count = 0
    for here, folders, files in os.walk(folder, onerror=unreadable):
        linked = [name for name in folders if Path(here, name).is_symlink()]
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and name not in _PASSED_BY
        )
        for name in [*files, *linked]:  # a linked folder is not entered; it is named as left out
            count += 1
            if count > MAX_FILES:
                raise _too_many(folder)
            yield os.path.relpath(Path(here, name), folder)


def _too_many(folder: Path) -> BadFolder:
    return BadFolder(f"{folder} holds more than {MAX_FILES:,} files: audit one of its folders")
