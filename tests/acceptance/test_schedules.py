"""A schedule of every second, and a coordinator that is killed in the middle of it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from holdfast.client import Client
from holdfast.schemas import Schedule
from tests.acceptance.deployment import Deployment, witnessed
from tests.waiting import until, until_sync

NAME = "tick"
BEFORE, OUTAGE_S = 4, 5.0


async def test_no_second_fires_twice_and_none_is_lost(place: Deployment) -> None:
    place.agent("first")
    place.coordinator("c1")
    await asyncio.to_thread(place.wait_ready)

    def worked() -> list[str]:
        """The run ids that a handler has worked, once for each time."""
        lines = witnessed(place.folder / "steps.witness")
        return [line[0].partition("/")[0] for line in lines]

    async with Client(url=place.bus, namespace=place.namespace) as client:
        schedule = Schedule(
            every_s=1, overlap="allow", catch_up_s=60, input={"text": "${schedule.time}"}
        )
        await client.schedules.create(NAME, "first.begin", schedule, reason="the test")
        await until(lambda: len(worked()) >= BEFORE, "some seconds have fired", 30)
        place.kill("c1")
        # What is counted is the time without a coordinator: nothing tells when it has passed.
        await asyncio.sleep(OUTAGE_S)
        place.again("c1")
        await asyncio.to_thread(place.wait_ready, "c1")
        paused = await client.schedules.pause(NAME, reason="enough")
        expected = paused.row.fired
        await until(lambda: len(worked()) >= expected, "all have been worked", 60)
        row = await client.schedules.get(NAME)
        first = datetime.fromtimestamp(row.created_ms / 1_000, UTC)
    assert row.missed == row.skipped == 0
    assert row.fired == expected >= BEFORE + OUTAGE_S
    runs = Counter(worked())
    assert set(runs.values()) == {1}, "nothing is worked twice"
    seconds = sorted(_second(run_id) for run_id in runs)
    assert seconds == list(range(seconds[0], seconds[-1] + 1)), "no second is left out"
    assert 0 < seconds[0] - first.timestamp() <= 1
    shown = await asyncio.to_thread(place.cli, "schedules", "show", NAME, "--json")
    document = json.loads(shown.stdout)
    assert (document["state"], document["note"]) == ("paused", "enough")
    assert document["fired"] == expected
    assert len(document["next_times_ms"]) == 5


def _second(run_id: str) -> int:
    text = run_id.removeprefix(f"{NAME}-")
    return int(datetime.strptime(text, "%Y%m%dt%H%M%Sz").replace(tzinfo=UTC).timestamp())


async def test_the_command_line(place: Deployment) -> None:
    place.agent("first")
    place.coordinator("c1")
    await asyncio.to_thread(place.wait_ready)

    def holdfast(*arguments: str, code: int = 0) -> Any:
        done = place.cli("schedules", *arguments)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout) if "--json" in arguments else done.stdout + done.stderr

    def all_of_it() -> None:
        folder = place.folder
        (folder / "nightly.yaml").write_text(
            "name: nightly\ntask: first.begin\ncron: 30 2 * * *\ntimezone: Europe/Berlin\n"
            'input: {text: "${schedule.date}"}\n'
        )
        created = holdfast("create", "--file", str(folder / "nightly.yaml"), "--json")
        assert (created["state"], created["revision"]) == ("active", 1)
        again = holdfast("create", "--file", str(folder / "nightly.yaml"))
        assert "is there already" in again
        assert "30 2 * * * (Europe/Berlin)" in holdfast("list")
        shown = holdfast("show", "nightly")
        assert shown.count("02:30:00+0") == 5
        updated = holdfast("update", "nightly", "--cron", "0 4 * * *", "--json")
        assert updated["revision"] == 2
        refused = holdfast("update", "nightly", "--cron", "0 5 * * *", "--revision", "1", code=2)
        assert "is at revision 2" in refused
        assert "paused by" in holdfast("pause", "nightly", "--reason", "audit")
        assert "cannot be paused now" in holdfast("pause", "nightly", code=2)
        run_id = holdfast("trigger", "nightly", "--json")["run_id"]
        days = ("--from", "2026-01-01", "--to", "2026-01-03")
        assert "2 due times" in holdfast("backfill", "nightly", *days)
        assert "resumed by" in holdfast("resume", "nightly")
        until_sync(lambda: holdfast("show", "nightly", "--json")["open_runs"] == 0, "they end")
        document = holdfast("show", "nightly", "--json")
        runs = {each["run_id"]: each["outcome"] for each in document["firings"]}
        assert runs == dict.fromkeys(
            (run_id, "nightly-20260101t030000z", "nightly-20260102t030000z"), "succeeded"
        )
        assert "deleted by" in holdfast("delete", "nightly")
        assert holdfast("list", "--json") == {"schedules": []}
        assert "there is no schedule 'nightly'" in holdfast("trigger", "nightly", code=2)

    await asyncio.to_thread(all_of_it)
