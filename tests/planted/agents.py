"""Bugs of the agents' runtime: ledger, steps, effects, poison, order. They show on every bus."""

from __future__ import annotations

from tests.planted.patching import Patch
from tests.planted.table import bug

LEDGER = "holdfast.agents.ledger.ledger:Ledger"
NEXT_COMMIT = "holdfast.agents.ledger.next_commit:NextCommit"
CLOSING = "holdfast.agents.ledger.closing:Closing"
RESTORING = "holdfast.agents.ledger.restoring"
MACHINE = "holdfast.agents.machine:AgentMachine"
EXECUTION = "holdfast.agents.execution:Execution"
STEPS = "holdfast.agents.steps"
READING = "holdfast.agents.reading:Reading"
BURYING = """\
    choices = [
        [self._records.dead_letter(received, failure, now_ms, kept), *answers] for kept in Kept
    ]
    self._ledger.post(first_that_fits(choices))
"""


# --- what is accepted, kept and forgotten --------------------------------------------------------


@bug("earlier-open-records-not-accepted", area="agent", breaks=("I2", "I4"))
def earlier_open_records_not_accepted(patch: Patch) -> None:
    """A commit closes tasks without accepting the records before them that are still open: "the
    offset waits for them anyway". It does, so a crash brings back all that was closed and
    forgotten behind the slowest task, and it is worked again.
    """
    patch.edit(f"{NEXT_COMMIT}.collect", "    drafts += self._accept_before(horizon, now_ms)\n", "")


@bug("earlier-open-records-passed", area="agent", breaks=("I1", "I4", "I9"))
def earlier_open_records_passed(patch: Patch) -> None:
    """The offset moves past earlier records that are still open, and their acceptance is left to
    the 20 ms timer. A crash before that loses tasks which stand neither in the journal nor behind
    the offset: their runs hang.
    """
    patch.edit(
        f"{NEXT_COMMIT}._accept_before",
        "        self.want(entry, rewrite=True)\n"
        "        self._inbox.finish(entry)\n"
        "        del self._wanting[entry]\n"
        "        drafts.append(self._closing.keep(entry, now_ms))\n",
        "        self._inbox.finish(entry)\n",
    )


@bug("finished-task-kept-in-the-journal", area="agent", breaks=("I2", "I12"))
def finished_task_kept_in_the_journal(patch: Patch) -> None:
    """Success tombstones a task's steps and forgets its `<task>` record. It is restored as open by
    the next owner of the slot, and worked once more, its steps too, long after its result counted.
    """
    patch.edit(
        f"{CLOSING}.close",
        "writes, rest = _split(tombstones(entry))",
        "writes, rest = _split(tombstones(entry)[entry.journaled :])",
    )


@bug("step-tombstones-forgotten", area="agent", breaks=("I12", "I9"), needs="steps")
def step_tombstones_forgotten(patch: Patch) -> None:
    """Success tombstones `<task>` but not its steps. Nothing is worked twice; the journal, and the
    time to restore it, grow with each step that ever was, until the slot moves.
    """
    patch.edit(
        "holdfast.agents.ledger.drafts:tombstones",
        "    found += [(step_key(entry.name, name, key), None) for name, key in entry.steps]\n",
        "",
    )


@bug("release-ignored", area="agent", breaks=("I12", "I9", "I13"), needs="tasks that fail for good")
def release_ignored(patch: Patch) -> None:
    """A release of the newest attempt is taken for an old one. Failed tasks stay in the journal for
    ever; and if one had an order key, that key stays closed: nothing behind it is ever worked.
    """
    patch.edit(
        f"{LEDGER}.release",
        "entry.attempt > control.attempt",
        "entry.attempt >= control.attempt",
    )


@bug(
    "cancel-before-its-task-lost",
    area="agent",
    breaks=("I9", "I2"),
    needs="cancels that overtake their tasks",
)
def cancel_before_its_task_lost(patch: Patch) -> None:
    """A cancel for a task that was not read yet is dropped: "there is nothing to cancel". It is
    never answered, so the run waits out its grace; and the task starts afterwards, in a run that
    is closed.
    """
    patch.edit(
        f"{LEDGER}.cancel",
        "    if entry is None or entry.attempt < control.attempt:",
        "    if entry is not None and entry.attempt < control.attempt:",
    )


