"""One word to many: what goes out, and what is refused before anything does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from holdfast.bus.connect import open_bus
from holdfast.client import BulkAction, BulkOutcome, BulkTarget, Client, ClientError
from holdfast.client import run as run_module
from holdfast.schemas import Command, CoordinatorEnvelope, decode
from tests.unit.client.conftest import TOPICS, World

TARGETS = [BulkTarget("r1"), BulkTarget("r2")]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No coordinator is there: what was sent counts, not the answer."""
    monkeypatch.setattr(run_module, "COMMAND_WAIT_S", 0.02)


@pytest.mark.parametrize(
    ("compensate", "arguments"),
    [(None, "{}"), (True, '{"compensate":true}'), (False, '{"compensate":false}')],
)
async def test_each_cancel_says_what_is_undone(
    world: World, client: Client, compensate: bool | None, arguments: str
) -> None:
    sending = client.bulk(BulkAction.CANCEL, TARGETS, bulk_id="b1", compensate=compensate)
    assert {result.outcome async for result in sending} == {BulkOutcome.UNANSWERED}
    sent = {run_id: envelope.body for _, run_id, envelope in world.asked()}
    assert sent.keys() == {"r1", "r2"}
    for command in sent.values():
        assert isinstance(command, Command)
        assert (command.action, command.bulk_id) == ("cancel", "b1")
        assert command.arguments == arguments


@pytest.mark.parametrize("compensate", [True, False])
@pytest.mark.parametrize("action", [each for each in BulkAction if each is not BulkAction.CANCEL])
async def test_only_a_cancel_undoes(
    world: World, client: Client, action: BulkAction, compensate: bool
) -> None:
    with pytest.raises(ClientError, match=rf"compensate={compensate}.*{action} cancels nothing"):
        async for _ in client.bulk(action, TARGETS, compensate=compensate):
            pass
    assert world.asked() == []


def test_the_client_without_await_says_it_too(tmp_path: Path) -> None:
    bus = open_bus(f"sqlite:///{tmp_path}/bus.db")

    async def begin() -> None:
        await bus.start()
        await bus.create_topics(TOPICS.coordinator_specs(1))

    async def sent() -> list[CoordinatorEnvelope]:
        batches = [batch async for batch in bus.read(TOPICS.coordinator, 0)]
        await bus.close()
        return [decode(CoordinatorEnvelope, record.value or b"") for record in batches[0]]

    with asyncio.Runner() as runner:
        runner.run(begin())
        with Client.sync(bus.url, "test") as client:
            results = client.bulk(BulkAction.CANCEL, TARGETS, compensate=False)
            assert [result.outcome for result in results] == [BulkOutcome.UNANSWERED] * 2
            with pytest.raises(ClientError, match="skip cancels nothing"):
                client.bulk(BulkAction.SKIP, TARGETS, compensate=False)
        commands = [envelope.body for envelope in runner.run(sent())]
    assert len(commands) == 2
    for command in commands:
        assert isinstance(command, Command)
        assert command.arguments == '{"compensate":false}'
