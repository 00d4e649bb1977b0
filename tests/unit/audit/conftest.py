from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from examples.audit.inspector import stop_workers
from examples.audit.models import SourceFile

Put = Callable[[str, str | bytes], SourceFile]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "project"
    path.mkdir()
    return path


@pytest.fixture
def put(folder: Path) -> Put:
    """Write a file into the folder and name it as the scout would."""

    def write(path: str, content: str | bytes) -> SourceFile:
        raw = content.encode() if isinstance(content, str) else content
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(raw)
        return SourceFile(folder=str(folder), path=path, size_bytes=len(raw))

    return write


@pytest.fixture
def git(folder: Path) -> Callable[..., str]:
    """Run git in the folder; the first call makes it a repository."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")} | {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
    }

    def run(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            check=True,
            capture_output=True,
            text=True,
            env=environment,
        ).stdout

    run("init", "--quiet", "--initial-branch=main")
    run("config", "user.name", "Ada")
    run("config", "user.email", "ada@example.org")
    return run


@pytest.fixture
def commit(git: Callable[..., str]) -> Callable[..., None]:
    """Commit everything in the folder."""

    def run(message: str = "change", author: str = "Ada <ada@example.org>") -> None:
        git("add", "--all")
        git("commit", "--quiet", f"--message={message}", f"--author={author}")

    return run


def digest_of(source: SourceFile) -> str:
    return hashlib.sha256((Path(source.folder) / source.path).read_bytes()).hexdigest()


@pytest.fixture
def digest() -> Callable[[SourceFile], str]:
    return digest_of


@pytest.fixture
def workers() -> Iterator[None]:
    """Stop the workers that a test started."""
    yield
    stop_workers()
