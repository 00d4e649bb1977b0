"""Bugs of the coordinator: engine, service, projection. They show on every bus."""

from __future__ import annotations

from tests.planted.patching import Patch
from tests.planted.table import bug

ENGINE = "holdfast.coordinator.engine.run"
SERVICE = "holdfast.coordinator.service:CoordinatorMachine"
BATCH = "holdfast.coordinator.batch:Batch"
CHANGE = """\
    return Change(
        batch.records, lambda: self._apply(batch), lambda error: self._refused(batch, error)
    )
"""


# --- what is committed when ----------------------------------------------------------------------


@bug(
    "dispatch-before-the-commit",
    area="coordinator",
    breaks=("I5", "I7", "I2", "I4"),
    fault="kill-coordinator",
)
def dispatch_before_the_commit(patch: Patch) -> None:
    """Tasks are sent as soon as they are decided, beside the commit of the events that say so: "it
    saves the agents some milliseconds". A crash or a fence takes the decision back, and the task
    is at work all the same; decided again it is worked twice.
    """
    _send_early(patch, "'.tasks.' in record.topic")


@bug(
    "task-dead-letter-before-the-commit",
    area="coordinator",
    breaks=("I8", "I4"),
    fault="kill-coordinator",
)
def task_dead_letter_before_the_commit(patch: Patch) -> None:
    """The dead letter of a task is published beside the commit that ends the task. A crash in
    between writes it again: operators see, and replay, one failure twice.
    """
    _send_early(patch, "record.topic == self._context.topics.dead_letters")


def _send_early(patch: Patch, which: str) -> None:
    patch.edit(
        f"{SERVICE}._change",
        CHANGE,
        "    import asyncio\n\n"
        f"    early = [record for record in batch.records if {which}]\n"
        "    if early:\n"
        "        publishing = self._context.environment.bus.publish(early)\n"
        "        self._publishing = asyncio.ensure_future(publishing)\n"
        f"    batch.records = [record for record in batch.records if not ({which})]\n" + CHANGE,
    )


@bug("finished-run-kept-in-the-journal", area="coordinator", breaks=("I11", "I12", "I9"))
def finished_run_kept_in_the_journal(patch: Patch) -> None:
    """Records of a run that has ended leave memory, but no tombstones are journaled for them. The
    journal grows with each run that ever was, and a restart brings the dead back to life.
    """
    patch.edit(
        f"{BATCH}._journal_values",
        "if value is not None or (below is not None and name in below.records):",
        "if value is not None:",
    )


@bug("purge-of-unread-records", area="coordinator", breaks=("I1", "I9"), needs="minutes; a backlog")
def purge_of_unread_records(patch: Patch) -> None:
    """Topics are purged up to their ends, not up to what their groups have consumed. What an agent
    that is slow, or down, has not read yet is deleted; its slots stop loudly, its runs hang.
    """
    patch.edit(
        "holdfast.coordinator.housekeeping:Housekeeping._purge",
        "await self._bus.committed(self._topics.group(group), partitions)",
        "await self._bus.end_offsets(partitions)",
    )


@bug(
    "projection-positions-before-its-rows",
    area="coordinator",
    breaks=("I4",),
    suites=("torture",),
    needs="kills of the process that projects, and a comparison of its database with the events",
    fault="kill-projection",
)
def projection_positions_before_its_rows(patch: Patch) -> None:
    """The projection commits its positions, then its rows. A kill in between loses rows for good:
    a run that has failed shows as running for ever, and `why` looks for a cause.
    """
    projection = "holdfast.coordinator.projection.projection:Projection"
    patch.edit(
        f"{projection}._write",
        "    _write_batch(connection, batch)\n",
        "    self._unwritten = batch\n",
    )
    patch.edit(
        f"{projection}._apply",
        "    self._stored, self._doubtful = stored, False\n",
        "    await self._in_database(partial(_write_batch, batch=self._unwritten))\n"
        "    self._stored, self._doubtful = stored, False\n",
    )


# --- time ----------------------------------------------------------------------------------------


