"""Maps over items that a handler hands out while it works."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.coordinator.engine import EngineLimits
from holdfast.schemas.codec import encode_json
from holdfast.schemas.plan import Expression, Plan
from holdfast.schemas.records import (
    EMIT_NAME,
    Ask,
    Command,
    CommandAction,
    ControlAction,
    CoordinatorEnvelope,
    EmitAsk,
    FailureKind,
    Outcome,
    TaskEnvelope,
)
from tests.unit.coordinator.host import Host, Raised, given, resolved
from tests.unit.coordinator.test_joins import ended

SMALL = EngineLimits(records_per_event=40, chunk_items=4, ahead_items=6)


def arriving(**settings: Any) -> str:
    plan = Plan("arriving")
    find = plan.task("find", "a.find")
    plan.map("m", "b.work", over=find.emitted, n=Plan.item, **settings)
    return resolved(plan)


class Emitter:
    """The handler of a task that hands out items, as its agent would act."""

    def __init__(self, host: Host, task_id: str = "find") -> None:
        self.host, self.task_id, self.first = host, task_id, 0
        index = next(i for i, (_, e) in enumerate(host.tasks) if e.task_id == task_id)
        host.tasks.rotate(-index)
        _, self.envelope = host.tasks.popleft()
        host.tasks.rotate(index)

    def emit(self, *items: Any) -> None:
        what = EmitAsk(self.first, len(items), encode_json(list(items)))
        ask = Ask(self.task_id, self.envelope.attempt, EMIT_NAME, str(self.first), what)
        self.first += len(items)
        envelope = CoordinatorEnvelope(self.envelope.run_id, self.host.now_ms, ask)
        self.host.deliver(envelope, self.envelope.reply_key)
        self.host.pump()

    def returns(self, output: Any = None) -> None:
        self.host.answer(self.envelope, output)
        self.host.pump()

    def answered(self) -> list[str]:
        """The keys of what was answered."""
        return [
            c.reply.key
            for _, c in self.host.controlled
            if c.action is ControlAction.REPLY and c.reply is not None
        ]


def work(envelope: TaskEnvelope) -> Any:
    return given(envelope)["n"] * 10


def started(plan: str | None = None, limits: EngineLimits = SMALL) -> tuple[Host, Emitter]:
    host = Host(limits)
    host.submit(plan or arriving())
    return host, Emitter(host)


def test_items_are_worked_while_more_arrive():
    host, find = started()
    find.emit(0, 1, 2)
    host.work(work)
    assert {e.task_id for _, e in host.sent} == {"find", "m.0", "m.1", "m.2"}
    find.emit(3)
    find.emit(4, 5)
    host.work(work)
    assert host.machine.state.entity("run/run-1").records
    find.returns()
    assert ended(host)[0] == "succeeded"
    assert host.output() == [0, 10, 20, 30, 40, 50]
    assert {key.partition("/")[0] for key in host.journal} == {"closed"}


def test_a_task_that_hands_out_nothing_makes_an_empty_list():
    host, find = started()
    find.returns({"found": 0})
    assert host.output() == []


def test_the_output_of_the_task_is_there_for_those_behind_the_map():
    plan = Plan("behind")
    find = plan.task("find", "a.find")
    works = plan.map("m", "b.work", over=find.emitted, n=Plan.item)
    plan.task("end", "c.end", all=works, found=find["found"])
    host, emitter = started(resolved(plan))
    emitter.emit(1, 2)
    host.work(work)
    emitter.returns({"found": 2})
    host.work(given)
    assert host.output() == {"all": [10, 20], "found": 2}


def test_who_is_far_ahead_waits_until_the_map_has_room():
    host, find = started(arriving(max_parallel=2))
    find.emit(*range(4))
    find.emit(*range(4, 8))
    assert find.answered() == ["0", "4"]
    find.emit(*range(8, 12))  # six wait to be begun
    assert find.answered() == ["0", "4"]
    assert host.told()[-1] == "task.asked"
    while find.answered() == ["0", "4"]:
        host.work_one(work)
        host.pump()
        host.restart()
    assert sum(e.task_id.startswith("m.") for _, e in host.sent) == 3
    find.returns()
    host.work(work)
    assert host.output() == [n * 10 for n in range(12)]


def test_not_too_many_are_handed_out_at_once():
    host, find = started()
    find.emit(*range(101))
    (reply,) = [c.reply for _, c in host.controlled if c.reply is not None]
    assert reply.failure is not None
    assert reply.failure.kind is FailureKind.TOO_LARGE


def test_what_a_long_list_holds_does_not_grow_with_it():
    host, find = started(arriving(max_parallel=5, reduce="b.fold"))
    most = 0
    for first in range(0, 400, 3):
        find.emit(*range(first, first + 3))
        most = max(most, sum(key.startswith("run/") for key in host.journal))
        host.work(lambda e: 0 if e.task == "fold" else work(e))
    find.returns()
    host.work(lambda e: 0 if e.task == "fold" else work(e))
    assert ended(host)[0] == "succeeded"
    assert most < 40


def test_one_failure_is_enough_where_none_is_allowed():
    def handler(envelope: TaskEnvelope) -> Any:
        raise Raised(retryable=False)

    host, find = started()
    find.emit(1)
    host.work_one(handler)
    host.pump()
    host.answer_cancels()
    find.returns()
    assert ended(host) == ("failed", "task 'm.0' failed: error raised")


def odd_fails(envelope: TaskEnvelope) -> Any:
    if given(envelope)["n"] % 2:
        raise Raised(retryable=False)
    return work(envelope)


def test_a_share_is_judged_when_the_list_is_closed():
    host, find = started(arriving(on_failure={"at_most": 0.3}))
    find.emit(1, 2)
    host.work(odd_fails)
    find.emit(4, 6)
    host.work(odd_fails)
    find.returns()
    assert host.output() == [20, 40, 60]


def test_a_share_that_was_not_met_in_the_end_fails_the_map():
    host, find = started(arriving(on_failure={"at_most": 0.3}))
    find.emit(1, 2)
    host.work(odd_fails)
    find.returns()
    assert ended(host) == ("failed", "1 of 2 items failed, at most 0 may")


def test_a_count_of_failures_is_judged_at_once():
    host, find = started(arriving(on_failure={"at_most": 1}))
    find.emit(1, 3)
    host.work_one(odd_fails)
    host.work_one(odd_fails)
    host.pump()
    assert "run.failing" in host.told()
    host.answer_cancels()
    host.pump()
    said = "2 of 2 items so far failed, at most 1 may; task 'm.1' failed: error raised"
    assert ended(host) == ("failed", said)


def test_who_collects_has_what_succeeded_and_why_the_others_did_not():
    host, find = started(arriving(on_failure="collect"))
    find.emit(1, 2, 3)
    host.work(odd_fails)
    find.returns()
    assert host.output() == [20]


def raising(envelope: TaskEnvelope) -> Any:
    raise Raised(retryable=False)


def test_the_map_fails_with_the_task_that_hands_out():
    host, find = started()
    find.emit(1)
    host.answer(find.envelope, outcome=Outcome.FAILED, failure=Raised(retryable=False).failure)
    host.pump()
    host.answer_cancels()
    host.work(work)
    assert ended(host) == ("failed", "task 'find' failed: error raised")


def test_a_race_goes_on_without_a_map_whose_items_do_not_come():
    plan = Plan("race")
    find = plan.task("find", "a.find")
    works = plan.map("m", "b.work", over=find.emitted, n=Plan.item)
    plan.task("end", "c.end", join="first-success", works=works, slow=plan.task("slow", "c.slow"))
    host, emitter = started(resolved(plan))
    emitter.emit(1, 2)
    host.answer(emitter.envelope, outcome=Outcome.FAILED, failure=Raised(retryable=False).failure)
    host.pump()
    failed = next(e for e in host.events if e.type == "task.failed" and e.task.task_id == "m")
    assert (
        failed.task.failure.message == "task 'find', over whose items it goes, failed: error raised"
    )
    host.work(lambda e: {"task": e.task_id})
    assert host.output() == {"task": "end"}


def test_the_next_attempt_finds_its_items_answered():
    host, find = started(arriving(max_parallel=1, retry={"attempts": 2}))
    find.emit(*range(8))
    find.emit(8, 9)  # seven wait to be begun
    host.answer(find.envelope, outcome=Outcome.FAILED, failure=Raised().failure)
    host.pump()
    host.pass_time(60_000)
    again = Emitter(host)
    assert again.envelope.attempt == 2
    assert again.answered() == ["0"]
    again.first = 10
    host.work(work)
    assert again.answered() == ["0", "8"]
    again.emit(10)
    again.returns()
    host.work(work)
    assert host.output() == [n * 10 for n in range(11)]


def test_items_are_handed_out_one_after_the_other():
    host, find = started()
    find.first = 5
    find.emit(1)
    (reply,) = [c.reply for _, c in host.controlled if c.reply is not None]
    assert reply.failure is not None
    assert "'find' has handed out 0 items, and these begin with number 5" in reply.failure.message


def two_maps(when: str | None = None) -> str:
    plan = Plan("two")
    find = plan.task("find", "a.find")
    aside = plan.task("aside", "c.aside")
    first = plan.map("m", "b.work", over=find.emitted, n=Plan.item)
    second = plan.map("k", "b.work", over=find.emitted, n=Plan.item, after=[aside], when=when)
    plan.task("end", "c.end", first=first, second=second)
    return resolved(plan)


def test_each_map_over_the_items_gets_all_of_them():
    host, find = started(two_maps())
    find.emit(1, 2)
    assert find.answered() == []  # the other map has not begun
    assert {e.task_id for _, e in host.sent} == {"find", "aside", "m.0", "m.1"}
    host.restart()
    host.work(lambda e: None if e.task == "aside" else work(e))
    assert find.answered() == ["0"]
    find.emit(3)
    find.returns()
    host.work(lambda e: given(e) if e.task == "end" else work(e))
    assert host.output() == {"first": [10, 20, 30], "second": [10, 20, 30]}


def test_nobody_waits_for_a_map_that_is_skipped():
    host, find = started(two_maps("`false`"))
    find.emit(1, 2)
    host.work(lambda e: None if e.task == "aside" else work(e))
    assert find.answered() == ["0"]
    find.emit(3)
    assert find.answered() == ["0", "2"]
    find.returns()
    host.work(lambda e: given(e) if e.task == "end" else work(e))
    assert host.output() == {"first": [10, 20, 30], "second": None}


def test_items_that_no_map_goes_over_are_passed_over():
    plan = Plan("lone")
    plan.task("find", "a.find")
    host, find = started(resolved(plan))
    find.emit(1, 2)
    assert find.answered() == ["0"]
    find.returns("done")
    assert host.output() == "done"


def test_a_pause_begins_nothing_and_loses_nothing():
    host, find = started()
    host.command(CommandAction.PAUSE)
    find.emit(1, 2)
    assert [e.task_id for _, e in host.sent] == ["find"]
    host.restart()
    host.command(CommandAction.RESUME)
    host.work(work)
    find.returns()
    assert host.output() == [10, 20]


def test_a_cancel_ends_all_of_it():
    host, find = started(arriving(max_parallel=1))
    find.emit(*range(8))
    find.emit(8)
    host.command(CommandAction.CANCEL)
    host.tasks.append(("", find.envelope))
    host.work(work)
    assert ended(host)[0] == "cancelled"
    assert {key.partition("/")[0] for key in host.journal} == {"closed"}


def test_a_task_that_has_handed_out_items_does_not_begin_anew():
    host, find = started()
    find.emit(1)
    event = host.command(CommandAction.RESTART, "find")
    assert event.type == "command.refused"
    assert "`holdfast run fork run-1 --from find`" in event.message


def test_where_no_map_goes_over_its_items_it_does():
    plan = Plan("lone")
    plan.task("find", "a.find")
    host, find = started(resolved(plan))
    find.emit(1, 2)
    assert host.command(CommandAction.RESTART, "find").type == "command.accepted"
    host.answer(find.envelope, outcome=Outcome.CANCELLED)
    host.pump()
    host.pass_time(1)
    again = Emitter(host)
    again.emit(7)
    assert again.answered() == ["0", "0"]
    again.returns("done")
    assert host.output() == "done"


def test_items_of_a_task_whose_output_was_taken_over_are_not_known():
    host = Host(SMALL)
    host.submit(arriving(), reused={"find": encode_json({"found": 3})})
    state, said = ended(host)
    assert state == "failed"
    assert "fork that run from 'find'" in said


@pytest.mark.parametrize("action", [CommandAction.SKIP, CommandAction.OVERRIDE])
def test_what_an_operator_says_of_the_task_closes_the_list(action):
    host, find = started()
    find.emit(1, 2)
    host.work(work)
    command = Command("c", action, "find", "{}", "ann", "enough", encode_json({"found": 2}))
    host.deliver(CoordinatorEnvelope("run-1", host.now_ms, command))
    host.pump()
    host.tasks.append(("", find.envelope))
    host.answer_cancels()
    host.pump()
    assert host.output() == [10, 20]


def test_an_input_that_cannot_be_made_fails_its_item_alone():
    host, find = started(arriving(on_failure="collect", order_key=Expression("item.key")))
    find.emit({"key": "a"}, {"key": ["no", "text"]}, {"key": None})
    host.work(lambda e: e.order_key)
    find.returns()
    assert host.output() == ["a", None]
    (failed,) = [e for e in host.events if e.type == "task.failed"]
    assert "its order key is a list" in failed.task.failure.message


def test_an_item_does_not_wait_for_the_task_that_hands_it_out():
    plan = Plan("behind", order_key=Expression("input.customer"))
    find = plan.task("find", "a.find")
    plan.map("m", "a.work", over=find.emitted, order_key="same", n=Plan.item)
    host = Host(SMALL)
    host.submit(resolved(plan), {"customer": "same"}, order_key="same")
    find = Emitter(host)
    find.emit(1)
    host.answer_cancels()
    find.returns()
    assert "under the one order key 'same'" in ended(host)[1]


def test_items_that_are_undone():
    plan = Plan("undone")
    find = plan.task("find", "a.find")
    plan.map("m", "b.work", over=find.emitted, n=Plan.item, compensate="b.undo")
    plan.task("end", "c.end", after=["m"])
    host, emitter = started(resolved(plan))
    emitter.emit(1, 2)
    host.work(work)
    emitter.returns()
    host.work(lambda e: raising(e) if e.task == "end" else None)
    assert [e.task_id for _, e in host.sent if e.task == "undo"] == ["!m.1", "!m.0"]
    assert ended(host)[0] == "failed"
