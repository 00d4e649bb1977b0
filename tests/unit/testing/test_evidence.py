"""Rows of evidence, in memory and in files that many processes share."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from holdfast.testing import (
    BodyEnd,
    BodyStart,
    EffectSeen,
    Evidence,
    EvidenceFile,
    Excused,
    PoisonSent,
    Quiet,
    StateHash,
    Submission,
    Usage,
)

ROWS = [
    Submission("r", True, "plan", "digest", "k"),
    BodyStart("r", "t", 1, None, "", "w1", "p", 5),
    BodyStart("r", "t", 1, "say", "é\n", "w1", "p", 6, after_commit=3),
    BodyEnd("r", "t", 1, "say", "", "w1", "p", 7, "raised"),
    EffectSeen("key", "applied"),
    PoisonSent("bytes", "ab", "ns.tasks.a", 1, 7),
    StateHash("ns.coordinator", 0, 5, "ff", "before"),
    Usage("w1", 1.5, memory_bytes=7),
    Excused("p", "SIGSTOP", 1, 2),
    Quiet(9, 0, ("ns.a", "ns.b")),
]
LINES = 200


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "evidence"
    file = EvidenceFile(path)
    for row in ROWS:
        file.add(row)
    file.close()
    loaded = Evidence.load(path, tmp_path / "missing")
    assert list(loaded) == ROWS
    assert loaded.of(BodyStart) == ROWS[1:3]
    assert loaded.quiet
    loaded.dump(tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == path.read_text()


def _write(path: Path, process: str) -> None:
    file = EvidenceFile(path)
    for number in range(LINES):
        file.add(BodyStart("r" * 200, "t", number, None, "", "w", process, number))


def test_lines_of_many_processes_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "evidence"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(path, name)) for name in ("a", "b", "c")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    rows = Evidence.load(path).of(BodyStart)
    for name in ("a", "b", "c"):
        assert [row.attempt for row in rows if row.process == name] == list(range(LINES))


@pytest.mark.parametrize("line", ["{", '{"row":"Nothing"}', '{"row":"Quiet"}', "[]", '"x"'])
def test_a_line_that_is_none_of_ours_is_never_skipped(tmp_path: Path, line: str) -> None:
    path = tmp_path / "evidence"
    path.write_text('{"row":"Quiet","at_ms":1}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"evidence:2 is no line of evidence"):
        Evidence.load(path)