@bug("result-without-its-reply-key", area="agent", breaks=("I1", "I9"), needs="plans' order keys")
def result_without_its_reply_key(patch: Patch) -> None:
    """Key dropped: results are sent under the run's id, not under the key that the coordinator
    asked for. It is the same, but for runs whose plan has an order key: their results arrive in
    another slot, which knows no such run, and ignores them.
    """
    patch.edit(
        "holdfast.agents.wire:RecordMaker.answer",
        "self._topics.coordinator, answer.reply_key.encode(), value",
        "self._topics.coordinator, answer.run_id.encode(), value",
    )


@bug(
    "publication-outside-the-commit",
    area="agent",
    breaks=("I4",),
    needs="ctx.publish",
    fault="kill-agent",
)
def publication_outside_the_commit(patch: Patch) -> None:
    """What a handler publishes is sent when it returns, not in the commit of its result. A crash in
    between sends it twice; a refused result leaves it sent although the task failed.
    """
    patch.edit(
        f"{EXECUTION}._run",
        "    ending.published = [publication.record() for publication in self._publications]\n",
        "    records = [publication.record() for publication in self._publications]\n"
        "    if records:\n"
        "        await self._tools.environment.bus.publish(records)\n",
    )


@bug(
    "undecodable-record-skipped",
    area="agent",
    breaks=("I8",),
    needs="mutated bytes in task topics",
    fault="mutated-records",
)
def undecodable_record_skipped(patch: Patch) -> None:
    """A record that cannot be read is logged, answered and passed, but not kept. Nobody can ever
    tell what it was, let alone mend and replay it.
    """
    patch.edit(f"{READING}._bury", BURYING, "    self._ledger.post(first_that_fits([answers]))\n")


@bug(
    "dead-letter-before-the-commit",
    area="agent",
    breaks=("I8", "I4"),
    needs="mutated bytes in task topics",
)
def dead_letter_before_the_commit(patch: Patch) -> None:
    """The dead letter of an undecodable record is published at once, and the offset moves with a
    later commit. A crash in between buries the record a second time, and operators replay it twice.
    """
    patch.edit(
        f"{MACHINE}.__init__",
        "    self._expire_at_ms = 0\n",
        "    self._expire_at_ms = 0\n"
        "    self._reading._bus, self._reading._wake = self._environment.bus, control.wake\n",
    )
    patch.edit(
        f"{READING}._bury",
        BURYING,
        "    import asyncio\n"
        "    letter = self._records.dead_letter(received, failure, now_ms)\n"
        "    answer = first_that_fits([answers])\n"
        "    self._burying = asyncio.ensure_future(self._bus.publish([letter]))\n"
        "    self._burying.add_done_callback(lambda _: self._ledger.post(answer))\n"
        "    self._burying.add_done_callback(lambda _: self._wake())\n",
    )


# --- steps and effects ---------------------------------------------------------------------------


@bug(
    "step-returned-before-its-commit",
    area="agent",
    breaks=("I2", "I5"),
    needs="steps",
    fault="kill-agent",
)
def step_returned_before_its_commit(patch: Patch) -> None:
    """Journal after the effect: a step's result is handed back while its journal record is still
    under way. The handler goes on, and may end before its step is journaled: what the summary calls
    a step stands in no journal, and a crash runs bodies again whose results were acted upon.
    """
    patch.edit(
        f"{STEPS}:Steps.commit",
        "        await self._journal.write(begun.name, begun.key, entry)\n",
        "        write = self._journal.write(begun.name, begun.key, entry)\n",
    )
    patch.edit(
        f"{STEPS}:Steps.commit",
        "        await self._journal.ask("
        "begun.name, begun.key, entry, UndoAsk(*begun.undo, packed))\n",
        "        undo = UndoAsk(*begun.undo, packed)\n"
        "        write = self._journal.ask(begun.name, begun.key, entry, undo)\n"
        "    written = asyncio.ensure_future(write)\n"
        "    written.add_done_callback(lambda done: done.cancelled() or done.exception())\n",
    )


@bug(
    "effect-intended-after-the-call",
    area="agent",
    breaks=("I2",),
    needs="effects that are not idempotent, and crashes inside them",
    fault="kill-agent",
)
def effect_intended_after_the_call(patch: Patch) -> None:
    """The intent of an effect is journaled with its result, after the call, which saves a commit. A
    crash inside the call leaves no trace of it, so an effect that is neither idempotent nor can be
    reconciled is called again, blindly, where the task should have been parked.
    """
    patch.edit(
        f"{EXECUTION}.effect",
        "    if found is None:\n        yield self._steps.intend(begun)\n",
        "    if found is None:\n        pass\n",
    )


