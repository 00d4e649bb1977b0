"""Reading a file: what it is, and never more than it should."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from examples.audit.models import SourceFile
from examples.audit.reading import (
    CHANGED,
    MAX_FILE_BYTES,
    Refused,
    load,
    load_unchanged,
    open_inside,
    read,
)


def test_a_file_is_known_by_its_digest_and_its_lines_not_by_its_text(put) -> None:
    reading = read(put("a.py", "password = 'hunter2'\nx = 1\n"))
    assert reading.digest == hashlib.sha256(b"password = 'hunter2'\nx = 1\n").hexdigest()
    assert (reading.lines, reading.utf8, reading.problem) == (2, True, "")
    assert "hunter2" not in reading.model_dump_json()


@pytest.mark.parametrize(
    ("raw", "lines", "utf8"),
    [(b"", 0, True), (b"\xff\xfe\xfa\n\x80", 2, False), ("\ufeffx\n".encode(), 1, True)],
)
def test_any_bytes_are_read(put, raw: bytes, lines: int, utf8: bool) -> None:
    reading = read(put("a.txt", raw))
    assert (reading.lines, reading.utf8, reading.problem) == (lines, utf8, "")


def test_a_nul_beyond_what_the_scout_looked_at_is_binary(put) -> None:
    assert read(put("a.bin", b"x" * 10_000 + b"\0")).problem == "binary"


def test_a_file_that_grew_or_went_is_a_problem_not_an_error(put, folder) -> None:
    source = put("a.txt", b"x")
    (folder / "a.txt").write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    assert read(source).problem.startswith("larger than 512 KiB")
    (folder / "a.txt").unlink()
    assert read(source).problem == "no longer there"
    (folder / "a.txt").symlink_to("/etc/passwd")
    assert read(source).problem == "a symbolic link"


def test_a_file_that_changed_since_is_refused(put) -> None:
    source = put("a.txt", "one")
    digest = read(source).digest
    assert load_unchanged(source, digest).text == "one"
    put("a.txt", "two")
    with pytest.raises(Refused, match=CHANGED):
        load_unchanged(source, digest)


@pytest.mark.parametrize("path", ["../out.txt", "/etc/passwd", "a\0b", "sub/../../out.txt"])
def test_nothing_outside_of_the_folder_is_opened(folder: Path, path: str) -> None:
    (folder.parent / "out.txt").write_text("x")
    (folder / "sub").mkdir()
    with pytest.raises(Refused):
        load(SourceFile(folder=str(folder), path=path, size_bytes=0))


def test_a_pipe_does_not_hold_the_reader(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(Refused, match="not a regular file"):
        open_inside(folder, "pipe")
