"""A source, its agents and a coordinator, crashed at every moment: one run for each record."""

from __future__ import annotations

from pydantic import BaseModel

from holdfast.agents import Agent, Context
from holdfast.schemas import Plan
from holdfast.schemas.records import DeadLetterReason, RunState
from holdfast.sources import Source, Submit, Topic, TopicRecord, source
from holdfast.testing import Simulation, crashes_in

TOPIC = "orders.v1"


class Order(BaseModel):
    number: str
    paid: bool = True


class Packed(BaseModel):
    number: str


def packing() -> Agent:
    packer = Agent("packer")

    @packer.task
    async def pack(ctx: Context, order: Order) -> Packed:
        if order.number == "broken":
            raise ValueError("it is broken")
        return Packed(number=order.number)

    return packer


def fulfil(**settings: object) -> Plan:
    plan = Plan("fulfil", **settings)  # type: ignore[arg-type]
    plan.task("pack", "packer.pack", number=plan.input("number"))
    return plan


def orders(*, max_open: int = 1_000) -> Source[Order]:
    return Source(
        "orders",
        topic=Topic(TOPIC, Order),
        plan=fulfil(),
        where=lambda record: record.value.paid,
        max_open=max_open,
    )


def open_runs(simulation: Simulation) -> int:
    from holdfast.schemas.records import SourceJournal

    entries = simulation._deployment.history().journal("source-orders")[0]
    counts = [e.body.open_runs for e in entries if isinstance(e.body, SourceJournal)]
    return counts[-1] if counts else 0


def result(simulation: Simulation, run_id: str) -> object:
    """Wait for a run that its source may start much later."""
    simulation.until(lambda: run_id in simulation.run_ids(), what=f"{run_id} was not started")
    return simulation.run(run_id).result()


def test_a_run_for_each_record_and_none_for_those_passed_over() -> None:
    with Simulation([packing()], sources=[orders()]) as simulation:
        simulation.publish(TOPIC, Order(number="a"))
        simulation.publish(TOPIC, Order(number="b", paid=False))
        simulation.publish(TOPIC, None)
        simulation.publish(TOPIC, {"number": "c"}, key="k")
        assert result(simulation, "orders-0-0") == {"number": "a"}
        assert result(simulation, "orders-0-3") == {"number": "c"}
        assert simulation.run_ids() == ["orders-0-0", "orders-0-3"]
        assert simulation.violations() == []
        assert open_runs(simulation) == 0


def test_what_cannot_be_started_is_kept_whole_and_its_neighbours_pass() -> None:
    with Simulation([packing()], sources=[orders()]) as simulation:
        simulation.publish(TOPIC, b"no json at all", headers=(("h", b"1"),))
        simulation.publish(TOPIC, {"nummer": "a"})
        simulation.publish(TOPIC, {"number": "b"})
        assert result(simulation, "orders-0-2") == {"number": "b"}
        assert simulation.violations() == []
        letters = [each.body for each in simulation._deployment.history().dead_letters]
    assert [letter.reason for letter in letters] == [
        DeadLetterReason.UNDECODABLE,
        DeadLetterReason.SCHEMA,
    ]
    kept = letters[0].source
    assert kept is not None
    assert (kept.topic, kept.partition, kept.offset) == (TOPIC, 0, 0)
    assert kept.value == b"no json at all"
    assert [(h.name, h.value) for h in kept.headers] == [("h", b"1")]
    assert "'number'" in letters[1].failure.message  # type: ignore[union-attr]


def test_a_function_may_choose_the_plan() -> None:
    express = fulfil()
    express.name = "express"

    @source(Topic(TOPIC, Order))
    async def orders(record: TopicRecord[Order]) -> Submit | None:
        if record.header("skip"):
            return None
        work = express if record.key == b"fast" else fulfil()
        return Submit(work, record.value, order_key="one")

    with Simulation([packing()], sources=[orders]) as simulation:
        simulation.publish(TOPIC, {"number": "a"}, key="fast")
        simulation.publish(TOPIC, {"number": "b"}, headers=(("skip", b"1"),))
        simulation.publish(TOPIC, {"number": "c"})
        runs = [simulation.run(f"orders-0-{n}", "one") for n in (0, 2)]
        assert [run.result()["number"] for run in runs] == ["a", "c"]
        names = [run.events[0].run.plan_name for run in runs]  # type: ignore[union-attr]
        assert names == ["express", "fulfil"]
        assert runs[0].events[0].run.submitted_by == f"source orders ({TOPIC}/0/0)"  # type: ignore[union-attr]
        assert simulation.violations() == []


def test_no_more_runs_than_may_be_open() -> None:
    with Simulation([packing()], sources=[orders(max_open=2)], restart_after_s=None) as simulation:
        simulation.publish(TOPIC, {"number": "first"})
        assert result(simulation, "orders-0-0") == {"number": "first"}
        simulation.crash("packer")
        for n in range(6):
            simulation.publish(TOPIC, {"number": str(n)})
        simulation.skip(seconds=30)
        assert simulation.run_ids() == [f"orders-0-{n}" for n in range(3)]
        assert open_runs(simulation) == 2
        simulation.crash("source-orders")  # what is open is state, not memory
        simulation.restart("source-orders")
        simulation.skip(seconds=30)
        assert simulation.run_ids() == [f"orders-0-{n}" for n in range(3)]
        simulation.restart("packer")
        assert result(simulation, "orders-0-6") == {"number": "5"}
        assert simulation.run_ids() == [f"orders-0-{n}" for n in range(7)]
        assert simulation.violations() == []
        assert open_runs(simulation) == 0


def test_runs_that_fail_make_room_too() -> None:
    with Simulation([packing()], sources=[orders(max_open=1)]) as simulation:
        for number in ("broken", "broken", "good"):
            simulation.publish(TOPIC, {"number": number})
        assert result(simulation, "orders-0-2") == {"number": "good"}
        assert simulation.run("orders-0-0").state is RunState.FAILED
        assert simulation.violations() == []


def test_an_agent_that_has_not_come_yet_is_waited_for() -> None:
    with Simulation([packing()], sources=[orders()], restart_after_s=None) as simulation:
        simulation.publish(TOPIC, {"number": "a"})
        assert result(simulation, "orders-0-0") == {"number": "a"}
    late = Source("late", topic=Topic(TOPIC, Order), plan=_of("nobody.comes"))
    with Simulation([packing()], sources=[late]) as simulation:
        simulation.publish(TOPIC, {"number": "a"})
        simulation.skip(seconds=60)
        assert simulation.run_ids() == []
        assert simulation._deployment.history().dead_letters == []


def _of(task: str) -> Plan:
    plan = Plan("p")
    plan.task("t", task, number=plan.input("number"))
    return plan


def test_crashes_at_every_moment() -> None:
    numbers = ["a", "", "b"]

    def scene(simulation: Simulation) -> list[str]:
        for number in numbers:
            simulation.publish(TOPIC, {"number": number} if number else b"not json")
        results = [result(simulation, f"orders-0-{n}") for n in (0, 2)]
        assert results == [{"number": "a"}, {"number": "b"}]
        simulation.skip(seconds=15)
        assert open_runs(simulation) == 0
        return simulation.run_ids()

    seen: set[str] = set()
    for crash in crashes_in(
        scene, agents=[packing()], sources=[orders()], of=["source-orders", "coordinator"]
    ):
        assert crash.run() == ["orders-0-0", "orders-0-2"], crash
        seen.add(crash.point.process)
    assert seen == {"source-orders", "coordinator"}
