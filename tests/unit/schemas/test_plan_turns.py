"""Lists that are still arriving, under order keys: what would stand still is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from holdfast.schemas import Plan, PlanError, check_plan

Write = Callable[[Plan], object]


def planned(write: Write, order_key: str | None = "${input.k}") -> Plan:
    plan = Plan("p", order_key=order_key)
    write(plan)
    return plan


def same_agent(plan: Plan) -> None:
    plan.map("read", "alpha.read", over=plan.task("find", "alpha.find").emitted)


def same_agent_by_their_own_keys(plan: Plan) -> None:
    find = plan.task("find", "alpha.find", order_key="${input.customer}")
    plan.map("read", "alpha.read", over=find.emitted, order_key="${input.customer}")


def needs_one_behind(plan: Plan) -> None:
    prepare = plan.task("prepare", "alpha.work", after=[plan.task("first", "beta.work")])
    plan.map("read", "beta.read", over=plan.task("find", "alpha.find").emitted, after=[prepare])


def needs_one_that_may_come_first(plan: Plan) -> None:
    plan.map(
        "read",
        "beta.read",
        over=plan.task("find", "alpha.find").emitted,
        after=[plan.task("prepare", "alpha.work")],
    )


def crossed(plan: Plan) -> None:
    plan.map("reads", "beta.read", over=plan.task("a", "alpha.find").emitted)
    plan.map("looks", "alpha.read", over=plan.task("b", "beta.find").emitted)


def begins_without_waiting_for_all(plan: Plan) -> None:
    late = plan.task("late", "alpha.work", after=[plan.task("first", "gamma.work")])
    find = plan.task("find", "alpha.find", after=[plan.task("x", "gamma.work"), late], join="any")
    plan.map("read", "beta.read", over=find.emitted, after=[late])


def by_way_of_a_third(plan: Plan) -> None:
    following = {"alpha": "beta", "beta": "gamma", "gamma": "alpha"}
    for name, other in following.items():
        found = plan.task(f"find-{name}", f"{name}.find")
        plan.map(f"map-{name}", f"{other}.read", over=found.emitted)


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (same_agent, "task 'read': its items would wait for 'find'"),
        (same_agent_by_their_own_keys, "task 'read': its items would wait for 'find'"),
        (needs_one_behind, "task 'prepare': it may wait for 'find'"),
        (needs_one_that_may_come_first, "task 'prepare': it may wait for 'find'"),
        (crossed, "task 'reads': it may wait for 'b'"),
        (begins_without_waiting_for_all, "task 'late': it may wait for 'find'"),
        (by_way_of_a_third, "task 'map-alpha': it may wait for 'find-beta'"),
    ],
)
def test_what_a_list_needs_does_not_stand_behind_the_task_that_hands_it_out(
    write: Write, told: str
) -> None:
    with pytest.raises(PlanError) as caught:
        check_plan(planned(write))
    assert told in str(caught.value)
    assert "under one order key; give one of them an order_key of its own" in str(caught.value)


def test_without_an_order_key_nobody_stands_behind_anybody() -> None:
    for write in (same_agent, needs_one_behind, crossed):
        check_plan(planned(write, None))


def ancestor(plan: Plan) -> None:
    prepare = plan.task("prepare", "alpha.work")
    find = plan.task("find", "alpha.find", after=[prepare])
    plan.map("read", "beta.read", over=find.emitted, after=[prepare])


def behind_the_map(plan: Plan) -> None:
    read = plan.map("read", "beta.read", over=plan.task("find", "alpha.find").emitted)
    later = plan.task("later", "alpha.find", after=[read])
    plan.map("look", "beta.read", over=later.emitted)


def needed_by_none(plan: Plan) -> None:
    plan.map("read", "beta.read", over=plan.task("find", "alpha.find").emitted)
    plan.task("note", "alpha.work")


def other_key(plan: Plan) -> None:
    find = plan.task("find", "alpha.find", order_key="${input.folder}")
    plan.map("read", "alpha.read", over=find.emitted)


def list_of_each_agent_for_itself(plan: Plan) -> None:
    for name in ("alpha", "beta"):
        found = plan.task(f"find-{name}", f"{name}.find")
        plan.map(f"read-{name}", "gamma.read", over=found.emitted)


def from_agent_to_agent(plan: Plan) -> None:
    for name, other in (("alpha", "beta"), ("beta", "gamma")):
        found = plan.task(f"find-{name}", f"{name}.find")
        plan.map(f"map-{name}", f"{other}.read", over=found.emitted)


@pytest.mark.parametrize(
    "write",
    [
        ancestor,
        behind_the_map,
        needed_by_none,
        other_key,
        list_of_each_agent_for_itself,
        from_agent_to_agent,
    ],
)
def test_what_goes_on_by_itself_is_not_refused(write: Write) -> None:
    check_plan(planned(write))


def test_a_map_does_not_wait_by_way_of_others_for_the_end_of_who_hands_out() -> None:
    plan = Plan("p")
    find = plan.task("find", "alpha.find")
    summary = plan.task("summary", "beta.work", after=[find])
    check = plan.task("check", "beta.work", after=[summary])
    plan.map("read", "gamma.read", over=find.emitted, after=[check])
    with pytest.raises(PlanError, match="task 'read': it begins when 'check' has ended") as caught:
        check_plan(plan)
    assert "after the end of 'find', which waits for room" in str(caught.value)


def test_two_maps_do_not_wait_for_the_end_of_each_others_lists() -> None:
    plan = Plan("p")
    a, b = plan.task("a", "alpha.find"), plan.task("b", "beta.find")
    plan.map("over-a", "gamma.read", over=a.emitted, after=[b])
    plan.map("over-b", "gamma.read", over=b.emitted, after=[a])
    with pytest.raises(PlanError, match="for that it may have to wait for 'a'") as caught:
        check_plan(plan)
    assert "let one of the maps over them begin without it" in str(caught.value)


def test_a_map_may_begin_when_another_list_is_complete() -> None:
    plan = Plan("p", order_key="k")
    a, b = plan.task("a", "alpha.find"), plan.task("b", "beta.find")
    plan.map("over-a", "gamma.read", over=a.emitted, after=[b])
    plan.map("over-b", "gamma.read", over=b.emitted)
    check_plan(plan)
