"""The change history, from real repositories."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from examples.audit import gitlog, historian
from examples.audit.models import FileChanges, History, HistoryRequest
from examples.audit.scout import BadFolder


def read(folder: Path) -> History:
    return historian.read_history(HistoryRequest(folder=str(folder)))


def counts(history: History) -> dict[str, int]:
    return {each.path: each.commits for each in history.changes}


def test_changes_are_counted_by_file_commit_and_author(folder, put, commit) -> None:
    put("a.py", "1\n2\n3\n")
    put("b.py", "1\n")
    commit()
    put("a.py", "1\n2\n4\n5\n")
    commit(author="Bob <BOB@example.org>")
    put("a.py", "1\n")
    commit(author="Robert <bob@example.org>")
    assert read(folder) == History(
        source="git",
        commits=3,
        changes=[
            FileChanges(path="a.py", commits=3, authors=2, added=3 + 2, deleted=1 + 3),
            FileChanges(path="b.py", commits=1, authors=1, added=1, deleted=0),
        ],
    )


def test_a_renamed_file_keeps_its_history_and_a_deleted_one_is_forgotten(
    folder, put, git, commit
) -> None:
    body = "".join(f"line {n}\n" for n in range(20))
    put("old.py", body)
    put("gone.py", "other\n")
    commit()
    put("old.py", body + "more\n")
    commit()
    git("mv", "old.py", "new name\n.py")
    (folder / "gone.py").unlink()
    commit()
    put("new name\n.py", body + "and more\n")
    commit()
    history = read(folder)
    assert counts(history) == {"new name\n.py": 4}
    assert history.commits == 4


def test_two_files_that_swapped_their_names(folder, put, git, commit) -> None:
    put("a.py", "".join(f"alpha {n}\n" for n in range(20)))
    put("b.py", "".join(f"beta {n}\n" for n in range(20)))
    commit()
    put("a.py", "".join(f"alpha {n}\n" for n in range(21)))
    commit()
    git("mv", "a.py", "t")
    git("mv", "b.py", "a2.py")
    git("mv", "t", "b2.py")
    commit()
    assert counts(read(folder)) == {"a2.py": 2, "b2.py": 3}


def test_a_path_that_was_used_again_counts_for_its_new_file_only(folder, put, git, commit) -> None:
    put("a.py", "".join(f"alpha {n}\n" for n in range(20)))
    commit()
    git("mv", "a.py", "b.py")
    commit()
    put("a.py", "".join(f"something else {n}\n" for n in range(20)))
    commit()
    assert counts(read(folder)) == {"a.py": 1, "b.py": 2}


def test_merges_and_binary_files_and_odd_names(folder, put, git, commit) -> None:
    put("tab\there ü\u202e.py", "x\n")
    put("picture.bin", b"\0\1\2")
    commit()
    git("checkout", "--quiet", "-b", "side")
    put("side.py", "x\n")
    commit()
    git("checkout", "--quiet", "main")
    put("main.py", "x\n")
    commit()
    git("merge", "--quiet", "--no-edit", "side")
    history = read(folder)
    assert history.commits == 3
    assert counts(history) == {
        "main.py": 1,
        "picture.bin": 1,
        "side.py": 1,
        "tab\there ü\u202e.py": 1,
    }


def test_a_folder_of_a_repository_has_its_own_history(folder, put, commit) -> None:
    put("sub/a.py", "1\n")
    commit()
    put("top.py", "1\n")
    commit()
    history = read(folder / "sub")
    assert (counts(history), history.commits) == ({"a.py": 1}, 1)


def test_settings_of_the_user_and_the_repository_change_nothing(folder, put, git, commit) -> None:
    put("a.py", "1\n")
    commit()
    for name, value in {
        "log.showSignature": "true",
        "diff.renames": "false",
        "diff.external": "/bin/false",
        "color.ui": "always",
        "log.decorate": "full",
        "diff.relative": "false",
    }.items():
        git("config", name, value)
    git("mv", "a.py", "b.py")
    commit()
    assert counts(read(folder)) == {"b.py": 2}


@pytest.mark.parametrize(
    ("prepare", "note"),
    [
        ([], "not a git repository"),
        (["git init --quiet ."], "no commits yet"),
    ],
)
def test_no_history_is_said(folder, put, prepare: list[str], note: str) -> None:
    put("a.py", "")
    for command in prepare:
        subprocess.run(command.split(), cwd=folder, check=True)
    assert read(folder) == History(source="none", note=note)


def test_a_folder_that_no_commit_touches_has_no_history(folder, put, commit) -> None:
    put("a.py", "")
    commit()
    put("new/b.py", "")
    assert read(folder / "new").note == "no commit touches this folder"
    assert read(folder / ".git").note == "not a git work tree"


def test_a_shallow_clone_is_said(folder, put, commit, tmp_path) -> None:
    for text in ("1\n", "2\n"):
        put("a.py", text)
        commit()
    clone = tmp_path / "clone"
    command = ["git", "clone", "--quiet", "--depth=1", folder.as_uri(), str(clone)]
    subprocess.run(command, check=True)
    history = read(clone)
    assert history.note == "a shallow clone: older changes are not in it"
    assert history.commits == 1


@pytest.mark.parametrize("bound", ["MAX_COMMITS", "MAX_CHANGES"])
def test_a_long_history_is_cut_and_that_is_said(folder, put, commit, monkeypatch, bound) -> None:
    monkeypatch.setattr(gitlog, bound, 2)
    monkeypatch.setattr(historian, bound, 2)
    for text in "12345":
        put("a.py", text)
        commit()
    history = read(folder)
    assert history.note == "only the newest 2 commits were read"
    assert counts(history) == {"a.py": 2}


def test_without_git_there_is_no_history(folder, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert read(folder) == History(source="none", note="git is not installed")


@pytest.mark.parametrize("slow", ["rev-parse", "log"])
def test_git_that_takes_too_long_is_stopped(
    folder, put, commit, monkeypatch, tmp_path, slow
) -> None:
    put("a.py", "")
    commit()
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    real = shutil.which("git")
    fake.write_text(f'#!/bin/sh\ncase " $* " in *" {slow} "*) exec sleep 60;; esac\n{real} "$@"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(gitlog, "GIT_TIMEOUT_S", 1.0)
    assert read(folder) == History(source="none", note="git took more than 1 s")


def test_a_folder_that_is_not_there_is_an_error(folder) -> None:
    with pytest.raises(BadFolder, match="No such file"):
        read(folder / "nothing")