@bug(
    "effect-key-per-execution",
    area="agent",
    breaks=("I2",),
    needs="effects, an outside ledger by key, and crashes inside them",
    fault="kill-agent",
)
def effect_key_per_execution(patch: Patch) -> None:
    """The idempotency key is made from the execution's start too, "to be unique". A resumed effect
    calls the outside world with another key than the first time: the refund is paid twice.
    """
    patch.edit(
        f"{EXECUTION}.effect",
        "idempotency_key(self._envelope, begun)}",
        'f"{idempotency_key(self._envelope, begun)[:48]}{self._started_ms:016x}"}',
    )


@bug(
    "effect-key-per-attempt",
    area="agent",
    breaks=("I2",),
    needs="effects found open by a later attempt (time-outs or cancels inside a call)",
)
def effect_key_per_attempt(patch: Patch) -> None:
    """The idempotency key holds the attempt. An effect that was begun in attempt 1 and is found
    open by attempt 2 is called with a new key, and done twice.
    """
    patch.edit(
        f"{STEPS}:idempotency_key",
        "(envelope.origin, envelope.task_id, begun.name, begun.key)",
        "(envelope.origin, envelope.task_id, str(envelope.attempt), begun.name, begun.key)",
    )


@bug(
    "replayed-step-runs-again",
    area="agent",
    breaks=("I2",),
    needs="steps in tasks that fail and are retried",
)
def replayed_step_runs_again(patch: Patch) -> None:
    """A journaled step is replayed for the same attempt only: steps are taken to belong to the
    attempt, not to the task. Each retry runs all bodies again.
    """
    patch.edit(
        f"{EXECUTION}.step",
        "    if begun.found is not None:",
        "    if begun.found is not None and begun.found.attempt == self._envelope.attempt:",
    )


@bug(
    "steps-of-older-attempts-not-restored",
    area="agent",
    breaks=("I2",),
    needs="steps, retries, and crashes between or inside later attempts",
)
def steps_of_older_attempts_not_restored(patch: Patch) -> None:
    """Only steps of the newest attempt are restored from the journal. A crash after a retry has
    begun makes the steps of the attempts before run once more.
    """
    patch.edit(
        f"{RESTORING}:Restored.settle",
        "            owner.steps[body.name, body.key] = body\n",
        "            if body.attempt == owner.attempt:\n"
        "                owner.steps[body.name, body.key] = body\n",
    )


@bug(
    "step-matched-by-position",
    area="agent",
    breaks=("I2", "I1"),
    needs="steps of one task at once (gather), of different durations, and crashes between them",
)
def step_matched_by_position(patch: Patch) -> None:
    """The n-th step that is asked for gets the n-th result in the journal, as in systems that
    replay by history. Steps that ran beside each other were journaled in the order of their ends:
    the handler gets another step's result, or its task is parked for a mismatch that is none.
    """
    patch.edit(
        f"{STEPS}:Steps._note",
        "    found = self._journal.find(name, key)\n",
        "    journaled = list(self._journal.all())\n"
        "    place = len(self._asked) - 1\n"
        "    found = journaled[place] if place < len(journaled) else None\n",
    )


# --- what kills ----------------------------------------------------------------------------------


@bug(
    "resumes-not-counted",
    area="agent",
    breaks=("I8", "I9"),
    needs="poison that kills",
    fault="poison",
)
def resumes_not_counted(patch: Patch) -> None:
    """Resumes since the last step are not counted after an unclean end. A task that kills its
    process is never suspected: it runs beside innocents and kills them for ever.
    """
    patch.edit(f"{LEDGER}._count_resume", "    entry.resumes_since_step += 1\n", "")


@bug(
    "strikes-not-counted",
    area="agent",
    breaks=("I8", "I9"),
    needs="poison that kills",
    fault="poison",
)
def strikes_not_counted(patch: Patch) -> None:
    """That a task ran alone when its process died is forgotten before its strike is counted. It is
    kept away from others, and killed with its process again and again, but never buried.
    """
    patch.edit(
        f"{LEDGER}._count_resume",
        "    entry.strikes += entry.alone\n    entry.alone = False\n",
        "    entry.alone = False\n    entry.strikes += entry.alone\n",
    )


