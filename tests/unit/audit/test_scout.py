"""The scout: which files, in which order, and why not the others."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from examples.audit import reading, scout
from examples.audit.models import FileList, ListRequest
from examples.audit.scout import BadFolder, check_folder, list_files


def found(folder: Path, out: str = "build/audit") -> FileList:
    return list_files(ListRequest(folder=str(folder), out=out))


def paths(listed: FileList) -> list[str]:
    return [source.path for source in listed.files]


def reasons(listed: FileList) -> dict[str, str]:
    return {entry.path: entry.reason for entry in listed.left_out}


def test_a_repository_gives_what_git_tracks(folder, put, git, commit) -> None:
    put("b.py", "b")
    put("a/z.py", "z")
    put(".gitignore", "ignored.py\n")
    commit()
    put("ignored.py", "")
    put("untracked.py", "")
    listed = found(folder)
    assert listed.found_by == "git"
    assert listed.note == ""
    assert listed.name == "project"
    assert paths(listed) == [".gitignore", "a/z.py", "b.py"]
    assert listed.files[2].size_bytes == 1
    assert listed.files[2].folder == str(folder.resolve())


def test_a_folder_of_a_repository_gives_only_its_own_files(folder, put, commit) -> None:
    put("top.py", "")
    put("sub/in.py", "")
    commit()
    assert paths(found(folder / "sub")) == ["in.py"]


def test_without_git_the_folder_is_walked_but_for_what_builds_leave(folder, put) -> None:
    for path in ("b.py", "a.py", "sub/c.py", "node_modules/x.js", ".hidden/y.py", "build/z.py"):
        put(path, "x")
    listed = found(folder)
    assert listed.found_by == "walk"
    assert listed.note == "all files were taken: not a git repository"
    assert paths(listed) == ["a.py", "b.py", "sub/c.py"]


def test_an_untracked_folder_inside_a_repository_is_walked(folder, put, commit) -> None:
    put("top.py", "")
    commit()
    put("new/a.py", "")
    listed = found(folder / "new")
    assert listed.found_by == "walk"
    assert "git tracks no file here" in listed.note
    assert paths(listed) == ["a.py"]


def test_git_that_is_not_there_is_said(folder, put, monkeypatch) -> None:
    put("a.py", "")
    monkeypatch.setenv("PATH", "/nowhere")
    assert found(folder).note == "all files were taken: git is not installed"


def test_variables_of_a_hook_do_not_lead_to_another_repository(
    folder, put, commit, tmp_path, monkeypatch
) -> None:
    put("a.py", "")
    commit()
    subprocess.run(["git", "init", "--quiet", str(tmp_path / "other")], check=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    listed = found(folder)
    assert (listed.found_by, paths(listed)) == ("git", ["a.py"])


def test_a_program_that_the_repository_names_is_not_started(folder, put, git, commit) -> None:
    put("a.py", "")
    commit()
    trap = folder.parent / "trap.sh"
    trap.write_text(f"#!/bin/sh\ntouch {folder.parent}/sprung\n")
    trap.chmod(0o755)
    git("config", "core.fsmonitor", str(trap))
    found(folder)
    assert not (folder.parent / "sprung").exists()


@pytest.mark.parametrize("in_git", [True, False])
def test_what_cannot_be_inspected_is_left_out_with_its_reason(
    folder, put, git, commit, in_git
) -> None:
    put("good.py", "x = 1\n")
    put("picture.png", b"\x89PNG\0\0")
    put("huge.txt", b"x" * (reading.MAX_FILE_BYTES + 1))
    put("just-fits.txt", b"x" * reading.MAX_FILE_BYTES)
    put("latin.txt", "café".encode("latin-1"))
    (folder / "outside").symlink_to("/etc/passwd")
    (folder / "loop").symlink_to("loop")
    (folder / "away").symlink_to(folder.parent, target_is_directory=True)
    if in_git:
        commit()
        put("gone.py", "")
        git("add", "gone.py")
        (folder / "gone.py").unlink()
    else:
        (folder / ".git").rename(folder.parent / "elsewhere")
        os.mkfifo(folder / "pipe")
    listed = found(folder)
    assert paths(listed) == ["good.py", "just-fits.txt", "latin.txt"]
    expected = {
        "away": "a symbolic link",
        "huge.txt": "larger than 512 KiB (512 KiB)",
        "loop": "a symbolic link",
        "outside": "a symbolic link",
        "picture.png": "binary",
    }
    expected |= {"gone.py": "no longer there"} if in_git else {"pipe": "not a regular file"}
    assert reasons(listed) == expected


def test_a_huge_file_is_not_read(folder) -> None:
    with (folder / "huge.bin").open("wb") as stream:
        stream.truncate(50 * 1024 * 1024)
    assert reasons(found(folder)) == {"huge.bin": "larger than 512 KiB (51,200 KiB)"}


def test_a_tracked_path_that_leads_outside_through_a_folder_is_refused(folder, put, commit) -> None:
    put("sub/secret.txt", "x")
    commit()
    (folder / "sub").rename(folder.parent / "moved")
    (folder / "sub").symlink_to(folder.parent / "moved", target_is_directory=True)
    assert reasons(found(folder)) == {"sub/secret.txt": "it lies outside of the folder"}


def test_odd_names_are_handed_on_and_those_that_are_no_text_left_out(folder, put, commit) -> None:
    names = [" space .py", "line\nbreak.py", "tab\t.py", "ünïcödé-\u202e.py", '"q".py', "-n.py"]
    for name in names:
        put(name, "")
    Path(os.fsdecode(os.fsencode(folder) + b"/bad-\xff.py")).write_bytes(b"")
    commit()
    listed = found(folder)
    assert paths(listed) == sorted(names)
    assert reasons(listed) == {"bad-\\xff.py": "its name is not UTF-8"}
    assert listed.model_validate_json(listed.model_dump_json()) == listed


def test_the_report_itself_is_passed_over(folder, put) -> None:
    put("a.py", "")
    for name in (*scout.REPORT_NAMES, "other.md"):
        put(f"out/{name}", "")
    assert paths(found(folder, out=str(folder / "out"))) == ["a.py", "out/other.md"]


def test_a_submodule_is_left_out(folder, put, git, commit) -> None:
    put("a.py", "")
    commit()
    head = git("rev-parse", "HEAD").strip()
    (folder / "module").mkdir()
    git("update-index", "--add", "--cacheinfo", f"160000,{head},module")
    assert reasons(found(folder)) == {"module": "not a regular file"}


def test_what_may_not_be_read_is_left_out(folder, put, monkeypatch) -> None:
    put("a.py", "")
    put("sub/b.py", "")

    # Not by chmod: the superuser, as whom some test machines run, may read everything.
    def refuse(real: Callable[..., Any], forbidden: Path) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any) -> Any:
            if path in (forbidden, str(forbidden)):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return real(path, *arguments)

        return call

    monkeypatch.setattr(os, "open", refuse(os.open, folder / "a.py"))
    monkeypatch.setattr(os, "scandir", refuse(os.scandir, folder / "sub"))
    listed = found(folder)
    monkeypatch.undo()
    assert reasons(listed) == {
        "a.py": "not readable: Permission denied",
        "sub/": "not readable: Permission denied",
    }


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.write_text(""), "is not a folder"),
        (lambda path: path.symlink_to(path), "cannot audit"),
    ],
)
def test_a_folder_that_cannot_be_audited_is_named_with_a_remedy(
    tmp_path: Path, make: Callable[[Path], object], says: str
) -> None:
    make(tmp_path / "there")
    with pytest.raises(BadFolder, match=says) as caught:
        check_folder(str(tmp_path / "there"))
    assert str(tmp_path / "there") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("in_git", [True, False])
def test_too_many_files_are_refused(folder, put, git, commit, monkeypatch, in_git) -> None:
    monkeypatch.setattr(scout, "MAX_FILES", 2)
    for name in "abc":
        put(name, "")
    if in_git:
        commit()
    else:
        (folder / ".git").rename(folder.parent / "elsewhere")
    with pytest.raises(BadFolder, match="holds more than 2 files: audit one of its folders"):
        found(folder)