@bug(
    "timer-not-armed-again",
    area="coordinator",
    breaks=("I1", "I9"),
    needs="retries",
    fault="kill-coordinator",
)
def timer_not_armed_again(patch: Patch) -> None:
    """A slot that was restored does not arm the timers of its state. Retries, deadlines and graces
    that were waiting at a crash never come: the runs hang until the slot moves once more, and then
    too.
    """
    patch.edit(
        f"{SERVICE}._visit",
        "    for name, value in self._state.entity(entity).records.items():\n"
        '        self._timers.set(entity, name, getattr(value, "timer_ms", None))\n',
        "",
    )


@bug(
    "retry-timer-by-the-wall-clock",
    area="coordinator",
    breaks=("I9", "I1"),
    needs="retries or deadlines, and a wall clock that is set back by more than a minute",
    fault="clock",
)
def retry_timer_by_the_wall_clock(patch: Patch) -> None:
    """The alarm for the next timer is set by the slot's own time as if it were the wall clock's.
    While a jump backwards is held the two differ: retries come an hour late, or never.
    """
    patch.edit(f"{SERVICE}.due", "clock.wall_of(next_ms)", "next_ms")


@bug(
    "clock-jump-backwards-not-held",
    area="coordinator",
    breaks=("I9", "I1"),
    needs="retries or deadlines, and a wall clock that is set back by more than a minute",
    fault="clock",
)
def clock_jump_backwards_not_held(patch: Patch) -> None:
    """Only jumps forward are held against the monotonic clock: "backwards is caught by the maximum
    anyway". So after an operator sets the clock back by an hour, time stands still for an hour, and
    all timers with it.
    """
    patch.edit(
        "holdfast.coordinator.clock:SteadyClock.now_ms",
        "if abs(jump_ms) > HELD_JUMP_MS:",
        "if jump_ms > HELD_JUMP_MS:",
    )


@bug("backoff-draws-lots", area="coordinator", breaks=("I3",), needs="retries; I3 by replay")
def backoff_draws_lots(patch: Patch) -> None:
    """The jitter of a retry is drawn at random, as everywhere else. The engine is not pure any
    more: the same journal replays to other decisions, and nothing that it did can be proven.
    """
    patch.edit(
        f"{ENGINE}.retrying:backoff_ms",
        '    share = int.from_bytes(digest[:8], "big") / 2**64 * 2 - 1\n',
        "    import random\n\n    share = random.random() * 2 - 1\n",
    )


@bug(
    "sweep-in-the-order-of-a-dict",
    area="coordinator",
    breaks=("I3",),
    needs="runs that end badly with several open tasks, after a restart; I3 by replay",
)
def sweep_in_the_order_of_a_dict(patch: Patch) -> None:
    """Open tasks of a run that ends badly are cancelled in the order in which its state happens to
    hold them. A restored state has another order: a replay writes other records.
    """
    patch.edit(
        f"{ENGINE}.ending:_sweep",
        "for name in sorted(t.overlay.names()):",
        "for name in list(t.overlay.names()):",
    )


# --- the graph -----------------------------------------------------------------------------------


@bug(
    "old-attempt-accepted",
    area="coordinator",
    breaks=("I2",),
    needs="results of older attempts that are delivered again while a newer one is at work",
)
def old_attempt_accepted(patch: Patch) -> None:
    """Only results of attempts that were never sent are refused; the late result of an older
    attempt ends the newer one, which is at work, and whose effects nobody asks for any more.
    """
    patch.edit(
        f"{ENGINE}.results:_unwanted",
        "if entry.row.attempt != result.attempt:",
        "if entry.row.attempt < result.attempt:",
    )


@bug(
    "dependencies-counted-not-named",
    area="coordinator",
    breaks=("I7", "I1"),
    needs="diamonds whose branches differ in duration, best with a join that takes no data",
)
def dependencies_counted_not_named(patch: Patch) -> None:
    """A task starts when as many tasks have ended as it waits for, whichever they are. In a diamond
    the source counts for one of the branches: the join starts when the first branch has ended.
    """
    patch.edit(
        f"{ENGINE}.joins:_all",
        "        waits = waits or entry is None or entry.row.state not in TASK_ENDS\n",
        "    waits = t.count(TASK_ENDS) < len(node.dependencies)\n",
    )


