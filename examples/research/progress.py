"""What a run's events say, in words for who watches it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from holdfast.schemas import Event, EventType
from holdfast.schemas.records import Payload, TaskRow

from .models import Answer, Reading, ReviewRequest, Survey, Verdict
from .telling import counted

__all__ = ["Progress"]

Decode = Callable[[Payload], Awaitable[Any]]


class Progress:
    """How far a research is. `decode`: reads what a task was given or gave, as `Client.decode`."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._totals: dict[str, int] = {}
        self.ended: set[str] = set()
        """The tasks that have succeeded."""
        self.read_done = 0
        self.moved = ""
        """The agent of the task that has just succeeded, if the last event was such a success."""

    @property
    def read_all(self) -> int:
        """How many documents the plan has readers for, as it is now."""
        return sum(self._totals.values())

    async def take(self, event: Event) -> list[str]:
        """Take one event; return what there is to say."""
        self.moved = ""
        if event.type is EventType.PLAN_CHANGED and event.revision is not None:
            revision = event.revision
            return [f"plan     version {revision.version}, made by {revision.task_id}"]
        task = event.task
        if task is None:
            return []
        if event.type is EventType.TASK_EXPANDED:
            self._totals[task.task_id] = task.total
        if event.type is EventType.TASK_RETRYING:
            return [f"{task.agent:<8} {task.task_id} is tried again: {event.message}"]
        if event.type is not EventType.TASK_SUCCEEDED or task.task_id in self.ended:
            return []
        self.moved = task.agent
        self.ended.add(task.task_id)
        return await self._succeeded(task)

    async def _succeeded(self, task: TaskRow) -> list[str]:
        name = f"{task.agent}.{task.task}"
        is_map = task.task_id in self._totals
        if is_map:
            return []
        if name == "reader.survey":
            survey = Survey.model_validate(await self._decode(task.output))
            with_words = f"{len(survey.documents)} have words of the question"
            return [f"reader   looked through {survey.total} documents: {with_words}"]
        if name == "reader.read":
            return await self._read(task)
        if name == "critic.review":
            return await self._reviewed(task)
        if name == "writer.answer":
            answer = Answer.model_validate(await self._decode(task.output))
            told = f"{counted(len(answer.quotes), 'quote')}, {counted(answer.rounds, 'round')}"
            return [f"writer   part {answer.part.number} is answered: {told}"]
        return []

    async def _read(self, task: TaskRow) -> list[str]:
        reading = Reading.model_validate(await self._decode(task.output))
        if "." in task.task_id:  # an item of a map; a called task has an id without a dot
            self.read_done += 1
        if reading.problem:
            return [f"reader   {reading.path} is missing: {reading.problem}"]
        return [f"reader   {reading.path}: {counted(len(reading.quotes), 'passage')}"]

    async def _reviewed(self, task: TaskRow) -> list[str]:
        verdict = Verdict.model_validate(await self._decode(task.output))
        if verdict.accepted:
            return []
        number = ReviewRequest.model_validate(await self._decode(task.input)).part.number
        why = "; ".join(problem.text for problem in verdict.problems)
        return [f"critic   part {number} goes back: {why}"]