@bug(
    "strikes-for-innocents",
    area="agent",
    breaks=("I8", "I1"),
    needs="three crashes of one task",
    fault="poison",
)
def strikes_for_innocents(patch: Patch) -> None:
    """Each death of its process is a strike, whether the task ran alone or not. Three crashes, or
    three kills by a neighbour, and a long task of somebody else is buried as poison.
    """
    patch.edit(
        f"{LEDGER}._count_resume", "    entry.strikes += entry.alone\n", "    entry.strikes += 1\n"
    )


@bug(
    "suspicion-never-lifted",
    area="agent",
    breaks=("I8", "I1"),
    needs="steps and many crashes",
    fault="poison",
)
def suspicion_never_lifted(patch: Patch) -> None:
    """A step does not end the count of resumes, nor that its task runs alone. So a long task that
    comes forward between crashes is suspected for ever, and collects strikes for deaths that others
    caused, until it is buried.
    """
    patch.edit(
        f"{CLOSING}._steps_written",
        "            entry.resumes_since_step, entry.alone = 0, False\n",
        "",
    )
    patch.edit(
        f"{RESTORING}:Restored.settle",
        "                owner.resumes_since_step, owner.alone = 0, False\n",
        "                pass\n",
    )


@bug(
    "started-before-its-resume-is-counted",
    area="agent",
    breaks=("I8", "I9"),
    needs="poison that kills at once",
    fault="poison",
)
def started_before_its_resume_is_counted(patch: Patch) -> None:
    """Restored tasks start while the commit that counts their resumes is still under way: they are
    accepted already. What kills at once kills before it was counted, for ever.
    """
    patch.edit(
        f"{LEDGER}._starting",
        "        if entry.phase is Phase.WAITING and entry.written != entry.wanted:\n"
        "            return False\n",
        "",
    )
    patch.edit(
        f"{LEDGER}.start",
        "    elif at_s < self._probation_until and not (\n"
        "        entry.accepted and entry.written == entry.wanted\n"
        "    ):\n",
        "    elif at_s < self._probation_until and not entry.accepted:\n",
    )


# --- order ---------------------------------------------------------------------------------------


@bug("order-key-opened-too-early", area="agent", breaks=("I13",), needs="order keys and retries")
def order_key_opened_too_early(patch: Patch) -> None:
    """A failed attempt lets the next task of its order key come, whatever the plan says of it: the
    debit is worked while the credit before it waits for its retry.
    """
    patch.edit(
        f"{CLOSING}._failed", "    if not strict:\n", "    if entry.order_key is not None:\n"
    )


@bug("order-key-opened-too-late", area="agent", breaks=("I9", "I1"), needs="order keys")
def order_key_opened_too_late(patch: Patch) -> None:
    """The next task of an order key is lined up before the one that ended was taken out of the
    queue: it is not first yet, so it is not lined up, and nobody looks again until a restart.
    """
    patch.edit(
        "holdfast.agents.ledger.book:Book.pass_order",
        "    following = self.order.remove(entry)\n"
        "    if entry.order_key is not None:\n"
        "        self.passed(entry.order_key)\n"
        "    if following is not None:\n"
        "        self.consider(following)\n",
        "    for following in self._entries.values():\n"
        "        if entry.order_key and following.order_key == entry.order_key:\n"
        "            self.consider(following)\n"
        "    self.order.remove(entry)\n"
        "    if entry.order_key is not None:\n"
        "        self.passed(entry.order_key)\n",
    )


@bug(
    "order-lost-on-restore",
    area="agent",
    breaks=("I13",),
    needs="order keys, retries, and crashes while a task waits for its retry",
)
def order_lost_on_restore(patch: Patch) -> None:
    """A task that waits for its next attempt is restored without its order key: "only open tasks
    hold one". After a crash those behind it pass.
    """
    patch.edit(
        f"{RESTORING}:_entry", "body.order_key, body.order_offset", "None, body.order_offset"
    )


@bug(
    "control-paused-with-its-tasks",
    area="agent",
    breaks=("I9",),
    needs="more than 500 open tasks in one slot, some of them to be cancelled or released",
)
def control_paused_with_its_tasks(patch: Patch) -> None:
    """A slot that is full pauses both of its topics, so control records are read after the tasks
    that they are about. A release that would make room waits behind the backlog that it would
    clear.
    """
    patch.edit(
        f"{MACHINE}.congested",
        "frozenset((self._setup.topics.tasks,)) if full",
        "frozenset((self._setup.topics.tasks, self._setup.topics.control)) if full",
    )