@bug(
    "map-window-off-by-one",
    area="coordinator",
    breaks=("I7",),
    needs="maps, and a check of how many items are at work at once (no invariant of its own)",
)
def map_window_off_by_one(patch: Patch) -> None:
    """A map hands out one item more than its window holds. Whoever set `max_parallel=1` because the
    system behind takes one caller at a time has two.
    """
    patch.edit(
        f"{ENGINE}.maps:_fill_window",
        "t.count(_IN_FLIGHT, node.id) >= node.max_parallel",
        "t.count(_IN_FLIGHT, node.id) > node.max_parallel",
    )


@bug(
    "map-window-leaks",
    area="coordinator",
    breaks=("I1", "I9"),
    needs="maps that collect failures, with as many failed items as the window is wide",
)
def map_window_leaks(patch: Patch) -> None:
    """Items that failed for good go on counting for the map's window until their chunk is closed.
    Once as many have failed as the window is wide nothing is handed out any more.
    """
    patch.edit(
        f"{ENGINE}.maps:_fill_window",
        "t.count(_IN_FLIGHT, node.id)",
        "t.count((*_IN_FLIGHT, TaskState.FAILED), node.id)",
    )


@bug(
    "unfinished-work-not-taken-up",
    area="coordinator",
    breaks=("I1", "I9"),
    needs="events of more records than allowed (wide maps, small records_per_event), and crashes",
    fault="kill-coordinator",
)
def unfinished_work_not_taken_up(patch: Patch) -> None:
    """What one event could not hold is kept in memory as a continuation, and is not looked for
    after a restart: a wide map stops where the crash met it.
    """
    patch.edit(f"{SERVICE}._visit", "    self._continue(entity)\n", "")


# --- runs, keys, agents --------------------------------------------------------------------------


@bug("dedupe-marker-dropped", area="coordinator", breaks=("I10",), needs="late resubmissions")
def dedupe_marker_dropped(patch: Patch) -> None:
    """A run that has ended leaves no marker. Whoever submits it again, because an answer was lost,
    gets a second run: the refund is paid twice, under one run id.
    """
    patch.edit(
        f"{ENGINE}.ending:_finish",
        "    t.markers[closed_key(t.run_id)] = marker\n",
        "",
    )


@bug(
    "dedupe-marker-not-journaled",
    area="coordinator",
    breaks=("I11", "I10"),
    needs="restarts, and resubmissions behind them",
)
def dedupe_marker_not_journaled(patch: Patch) -> None:
    """Markers of ended runs are kept in memory alone. After a crash a repeated submission is a new
    run.
    """
    patch.edit(
        f"{BATCH}._journal_values",
        "    for name, marker in self.view.markers.items():\n"
        "        yield CLOSED_KIND, name, marker\n",
        "",
    )


@bug("order-key-dropped", area="coordinator", breaks=("I13",), needs="order keys; two partitions")
def order_key_dropped(patch: Patch) -> None:
    """Tasks are sent under their run's and their own id, whether they have an order key or not. Two
    tasks of one order key meet in different slots, and are worked at once.
    """
    patch.edit(
        f"{ENGINE}.transition:Transition.record_key",
        "    if row.order_key is not None:\n",
        "    if row.order_key == row.task_id:\n",
    )


@bug(
    "retry-under-another-key",
    area="coordinator",
    breaks=("I2", "I12", "I9", "I13"),
    needs="steps in tasks that fail and are retried; two partitions",
)
def retry_under_another_key(patch: Patch) -> None:
    """The record key of a task holds its attempt, "to spread the load of retries". The next attempt
    meets another slot, which has none of its steps: they run again; what the first slot holds of
    it is never released.
    """
    patch.edit(
        f"{ENGINE}.transition:Transition.record_key",
        'f"t:{self.run_id}/{row.task_id}"',
        'f"t:{self.run_id}/{row.task_id}/{row.attempt}"',
    )


@bug(
    "release-not-sent",
    area="coordinator",
    breaks=("I12", "I9"),
    needs="tasks that fail for good; with order keys it hangs what stands behind them",
)
def release_not_sent(patch: Patch) -> None:
    """An agent is not told that a task which failed for good is over. It keeps its steps for an
    attempt that never comes, for ever; and its order key stays closed.
    """
    patch.edit(f"{ENGINE}.failing:end_task", '    t.release(after.row, f"task {state}")\n', "")
