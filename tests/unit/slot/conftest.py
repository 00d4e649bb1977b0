from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest

from holdfast.bus.errors import Rejected
from holdfast.bus.port import Cleanup, Environment, Received, Record, TopicSpec
from holdfast.bus.slot import (
    Change,
    Commit,
    Intake,
    Opened,
    ProcessIdentity,
    SlotControl,
    SlotHost,
    SlotSettings,
)
from holdfast.bus.slot import ownership as ownership_module
from holdfast.bus.slot import slot as slot_module
from holdfast.testing.sim import SimBus
from holdfast.testing.sim.reading import SimSubscription
from tests.doubles.sim_place import SimPlace

GROUP, WORK, WORDS, JOURNAL, OUT = "ns.echo", "ns.work", "ns.words", "ns.journal.echo", "ns.out"


class Died(BaseException):
    """What `Environment.die` does in tests."""


@dataclass
class EchoMachine:
    """Journals each input under its key, and answers it on OUT: the smallest honest machine."""

    control: SlotControl
    world: World
    seen: dict[str, bytes] = field(default_factory=dict)
    restored: dict[str, bytes] = field(default_factory=dict)
    pending: list[Received] = field(default_factory=list)
    opened_with: Opened | None = None
    intake: Intake | None = None
    full: bool = False
    gone: bool = False
    received: int = 0
    abandoned: bool = False
    quiesced: bool = False
    busy: bool = False
    """A body that does not end, or not yet."""

    def restore(self, key: str, value: bytes | None) -> None:
        assert self.opened_with is None
        if value is None:
            self.restored.pop(key, None)
        else:
            self.restored[key] = value

    def opened(self, opened: Opened) -> None:
        self.opened_with = opened
        self.seen = dict(self.restored)
        self.intake = Intake(opened.positions)

    def receive(self, records: Sequence[Received]) -> None:
        assert self.intake is not None
        self.received += len(records)
        for record in records:
            if self.intake.read(record.topic, record.offset):
                self.pending.append(record)

    def due(self, now_ms: int) -> int | None:
        return None

    def collect(self, now_ms: int) -> Commit | None:
        assert self.intake is not None
        assert not self.gone
        if not self.pending or self.world.holding:
            return None
        batch, self.pending = self.pending, []
        changes = [self._answer(record) for record in batch]
        for record in batch:
            self.intake.finish(record.topic, record.offset)
        return Commit(changes, self.intake.advance())

    def _answer(self, record: Received) -> Change:
        if (forward := self.control.misplaced(record)) is not None:
            return Change([forward], lambda: None, self._never)
        assert record.key is not None
        name = record.key.decode()
        value = record.value or b""
        topic = "ns.missing" if value == b"refuse me" else OUT

        def apply() -> None:
            self.seen[name] = value
            self.world.applied.append(name)

        def refuse(error: Rejected) -> Change:
            self.world.refused.append((name, error.reason))
            return Change([Record(OUT, record.key, b"refused")], apply, self._never)

        answer = Record(topic, record.key, value)
        return Change([answer, self.control.journal(name, value)], apply, refuse)

    def _never(self, error: Rejected) -> Change:
        raise error

    def congested(self) -> frozenset[str]:
        return frozenset({WORK}) if self.full else frozenset()

    def idle(self) -> bool:
        return not self.pending and not self.busy

    def quiesce(self) -> None:
        self.quiesced = True

    def abandon(self) -> None:
        self.abandoned = True

    def lost(self) -> None:
        self.gone = True


@dataclass
class World:
    """A place, the hosts in it, and what their machines did."""

    place: SimPlace
    seed: int
    applied: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    machines: dict[str, list[EchoMachine]] = field(default_factory=dict)
    hosts: list[SlotHost] = field(default_factory=list)
    died: list[str] = field(default_factory=list)
    holding: bool = False
    stop_grace_s: float = 2.0

    def bus(self) -> SimBus:
        return self.place.bus()

    def environment(self, bus: SimBus | None = None) -> Environment:
        def die(reason: str) -> None:
            self.died.append(reason)
            raise Died(reason)

        return Environment(
            bus=bus or self.bus(),
            random=random.Random(self.seed),
            die=die,  # type: ignore[arg-type]
        )

    async def host(self, instance: str = "a", process_id: str | None = None) -> SlotHost:
        identity = ProcessIdentity(instance, process_id or f"process-{instance}-{len(self.hosts)}")
        settings = SlotSettings(GROUP, (WORK, WORDS), JOURNAL, identity, self.stop_grace_s)

        def factory(control: SlotControl) -> EchoMachine:
            machine = EchoMachine(control, self)
            self.machines.setdefault(instance, []).append(machine)
            return machine

        host = SlotHost(self.environment(), settings, factory)
        await host.start()
        self.hosts.append(host)
        return host

    @property
    def member(self) -> SimSubscription:
        """The membership of the one host there is."""
        (host,) = self.hosts
        assert isinstance(host._subscription, SimSubscription)
        return host._subscription

    async def send(self, *pairs: tuple[str, bytes], partition: int | None = None) -> None:
        await self.bus().publish(
            [Record(WORK, key.encode(), value, (), partition) for key, value in pairs]
        )

    def answers(self) -> list[tuple[str, bytes]]:
        return [
            ((record.key or b"").decode(), record.value or b"")
            for partition in range(2)
            for record in self.place.records(OUT, partition)
        ]


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats are quick here; whoever waits for one looks for it as quickly."""
    monkeypatch.setattr(ownership_module, "HEARTBEAT_CHECK_S", 0.002)
    monkeypatch.setattr(slot_module, "HAND_OVER_CHECK_S", 0.002)
    monkeypatch.setattr(slot_module, "HAND_OVER_S", 0.1)


@pytest.fixture
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    world = World(SimPlace(), seed)
    await world.bus().create_topics(
        [
            TopicSpec(WORK, 2),
            TopicSpec(WORDS, 2),
            TopicSpec(JOURNAL, 2, Cleanup.COMPACT),
            TopicSpec(OUT, 2),
        ]
    )
    yield world
    for host in world.hosts:
        await host.kill()
