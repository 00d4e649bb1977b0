"""The members of a group and their shares, as transactions on the file (see ADR 2).

Each function runs inside one transaction of the commit queue; each that changes something raises
the group's generation and wakes all its members.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import NamedTuple

from holdfast.bus.embedded.assign import assign
from holdfast.bus.embedded.catalog import group_id
from holdfast.bus.embedded.commit_thread import Transaction
from holdfast.bus.embedded.store import Counter, counter
from holdfast.bus.errors import TopicMismatch

__all__ = ["Joining", "View", "evict", "interest", "join", "release", "seize", "view"]


@dataclass(frozen=True, slots=True)
class Joining:
    """Who joins what."""

    group: str
    member: str
    incarnation: str
    partitions: int
    session_s: float


class View(NamedTuple):
    """A group as one member sees it at one generation."""

    generation: int
    incarnation: str | None
    """What stands beside the member's name: another one's, or nothing, when it is out."""
    owned: frozenset[int]
    leaving: frozenset[int]
    """Owned until the heir has them: to be let go."""
    coming: dict[int, int]
    """Heir of these, with when that was decided (ns since boot)."""
    peers: dict[str, tuple[str, float]]
    """The other members: incarnation and session time-out."""


def interest(group: int) -> int:
    """Return what to listen for to hear of a group's changes."""
    return -group


def join(transaction: Transaction, who: Joining, now_ns: int) -> int:
    """Enter the group, in place of an older member of the same name; return the group's number.

    Raises `TopicMismatch` when living members count other partitions.
    """
    group = group_id(transaction, who.group)
    db = transaction.db
    other = db.execute(
        "SELECT name, partitions FROM members WHERE grp = ? AND partitions <> ? AND name <> ?",
        (group, who.partitions, who.member),
    ).fetchone()
    if other is not None:
        raise TopicMismatch(
            f"member {who.member!r} reads topics of {who.partitions} partitions, but member "
            f"{other[0]!r} of group {who.group!r} reads topics of {other[1]}: "
            "all members of a group need the same topics"
        )
    db.execute(
        "REPLACE INTO members VALUES (?, ?, ?, ?, ?)",
        (group, who.member, who.incarnation, who.partitions, who.session_s),
    )
    db.execute("DELETE FROM shares WHERE grp = ? AND partition >= ?", (group, who.partitions))
    for partition in range(who.partitions):
        db.execute(
            "INSERT OR IGNORE INTO shares VALUES (?, ?, NULL, NULL, NULL, 0)", (group, partition)
        )
    _share_out(transaction, group, now_ns)
    return group


def evict(transaction: Transaction, group: int, incarnation: str, now_ns: int) -> bool:
    """Take a member out (it leaves, has died, or stands still); False if it was out already."""
    out = transaction.db.execute(
        "DELETE FROM members WHERE grp = ? AND incarnation = ?", (group, incarnation)
    )
    if not out.rowcount:
        return False
    _share_out(transaction, group, now_ns)
    return True


def release(transaction: Transaction, group: int, member: str, partitions: frozenset[int]) -> None:
    """The owner has let go of these: their heirs become the owners."""
    changed = 0
    for partition in partitions:
        changed += transaction.db.execute(
            "UPDATE shares SET owner = heir, home = heir, heir = NULL "
            "WHERE grp = ? AND partition = ? AND owner = ? AND heir IS NOT NULL",
            (group, partition, member),
        ).rowcount
    if changed:
        _changed(transaction, group)


def seize(transaction: Transaction, group: int, member: str, before_ns: int) -> None:
    """Take what has been promised since before `before_ns` and never let go of."""
    changed = transaction.db.execute(
        "UPDATE shares SET owner = heir, home = heir, heir = NULL "
        "WHERE grp = ? AND heir = ? AND since_ns < ?",
        (group, member, before_ns),
    ).rowcount
    if changed:
        _changed(transaction, group)


def view(db: sqlite3.Connection, group: int, member: str) -> View:
    """Return the group as `member` sees it.

    Not inside a transaction: the generation is read first, so what follows is that old or newer,
    and a change in between makes the next look differ.
    """
    key = counter(Counter.GENERATION, group)
    row = db.execute("SELECT value FROM counters WHERE id = ?", (key,)).fetchone()
    members = db.execute(
        "SELECT name, incarnation, session_s FROM members WHERE grp = ?", (group,)
    ).fetchall()
    shares = db.execute(
        "SELECT partition, owner, heir, since_ns FROM shares WHERE grp = ?", (group,)
    ).fetchall()
    peers = {name: (incarnation, session_s) for name, incarnation, session_s in members}
    mine = peers.pop(member, None)
    return View(
        0 if row is None else int(row[0]),
        None if mine is None else mine[0],
        frozenset(p for p, owner, heir, _ in shares if owner == member and heir is None),
        frozenset(p for p, owner, heir, _ in shares if owner == member and heir is not None),
        {p: since for p, _, heir, since in shares if heir == member},
        peers,
    )


def _share_out(transaction: Transaction, group: int, now_ns: int) -> None:
    db = transaction.db
    members = {row[0] for row in db.execute("SELECT name FROM members WHERE grp = ?", (group,))}
    rows = db.execute(
        "SELECT partition, owner, heir, home FROM shares WHERE grp = ? ORDER BY partition", (group,)
    ).fetchall()
    owners = {p: owner if owner in members else None for p, owner, _, _ in rows}
    holders = {p: heir if heir in members else owners[p] for p, _, heir, _ in rows}
    homes = {p: home for p, _, _, home in rows}
    shares = assign(len(rows), members, holders, homes)
    for partition, owner, heir, home in rows:
        target = shares.get(partition)
        living = owners[partition]
        new: tuple[str | None, str | None, str | None]
        if target is None or living is None or living == target:
            new = (target, None, home or target)
        else:
            new = (living, target, home)
        if new != (owner, heir, home):
            db.execute(
                "UPDATE shares SET owner = ?, heir = ?, home = ?, since_ns = ? "
                "WHERE grp = ? AND partition = ?",
                (*new, now_ns, group, partition),
            )
    _changed(transaction, group)


def _changed(transaction: Transaction, group: int) -> None:
    key = counter(Counter.GENERATION, group)
    transaction.count(key, transaction.counted(key) + 1)
    transaction.interests.add(interest(group))
