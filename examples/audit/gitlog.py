"""Runs git on a folder that may be hostile, and reads its change log.

The folder's own configuration can name programs that git would start (a file-system monitor,
hooks, external diffs): all of these are switched off. ``GIT_*`` variables are dropped, because
inside a hook they point at another repository.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

__all__ = ["MAX_CHANGES", "MAX_COMMITS", "Commit", "FileChange", "GitError", "ask", "read_log"]

GIT_TIMEOUT_S = 60.0
#: Older commits are not read: what was busy five thousand commits ago is no hot spot today.
MAX_COMMITS = 5_000
#: A bound on what is held in memory, for repositories whose commits touch everything at once.
MAX_CHANGES = 500_000
_CHUNK_BYTES = 1 << 16
_COMMIT_MARK = "commit:"


class GitError(Exception):
    """git is not there, or refuses; the message is its own last line."""


@dataclass(frozen=True)
class FileChange:
    """One file in one commit. ``old_path`` differs from ``path`` when the commit renamed it."""

    path: str
    old_path: str
    added: int
    deleted: int


@dataclass
class Commit:
    """One commit that is not a merge."""

    author: str
    changes: list[FileChange] = field(default_factory=list)


def _command(folder: Path, *arguments: str) -> list[str]:
    quiet = ["-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}"]
    return ["git", "-C", str(folder), *quiet, *arguments]


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    # A partial clone would fetch what it lacks, from wherever its configuration says.
    return kept | {
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
    }


def ask(folder: Path, *arguments: str) -> bytes:
    """Run one git command in ``folder`` and return what it prints. Raises ``GitError``."""
    try:
        done = subprocess.run(
            _command(folder, *arguments),
            capture_output=True,
            check=True,
            timeout=GIT_TIMEOUT_S,
            env=_environment(),
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError as missing:
        raise GitError("git is not installed") from missing
    except subprocess.TimeoutExpired as late:
        raise GitError(f"git took more than {GIT_TIMEOUT_S:.0f} s") from late
    except subprocess.CalledProcessError as failed:
        raise GitError(_complaint(failed)) from failed
    return done.stdout


def _complaint(failed: subprocess.CalledProcessError) -> str:
    said = failed.stderr.decode(errors="replace").strip()
    if "not a git repository" in said:
        return "not a git repository"  # without the path, which differs between two clones
    return said.splitlines()[-1].strip() if said else f"git ended with {failed.returncode}"


def read_log(folder: Path) -> Generator[Commit, None, None]:
    """The newest ``MAX_COMMITS`` commits that touch ``folder``, newest first, without merges.

    Paths are relative to ``folder``. Close the iterator early to stop git. Raises ``GitError``.
    """
    command = _command(
        folder,
        "log",
        f"--max-count={MAX_COMMITS}",
        "--no-merges",
        "--numstat",
        "-z",
        "-M",
        "-l400",  # beyond this many candidates a commit's renames count as new files
        "--no-ext-diff",
        "--no-textconv",
        "--no-show-signature",
        "--no-color",
        "--use-mailmap",
        "--relative",
        f"--format={_COMMIT_MARK}%aE",
        "--",
        ".",
    )
    try:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            env=_environment(),
        )
    except FileNotFoundError as missing:
        raise GitError("git is not installed") from missing
    late = threading.Timer(GIT_TIMEOUT_S, process.kill)
    late.start()
    try:
        with process:
            yield from _commits(_fields(process.stdout or io.BytesIO()))
    except GeneratorExit:
        process.terminate()
        raise
    finally:
        late.cancel()
    if process.returncode == -signal.SIGKILL:
        raise GitError(f"git took more than {GIT_TIMEOUT_S:.0f} s")
    if process.returncode != 0:
        raise GitError(f"git log ended with {process.returncode}")


def _fields(stream: IO[bytes]) -> Iterator[str]:
    """What git separates by NUL. Surrogates stand for bytes that are not UTF-8."""
    rest = b""
    while chunk := stream.read(_CHUNK_BYTES):
        *whole, rest = (rest + chunk).split(b"\0")
        for part in whole:
            yield os.fsdecode(part)
    if rest:
        yield os.fsdecode(rest)


def _commits(fields: Iterator[str]) -> Iterator[Commit]:
    commit: Commit | None = None
    for part in fields:
        text = part.removeprefix("\n")
        if text.startswith(_COMMIT_MARK):
            if commit is not None:
                yield commit
            commit = Commit(text.removeprefix(_COMMIT_MARK).strip().lower())
        elif text and commit is not None:
            commit.changes.append(_change(text, fields))
    if commit is not None:
        yield commit


def _change(text: str, fields: Iterator[str]) -> FileChange:
    added, deleted, path = text.split("\t", 2)
    old_path = path
    if not path:  # a rename: both names follow as fields of their own
        old_path, path = next(fields), next(fields)
    return FileChange(path, old_path, _count(added), _count(deleted))


def _count(text: str) -> int:
    return 0 if text == "-" else int(text)  # "-" stands for a binary file
