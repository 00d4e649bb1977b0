"""Steps as they stand in the journal, decoded when they are first asked for.

To decode 100,000 of them takes a second, and a slot is to work before that.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping

from holdfast.schemas import Undecodable, decode
from holdfast.schemas.records import AgentJournal, StepEntry

__all__ = ["FoldedStep", "StepRecords"]

StepName = tuple[str, str]


class FoldedStep:
    """A step of which so far only its journal key was read."""

    __slots__ = ("_data", "key", "name", "task")

    def __init__(self, task: str, name: str, key: str, data: bytes) -> None:
        self.task = task
        self.name = name
        self.key = key
        self._data = data

    def unfold(self) -> StepEntry:
        """Return the step. Raises `Undecodable` for a journal that this build cannot read."""
        journal = decode(AgentJournal, self._data)
        body = journal.body
        if not isinstance(body, StepEntry):
            raise Undecodable(
                f"a {type(body).__name__} under the journal key of step {self.name!r}"
            )
        body.build_id = body.build_id or journal.build_id
        return body

    @property
    def size_bytes(self) -> int:
        """The size of its record."""
        return len(self._data)

    @property
    def attempt(self) -> int:
        """The attempt that made it; raises as `unfold`."""
        return self.unfold().attempt


class StepRecords(MutableMapping[StepName, StepEntry]):
    """The steps of one task by (name, key)."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: dict[StepName, StepEntry | FoldedStep] = {}

    def drop_before(self, attempt: int, newest: int) -> list[StepName]:
        """Remove what attempts before `attempt` have journaled; return the names.

        `newest`: the attempt that begins. Where that is the same, all goes, damaged steps too: they
        are not even decoded.
        """
        stale = [
            name for name, held in self._held.items() if attempt >= newest or held.attempt < attempt
        ]
        for name in stale:
            del self._held[name]
        return stale

    @property
    def size_bytes(self) -> int:
        """How many bytes their results have, or their records where these are not decoded."""
        return sum(_size(held) for held in self._held.values())

    def __getitem__(self, step: StepName) -> StepEntry:
        held = self._held[step]
        if isinstance(held, FoldedStep):
            held = self._held[step] = held.unfold()
        return held

    def __setitem__(self, step: StepName, entry: StepEntry | FoldedStep) -> None:
        self._held[step] = entry

    def __delitem__(self, step: StepName) -> None:
        del self._held[step]

    def __iter__(self) -> Iterator[StepName]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def __bool__(self) -> bool:
        return bool(self._held)


def _size(held: StepEntry | FoldedStep) -> int:
    if isinstance(held, FoldedStep):
        return held.size_bytes
    return len(held.result) if isinstance(held.result, bytes) else 0
