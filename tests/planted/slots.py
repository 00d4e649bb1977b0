"""Bugs of the slot: commit, ownership, journal. They show on every bus."""

from __future__ import annotations

from tests.planted.patching import Patch
from tests.planted.table import bug

COMMIT = "holdfast.bus.slot.commit:GroupCommit"
SLOT = "holdfast.bus.slot.slot:OwnedSlot"
ANOTHER_OWNER = """\
    if newest.process_id != self._identity.process_id:
        raise Fenced(
            f"slot {self._slot.group}/{self._slot.partition}: instance {newest.instance!r} "
            f"(process {newest.process_id}) has committed to it since"
        )
"""


@bug("offset-outside-the-commit", area="slot", breaks=("I4", "I2"))
def offset_outside_the_commit(patch: Patch) -> None:
    """The outputs are written in one commit, the slot's `offset` record and the consumed offsets in
    the next one: "the offsets are only book-keeping". A crash in between brings inputs again whose
    outputs are visible: a refund that was finished, and forgotten, is worked a second time.
    """
    patch.edit(
        f"{COMMIT}._send",
        "        await self._writer.commit(records, consumed)\n",
        "        *outputs, mark = records\n"
        "        if outputs:\n"
        "            await self._writer.commit(outputs, {})\n"
        "        await self._writer.commit([mark], consumed)\n",
    )


@bug(
    "dead-writer-simply-reopened",
    area="slot",
    breaks=("I6", "I2"),
    needs="rebalances or stray openers while commits are under way",
    fault="storm",
)
def dead_writer_simply_reopened(patch: Patch) -> None:
    """Fencing skipped: a fenced writer is taken for a broken connection and opened again, without
    asking the group, and without looking whether somebody else has committed since. So the old
    owner takes the slot back with a state that lacks what the new one did, and commits over it.
    """
    patch.edit(
        f"{COMMIT}.write",
        "except (OutcomeUnknown, BusUnavailable) as error:",
        "except (Fenced, OutcomeUnknown, BusUnavailable) as error:",
    )
    patch.edit(f"{COMMIT}._settled", ANOTHER_OWNER, "")
    patch.edit(
        f"{COMMIT}._settled",
        "    await self._membership.confirmed_since(self._slot, failed_at)\n",
        "",
    )
    patch.edit(f"{COMMIT}.patiently", "        self._require_ownership()\n", "")
    patch.edit(f"{COMMIT}.open", "    self._require_ownership()\n", "")


@bug(
    "settling-ignores-other-owners",
    area="slot",
    breaks=("I6", "I2", "I11"),
    needs="a lost answer and a takeover at once",
)
def settling_ignores_other_owners(patch: Patch) -> None:
    """After a lost answer only the commit number is compared, not who wrote it. Where another
    process has owned the slot meanwhile, its commit of the same number counts as ours (our outputs
    are lost), or ours is written on top of what it did.
    """
    patch.edit(f"{COMMIT}._settled", ANOTHER_OWNER, "")


@bug("unknown-outcome-taken-as-committed", area="slot", breaks=("I1", "I4", "I11"))
def unknown_outcome_taken_as_committed(patch: Patch) -> None:
    """After a lost answer any `offset` record of our own counts as the commit's, also the one
    before it. What never was committed is applied: results that nobody ever gets, inputs whose
    offsets pass with the next commit. Runs hang until somebody looks.
    """
    patch.edit(
        f"{COMMIT}._settled",
        "return newest.commit_number == number",
        "return newest.commit_number <= number",
    )


@bug("unknown-outcome-taken-as-not-committed", area="slot", breaks=("I2", "I4", "I6", "I3"))
def unknown_outcome_taken_as_not_committed(patch: Patch) -> None:
    """After a lost answer the group is committed again, whatever the journal says: "at least once
    is safe". Where the commit had happened everything in it is there twice: events, results,
    dispatches, dead letters.
    """
    patch.edit(
        f"{COMMIT}.write",
        "        if await self._settled(number):\n            break\n",
        "        await self._settled(number)\n",
    )


@bug("journal-floor-too-high", area="slot", breaks=("I2", "I4", "I3"))
def journal_floor_too_high(patch: Patch) -> None:
    """The floor from which the journal is read after a lost answer rises by all records of a
    commit, not by those that went to the journal. So it lies behind the journal's end, nothing is
    found there, and a commit that had happened is written again.
    """
    patch.edit(
        f"{COMMIT}.write",
        "written = sum(1 for record in records if record.topic == self._journal.topic)",
        "written = len(records)",
    )


@bug(
    "commit-applied-before-durable",
    area="slot",
    breaks=("I5", "I7", "I13", "I2"),
    needs="steps or effects; evidence that knows how many commits stood at a body's start",
    fault="kill-agent",
)
def commit_applied_before_durable(patch: Patch) -> None:
    """Changes are applied when the commit starts, not when it is acknowledged, "to save a round
    trip". A handler goes on with a step, or calls the outside world, on the strength of a record
    that a crash or a fence then takes back.
    """
    patch.edit(
        f"{COMMIT}.write",
        "    moved = offsets",
        "    for change in changes:\n        change.apply()\n    moved = offsets",
    )
    patch.edit(
        f"{COMMIT}.write",
        "    for change in changes:\n        change.apply()\n    self._unsettled = False\n",
        "    self._unsettled = False\n",
    )


