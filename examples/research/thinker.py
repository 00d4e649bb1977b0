"""THE SEAM: everything here that a model would do better. Put yours in the place of `THINKER`.

Agents call these methods inside of steps, so what was once said is journaled: whatever dies, no
model is asked the same thing again. Neither quotes nor file names are taken on trust: the critic
holds the quotes against the files (`checks`), and a source that is not there is planned around.
"""

from __future__ import annotations

from typing import Protocol

from .models import Answer, Draft, Part, Problem, Question, Quote, Survey, Verdict
from .scripted import ScriptedThinker

__all__ = ["THINKER", "Thinker"]


class Thinker(Protocol):
    """What the four agents ask for. Plain data in, plain data out; called in a thread."""

    def split(self, question: Question, survey: Survey) -> list[Part]:
        """Planner: split a question into parts, and name the sources of each."""
        ...

    def stand_ins(self, part: Part, missing: list[str]) -> list[str]:
        """Planner: name what to read in place of sources that are not to be had; may be nothing."""
        ...

    def search(self, part: Part, path: str, lines: list[str]) -> list[Quote]:
        """Reader: quote what a document says to a part, best first. `lines`: all of it."""
        ...

    def choose(self, part: Part, known: list[Quote], verdict: Verdict | None) -> Draft:
        """Writer: choose the quotes that answer a part; the critic's last word is in `verdict`."""
        ...

    def judge(self, part: Part, problems: list[Problem], unread: list[str]) -> Verdict:
        """Critic: accept a draft in which `problems` were found, or send it back."""
        ...

    def conclude(self, question: Question, answers: list[Answer]) -> str:
        """Writer: the answer in short."""
        ...


THINKER: Thinker = ScriptedThinker()
