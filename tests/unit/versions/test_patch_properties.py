"""`ctx.patched` under any history of deploys and crashes: one answer, and no mismatch."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.agents.payloads import Payloads
from holdfast.agents.steps import PATCHED, Steps, Worker
from holdfast.schemas.records import StepEntry, StepKind, TaskEnvelope

ENVELOPE = TaskEnvelope("r", "t", "t", 1, b"", "r", "r", 0)
STEPS = ("a", "b", "c", "d")


class Crashed(BaseException):
    """The process has died."""


class Journal:
    """What is committed; the process dies when `writes_left` commits were made."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str], StepEntry] = {}
        self.writes_left = 0

    def find(self, name: str, key: str) -> StepEntry | None:
        return self.entries.get((name, key))

    def all(self) -> Collection[StepEntry]:
        return list(self.entries.values())

    async def write(self, name: str, key: str, entry: StepEntry | None) -> None:
        if not self.writes_left:
            raise Crashed
        self.writes_left -= 1
        assert entry is not None
        self.entries[name, key] = entry


def body(text: str) -> str:
    return text


async def step(steps: Steps, name: str) -> None:
    begun = steps.begin(name, "", body, (name,))
    if begun.found is None:
        await steps.commit(begun, StepKind.STEP, name, 0)
    else:
        await steps.replay(begun)


async def execute(journal: Journal, patch_at: int | None) -> bool | None:
    """Run a handler: the old code (`patch_at` None), or one whose patch stands before a step.

    Returns what the patch said. The new way has a step more, and another in place of the last.
    """
    steps = Steps(ENVELOPE, cast(Any, journal), Payloads(cast(Any, None)), lambda: 0, Worker())
    new: bool | None = None
    for at, name in enumerate(STEPS):
        if at == patch_at:
            new = steps.patched("p")
            if new:
                await steps.mark("p")
                await step(steps, "more")
            assert steps.patched("p") is new
        await step(steps, f"{name}-new" if new and at == len(STEPS) - 1 else name)
    steps.check_all_asked()
    return new


async def history(
    patch_at: int, executions: list[tuple[bool, int]]
) -> tuple[Journal, list[bool | None], int]:
    journal, said, beyond = Journal(), list[bool | None](), 0
    for is_new, writes in [*executions, (True, 100)]:
        if PATCHED in {name for name, _ in journal.entries} and not is_new:
            continue  # a step back is not what a patch is for
        journal.writes_left = writes
        beyond = sum((name, "") in journal.entries for name in STEPS)
        try:
            said.append(await execute(journal, patch_at if is_new else None))
        except Crashed:
            said.append(None)
    return journal, said, beyond


@settings(max_examples=150, deadline=None)
@given(
    patch_at=st.integers(0, len(STEPS) - 1),
    executions=st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=5),
)
def test_a_task_takes_one_way_whatever_crashes_and_deploys_come(
    patch_at: int, executions: list[tuple[bool, int]]
) -> None:
    journal, said, _ = asyncio.run(history(patch_at, executions))
    names = {name for name, _ in journal.entries}
    last = said[-1]
    assert last is not None, "the last execution comes to its end"
    assert (PATCHED in names) is last
    assert ("more" in names) is last
    assert (f"{STEPS[-1]}-new" in names) is last
    assert (STEPS[-1] in names) is not last


@given(patch_at=st.integers(0, 3), writes=st.lists(st.integers(0, 5), max_size=4))
@settings(max_examples=60, deadline=None)
def test_a_task_that_begins_with_the_patch_always_takes_the_new_way(
    patch_at: int, writes: list[int]
) -> None:
    _, said, _ = asyncio.run(history(patch_at, [(True, each) for each in writes]))
    assert said[-1] is True


@given(patch_at=st.integers(0, 3), written=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_older_code_decides_by_whether_it_came_beyond_the_patch(
    patch_at: int, written: int
) -> None:
    _, said, _ = asyncio.run(history(patch_at, [(False, written)]))
    assert said[-1] is (written <= patch_at)
