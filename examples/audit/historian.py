"""The historian: how often each file has changed."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from .gitlog import MAX_CHANGES, MAX_COMMITS, Commit, GitError, ask, read_log
from .models import FileChanges, History, HistoryRequest
from .names import printable
from .scout import check_folder

__all__ = ["read_history"]


@dataclass
class _Tally:
    """What is known of one file so far, going back in time."""

    commits: int = 0
    added: int = 0
    deleted: int = 0
    authors: set[str] = field(default_factory=set)


class _Book:
    """Adds up commits, newest first, under the name that each file has today."""

    def __init__(self) -> None:
        self.tallies: dict[str, _Tally] = {}
        self.commits = 0
        self.changes = 0
        self._names_today: dict[str, str] = {}

    def enter(self, commit: Commit) -> None:
        """Count one commit, which must be older than those entered before it."""
        self.commits += 1
        renamed: dict[str, str] = {}
        for change in commit.changes:
            self.changes += 1
            name = self._names_today.get(change.path, change.path)
            tally = self.tallies.setdefault(name, _Tally())
            tally.commits += 1
            tally.added += change.added
            tally.deleted += change.deleted
            tally.authors.add(commit.author)
            if change.old_path != change.path:
                renamed[change.old_path] = name
        # Only after the whole commit: two files may have swapped their names in it.
        self._names_today.update(renamed)


def read_history(request: HistoryRequest) -> History:
    """Count the changes of every file that still exists. Without git the history is empty.

    Raises ``BadFolder`` when the folder is not there.
    """
    folder = check_folder(request.folder)
    try:
        book, note = _read(folder)
    except GitError as error:
        return History(source="none", note=str(error))
    changes = [
        FileChanges(
            path=name,
            commits=tally.commits,
            authors=len(tally.authors),
            added=tally.added,
            deleted=tally.deleted,
        )
        for name, tally in sorted(book.tallies.items())
        if printable(name) == name and (folder / name).is_file()
    ]
    return History(source="git", commits=book.commits, note=note, changes=changes)


def _read(folder: Path) -> tuple[_Book, str]:
    """All commits that are read, and what the history lacks. Raises ``GitError``."""
    if ask(folder, "rev-parse", "--is-inside-work-tree").strip() != b"true":
        raise GitError("not a git work tree")
    if not ask(folder, "rev-list", "--max-count=1", "--all").strip():
        raise GitError("no commits yet")
    book = _Book()
    with closing(read_log(folder)) as log:
        for commit in log:
            book.enter(commit)
            if book.changes >= MAX_CHANGES:
                break
    if not book.commits:
        raise GitError("no commit touches this folder")
    notes = []
    if book.changes >= MAX_CHANGES or book.commits >= MAX_COMMITS:
        notes.append(f"only the newest {book.commits:,} commits were read")
    if ask(folder, "rev-parse", "--is-shallow-repository").strip() == b"true":
        notes.append("a shallow clone: older changes are not in it")
    return book, "; ".join(notes)
