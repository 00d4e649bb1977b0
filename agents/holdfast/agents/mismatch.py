"""Journal and code that do not fit: what differs, and what can be done, in words.

Pure. The journaled steps, in the order of their start, are laid beside what this execution has
asked for; the first difference is marked. Identity is (name, key): a step that only moved is shown
as one that is missing here and new there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from holdfast.agents.build import code_of
from holdfast.agents.handlers import began_by
from holdfast.schemas.records import EMIT_NAME, StepEntry, StepKind, TaskEnvelope

__all__ = ["Difference", "offers", "step_diff"]

LINES_BEFORE = 8
LINES_AFTER = 16
"""So many lines of a diff are shown around the first difference."""
NAME_CHARS_MAX = 100
_MARK = "  <- the first difference"

StepName = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Difference:
    """A step that is not what was journaled: which, and why."""

    step: StepName
    why: str


def step_diff(
    journaled: Collection[StepEntry],
    asked: Sequence[StepName],
    build_id: str,
    different: Difference | None = None,
) -> str:
    """Return a diff of the steps as journaled (-) and as this execution asked for them (+).

    `asked` in the order of asking. `different`: the last one asked for, where that is what does not
    fit; what was not asked for yet is then no difference.
    """
    steps = sorted(_steps(journaled), key=lambda each: (each.started_ms, each.name, each.key))
    told = {(step.name, step.key): step for step in steps}
    before = list(told)
    if different is not None:
        until = before.index(different.step) if different.step in told else len(before) - 1
        before = [name for at, name in enumerate(before) if at <= until or name in asked]
    lines = list(_lines(before, list(asked), told, different))
    head = [f"--- journaled ({_builds(steps)})", f"+++ this code (build {code_of(build_id)})"]
    return "\n".join([*head, *_around_first(lines)])


def offers(envelope: TaskEnvelope, agent: str, journaled: Collection[StepEntry]) -> str:
    """Return what can be done about a task that is parked so, with the commands."""
    run, task = envelope.run_id, envelope.task_id
    began = [step for step in journaled if step.build_id]
    build = code_of(began_by(began)) if began else "BUILD"
    replay = f"holdfast dead-letters replay {run}/{task}/{envelope.attempt}"
    # What it has handed out is being worked: without its journal it would hand it out once more.
    handed_out = any(step.name == EMIT_NAME for step in journaled)
    anew = f"holdfast run restart-task {run} {task} --reason WHY"
    return "\n".join(
        (
            "What can be done:",
            '- patch: take the new way only where `await ctx.patched("NAME")` is true; deploy, then'
            f" {replay}",
            f"- keep the old version: put the old handler beside the new one, under "
            f"@{agent}.keep({envelope.task}, {build!r}); deploy, then {replay}",
            *(() if handed_out else (f"- restart the task without its journal: {anew}",)),
            f"- fork the run: holdfast run fork {run} --from {task.partition('.')[0]}",
        )
    )


def _steps(journaled: Collection[StepEntry]) -> list[StepEntry]:
    return [step for step in journaled if step.kind is not StepKind.PATCH]


def _lines(
    before: list[StepName],
    after: list[StepName],
    told: dict[StepName, StepEntry],
    different: Difference | None,
) -> Iterator[str]:
    for kind, low, high, from_, to in SequenceMatcher(
        None, before, after, autojunk=False
    ).get_opcodes():
        if kind == "equal":
            for name in before[low:high]:
                wrong = different is not None and name == different.step
                mark = "!" if wrong else " "
                yield f"{mark} {_shown(name)}{_origin(told[name])}"
            continue
        yield from (f"- {_shown(name)}{_origin(told[name])}" for name in before[low:high])
        yield from (f"+ {_shown(name)}" for name in after[from_:to])


def _around_first(lines: list[str]) -> list[str]:
    first = next((at for at, line in enumerate(lines) if line[0] != " "), None)
    if first is None:
        return lines[:LINES_AFTER]
    lines[first] += _MARK
    low, high = max(0, first - LINES_BEFORE), first + LINES_AFTER
    shown = lines[low:high]
    if low:
        shown.insert(0, f"  … {low} steps that fit …")
    if len(lines) > high:
        shown.append(f"  … {len(lines) - high} more lines …")
    return shown


def _shown(step: StepName) -> str:
    name, key = step
    text = name if key == "" else f"{name} (key {key!r})"
    return text if len(text) <= NAME_CHARS_MAX else text[:NAME_CHARS_MAX] + "…"


def _origin(step: StepEntry) -> str:
    build = f", build {code_of(step.build_id)}" if step.build_id else ""
    return f"  [{step.kind}, attempt {step.attempt}{build}]"


def _builds(steps: Sequence[StepEntry]) -> str:
    found = list(dict.fromkeys(code_of(step.build_id) for step in steps if step.build_id))
    if not found:
        return "build not known"
    return f"build {found[0]}" if len(found) == 1 else f"builds {', '.join(found[:5])}"