@bug(
    "unclean-mark-omitted",
    area="slot",
    breaks=("I8", "I9"),
    needs="poison that kills",
    fault="poison",
)
def unclean_mark_omitted(patch: Patch) -> None:
    """Each commit says that the slot was left clean, since a writer that closes well is the normal
    case. Whoever opens it after a crash counts no resume: a task that kills its process kills the
    next one, and the next, for ever, and never reaches the dead letters.
    """
    patch.edit(f"{COMMIT}.write", "clean=clean", "clean=True")


@bug(
    "unclean-mark-late",
    area="slot",
    breaks=("I8", "I9"),
    needs="poison that kills at once, as the first task of a fresh or clean slot",
    fault="poison",
)
def unclean_mark_late(patch: Patch) -> None:
    """The slot is not marked before it starts to work: "the first commit will say it". What kills
    before the first commit is never noticed, in process after process.
    """
    patch.edit(
        f"{SLOT}._mark",
        "        await self._commits.write(Commit(()))\n",
        "",
    )


@bug(
    "journal-read-before-fencing",
    area="slot",
    breaks=("I2", "I11", "I6"),
    needs="takeovers while the old owner still commits",
    fault="freeze",
)
def journal_read_before_fencing(patch: Patch) -> None:
    """The journal is read first and the writer opened afterwards, "so that the old owner can work
    as long as possible". What it commits in between is never read: its finished tasks are worked
    again, its runs go back in time.
    """
    patch.edit(
        f"{SLOT}._open",
        "    await self._commits.open()\n    machine = ",
        "    machine = ",
    )
    patch.edit(
        f"{SLOT}._open",
        "        self._commits.resume_from(",
        "        await self._commits.open()\n        self._commits.resume_from(",
    )


@bug("restore-stops-one-record-early", area="slot", breaks=("I11", "I3", "I2", "I8"))
def restore_stops_one_record_early(patch: Patch) -> None:
    """The high watermark is taken for the offset of the last record, so the newest record of the
    journal is never restored: the slot takes itself for one commit younger than it is, and forgets
    that it was left unclean. (On Kafka the last offset is a marker: there it hides.)
    """
    patch.edit(f"{SLOT}._restore", "read(*partition, 0, end)", "read(*partition, 0, end - 1)")


@bug(
    "restore-stops-at-the-first-gap",
    area="slot",
    breaks=("I11", "I1", "I2"),
    needs="a journal that was compacted, or of more than one batch",
)
def restore_stops_at_the_first_gap(patch: Patch) -> None:
    """The journal is read until a batch does not begin where the one before ended: "then the end is
    reached". Compaction and markers leave gaps; behind the first one everything is forgotten.
    """
    patch.edit(
        f"{SLOT}._restore",
        "        count += len(batch)\n",
        "        if count and batch[0].offset > batch_end:\n            break\n"
        "        batch_end = batch[-1].offset + 1\n        count += len(batch)\n",
    )


@bug(
    "seek-forgotten-when-assigned-again",
    area="slot",
    breaks=("I9", "I1"),
    needs="rebalances",
    fault="storm",
)
def seek_forgotten_when_assigned_again(patch: Patch) -> None:
    """A slot that a rebalance gave back is resumed where the client stands, without a seek. But a
    new assignment has no position: the slot gets nothing any more, while its heartbeats look well.
    """
    patch.edit(
        "holdfast.bus.slot.ownership:Ownership._reconcile",
        "        if number in self._assigned:\n            slot.keep()\n        else:\n",
        "        if number not in self._assigned:\n",
    )


@bug(
    "ownership-not-proven-before-a-body",
    area="slot",
    breaks=("I2", "I6"),
    needs="a member that is cut off, for longer than its session, while handlers run",
    fault="freeze",
)
def ownership_not_proven_before_a_body(patch: Patch) -> None:
    """A step's body starts without a look at how old the last acknowledged commit is. A process
    that was cut off from the bus starts bodies of a task that another member has long taken over,
    and finished.
    """
    patch.edit(
        f"{SLOT}._half_a_session_ago",
        "    return self._environment.monotonic() - self._membership.session_timeout_s / 2\n",
        "    return float('-inf')\n",
    )


@bug("misplaced-record-dropped", area="slot", breaks=("I1",), needs="records in a wrong partition")
def misplaced_record_dropped(patch: Patch) -> None:
    """A record that stands in a partition which is not its key's is passed, and its forward is not
    put into the commit. A submission, task or result of a producer that hashes keys in another way
    is gone without a trace.
    """
    patch.edit(
        "holdfast.agents.machine:AgentMachine.receive",
        "            self._ledger.post(first_that_fits([[forward]]))\n",
        "",
    )
    patch.edit(
        "holdfast.coordinator.service:CoordinatorMachine._pending",
        "return Pending(OWN_LANE, None, offset, (forwarded,))",
        "return Pending(OWN_LANE, None, offset, ())",
    )
