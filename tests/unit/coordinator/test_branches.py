"""Dependencies, conditions, skipped branches, and what a run answers."""

from __future__ import annotations

from holdfast.schemas.plan import Plan
from holdfast.schemas.records import TaskState
from tests.unit.coordinator.host import Host, given, resolved


def echo(envelope):
    return given(envelope)


def states(host: Host) -> dict[str, TaskState]:
    return {e.task.task_id: e.task.state for e in host.events if e.task}


def test_a_task_with_two_dependencies_starts_once_and_only_when_both_have_ended():
    plan = Plan("diamond")
    top = plan.task("top", "a.t")
    left = plan.task("left", "a.t", x=top["x"])
    right = plan.task("right", "a.t", x=top["x"])
    plan.task("bottom", "a.t", left=left["x"], right=right["x"])
    host = Host()
    host.submit(resolved(plan))
    host.work(lambda e: {"x": e.task_id})
    assert host.told().count("task.dispatched bottom") == 1
    told = host.told()
    assert told.index("task.dispatched bottom") > told.index("task.succeeded left")
    assert told.index("task.dispatched bottom") > told.index("task.succeeded right")
    bottom = next(e for _, e in host.sent if e.task_id == "bottom")
    assert given(bottom) == {"left": "left", "right": "right"}


def test_a_task_that_only_comes_after_another_takes_nothing_from_it():
    plan = Plan("after")
    one = plan.task("one", "a.t")
    plan.task("two", "a.t", after=[one])
    host = Host()
    host.submit(resolved(plan))
    assert [e.task_id for _, e in host.sent] == ["one"]
    host.work(echo)
    assert given(host.sent[-1][1]) == {}


def test_a_condition_that_does_not_hold_skips_the_task_and_what_only_depends_on_it():
    plan = Plan("skip")
    first = plan.task("first", "a.t", x=1)
    skipped = plan.task("maybe", "a.t", when=f"{first['x']} > `5`")
    plan.task("then", "a.t", after=[skipped])
    plan.task("last", "a.t", x=first["x"], y=skipped["x"])
    host = Host()
    host.submit(
        resolved(
            plan,
        )
    )
    host.work(echo)
    assert states(host)["maybe"] is TaskState.SKIPPED
    assert states(host)["then"] is TaskState.SKIPPED
    # One of its dependencies did run: it runs too, and sees null where the skipped one is.
    assert given(host.sent[-1][1]) == {"x": 1, "y": None}
    assert host.output() == {"then": None, "last": {"x": 1, "y": None}}


def test_a_condition_that_holds_lets_the_task_run():
    plan = Plan("when")
    plan.task("maybe", "a.t", when="input.go")
    host = Host()
    host.submit(resolved(plan), {"go": True})
    host.work(echo)
    assert states(host)["maybe"] is TaskState.SUCCEEDED


def test_a_run_of_which_everything_is_skipped_succeeds_with_nothing():
    plan = Plan("nothing")
    plan.task("maybe", "a.t", when="input.go")
    host = Host()
    host.submit(resolved(plan), {"go": False})
    assert host.output() is None
    assert not host.sent


def test_several_last_tasks_answer_by_their_ids():
    plan = Plan("two")
    plan.task("one", "a.t", x=1)
    plan.task("two", "a.t", x=2)
    host = Host()
    host.submit(resolved(plan))
    host.work(echo)
    assert host.output() == {"one": {"x": 1}, "two": {"x": 2}}


def test_a_plan_may_say_what_it_answers():
    plan = Plan("output", output={"sum": "placeholder"})
    plan.output = {"got": plan.input("a"), "made": Plan.item.__class__("tasks.one.x"), "is": "text"}
    plan.task("one", "a.t", x=plan.input("a"))
    host = Host()
    host.submit(resolved(plan), {"a": 7})
    host.work(echo)
    assert host.output() == {"got": 7, "made": 7, "is": "text"}


def test_an_output_that_cannot_be_made_fails_the_run_and_says_why():
    plan = Plan("output")
    plan.output = Plan.item.__class__("sum(tasks.one.x)")
    plan.task("one", "a.t", x="text")
    host = Host()
    host.submit(resolved(plan))
    host.work(echo)
    event = host.last_run()
    assert event.type == "run.failed"
    assert "output" in event.message
    assert "sum(tasks.one.x)" in event.message


def test_a_lone_task_gets_the_runs_input_and_gives_the_runs_output():
    host = Host()
    host.submit(resolved(Plan.of_task("greeter.greet")), {"name": "Ada"})
    host.work(lambda e: "Hello " + given(e)["name"])
    assert host.output() == "Hello Ada"


def test_a_fork_takes_results_over_and_works_only_the_rest():
    plan = Plan("fork")
    one = plan.task("one", "a.t", x=1)
    plan.task("two", "a.t", x=one["x"])
    host = Host()
    from holdfast.schemas.codec import encode_json

    host.submit(resolved(plan), reused={"one": encode_json({"x": 41})})
    host.work(echo)
    assert [e.task_id for _, e in host.sent] == ["two"]
    assert host.output() == {"x": 41}


def test_a_fork_that_names_a_task_the_plan_does_not_have_is_refused():
    plan = Plan("fork")
    plan.task("one", "a.t")
    host = Host()
    host.submit(resolved(plan), reused={"uno": None})
    assert host.told() == ["run.refused"]
    assert "'uno'" in host.events[-1].message


def test_a_wide_plan_is_started_by_several_events_of_bounded_size():
    plan = Plan("wide")
    for number in range(400):
        plan.task(f"t{number}", "a.t", x=number)
    host = Host()
    host.submit(resolved(plan))
    host.work(echo)
    assert len(host.output()) == 400
