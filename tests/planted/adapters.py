"""Bugs of the adapters, Kafka and SQLite: only torture can meet them."""

from __future__ import annotations

from tests.planted.patching import Patch
from tests.planted.table import bug

KAFKA = "holdfast.bus.kafka"
SQLITE = "holdfast.bus.embedded"


@bug(
    "batch-not-awaited",
    area="bus",
    breaks=("I4", "I1"),
    suites=("torture",),
    buses=("kafka",),
    needs="produce requests that fail for good while the transaction's other requests pass",
)
def batch_not_awaited(patch: Patch) -> None:
    """Only the answer to the offsets is awaited before the transaction ends: "the client flushes
    its batches itself". It does, and commits although one of them was lost: offsets move, outputs
    are missing.
    """
    patch.edit(
        f"{KAFKA}.writer:KafkaWriter._write",
        "asyncio.wait([s.future for s in sent], ",
        "asyncio.wait([s.future for s in sent if not s.records] or [sent[-1].future], ",
    )


@bug(
    "transactional-id-per-process",
    area="bus",
    breaks=("I6", "I2"),
    suites=("torture",),
    buses=("kafka",),
    needs="zombies: processes that were stopped, or cut off, and commit afterwards",
    fault="freeze",
)
def transactional_id_per_process(patch: Patch) -> None:
    """The producer of a slot is named after its process too, "so that names are unique". A new
    owner fences nobody: a zombie that wakes commits beside it.
    """
    patch.edit(
        f"{KAFKA}.writer:transactional_id",
        '    return f"{slot.group}.{slot.partition}"\n',
        '    import os\n\n    return f"{slot.group}.{slot.partition}.{os.getpid()}"\n',
    )


@bug(
    "reads-uncommitted",
    area="bus",
    breaks=("I5", "I2", "I7"),
    suites=("torture",),
    buses=("kafka",),
    needs="transactions that are aborted: kills and fences inside commits",
    fault="kill-agent",
)
def reads_uncommitted(patch: Patch) -> None:
    """The group's consumer has Kafka's default isolation. Agents and coordinators act on records of
    transactions that are aborted afterwards.
    """
    patch.edit(
        f"{KAFKA}.subscription:group_consumer",
        'isolation_level="read_committed"',
        'isolation_level="read_uncommitted"',
    )


@bug(
    "restore-stops-at-the-last-stable-offset",
    area="bus",
    breaks=("I11", "I2", "I1"),
    suites=("torture",),
    buses=("kafka",),
    needs="transactions left open below what is to be restored",
    fault="open-transaction",
)
def restore_stops_at_the_last_stable_offset(patch: Patch) -> None:
    """Ends of logs are asked for in read-committed isolation, which answers with the last stable
    offset. A journal that holds an open transaction is restored up to there, as if that were all.
    """
    patch.edit(f"{KAFKA}.cluster:Cluster._log_offsets", "READ_UNCOMMITTED", "1")


@bug(
    "stale-batch-behind-a-seek",
    area="bus",
    breaks=("I1", "I4"),
    suites=("torture",),
    buses=("kafka",),
    needs="rebalances under load",
    fault="storm",
)
def stale_batch_behind_a_seek(patch: Patch) -> None:
    """Records that the client had fetched before a seek are handed out behind it. The slot goes on
    behind them, and what lies between is never received: its runs hang.
    """
    patch.edit(
        f"{KAFKA}.subscription:KafkaSubscription._admit",
        "        if self._moved.get(tp, self._changes) > fetched.changes:\n"
        "            continue  # sought or assigned anew since: its position is another one\n",
        "",
    )
    patch.edit(
        f"{KAFKA}.subscription:KafkaSubscription.seek",
        "        self._parked.pop(tp, None)\n",
        "",
    )


@bug(
    "sqlite-fencing-skipped",
    area="bus",
    breaks=("I6", "I2"),
    suites=("torture",),
    buses=("sqlite",),
    needs="zombies: processes that were stopped, and commit afterwards",
    fault="freeze",
)
def sqlite_fencing_skipped(patch: Patch) -> None:
    """A commit is fenced when the file's epoch is lower than the writer's, which never is, not when
    it is another. Old owners commit on.
    """
    patch.edit(
        f"{SQLITE}.append:append",
        "known.get(claim.epoch_counter, 0) != claim.epoch",
        "known.get(claim.epoch_counter, 0) < claim.epoch",
    )


@bug(
    "sqlite-epoch-reused",
    area="bus",
    breaks=("I6", "I2"),
    suites=("torture",),
    buses=("sqlite",),
    needs="zombies: processes that were stopped, and commit afterwards",
    fault="freeze",
)
def sqlite_epoch_reused(patch: Patch) -> None:
    """A writer that opens a slot takes the epoch that it finds, and raises it only where there is
    none. Two owners hold the same one, and neither is fenced.
    """
    patch.edit(
        f"{SQLITE}.writer:claim_slot",
        "epoch = transaction.counted(epoch_counter) + 1",
        "epoch = transaction.counted(epoch_counter) or 1",
    )


@bug(
    "sqlite-full-read-skips-the-rest",
    area="bus",
    breaks=("I1", "I11"),
    suites=("torture",),
    buses=("sqlite",),
    needs="a backlog of more than 500 records in one partition",
)
def sqlite_full_read_skips_the_rest(patch: Patch) -> None:
    """A read that brought as many records as it may goes on at the end that was seen before, not
    behind its last record: the rest of a backlog is passed over.
    """
    patch.edit(
        f"{SQLITE}.tail:_Place.take",
        "(len(rows) == limit or unread > READ_BYTES_MAX)",
        "(unread > READ_BYTES_MAX)",
    )


@bug(
    "sqlite-answer-before-its-commit",
    area="bus",
    breaks=("I1", "I4"),
    suites=("torture",),
    buses=("sqlite",),
    needs="kills inside commits, or a full disk",
    fault="disk-full",
)
def sqlite_answer_before_its_commit(patch: Patch) -> None:
    """Commits are answered as soon as their statements have gone through, before COMMIT: "it hardly
    ever fails". A kill or a full disk takes back what was acknowledged, and acted upon.
    """
    patch.edit(
        f"{SQLITE}.commit_thread:CommitThread._append_group",
        "        self.commit(db)\n",
        "        self._call_loop(self._deliver, ops, interests)\n        self.commit(db)\n",
    )
