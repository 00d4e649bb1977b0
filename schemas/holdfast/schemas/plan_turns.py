"""Whose turn a plan's tasks wait for: lists that are still arriving, and order keys.

A task that hands out items waits until the maps over them have room, and keeps its order key's turn
at its agent meanwhile. What these maps need in order to go on must not wait for that turn, nor for
the end of that task, nor for another one that waits so in turn: the run would stand still as soon
as a list is longer than the room.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from holdfast.schemas.errors import PlanError

__all__ = ["Worker", "check_turns"]

_Waits = Mapping[str, Collection[str]]


@dataclass(frozen=True, slots=True)
class Worker:
    """A task of a plan, as far as its turn goes.

    `agent`, `order_key` (the text of its template, or of the plan's): where its turn is; no key, or
    work that is a plan: it waits for nobody's. `waits_for`: all tasks that it names; `all_of_them`:
    it begins when each of these has ended. `arrives_from`: a map begins before that one has.
    """

    agent: str
    order_key: str | None
    waits_for: tuple[str, ...]
    all_of_them: bool = True
    arrives_from: str | None = None


def check_turns(plan: str, workers: Mapping[str, Worker]) -> None:
    """Raise `PlanError` where a list that is longer than the room would stop a run for good.

    Keys of different texts pass for different keys here; that they are the same shows when they are
    made, and only where items would wait for the very task that hands them out.
    """
    maps: dict[str, list[str]] = {}
    for name, each in workers.items():
        if each.arrives_from is not None:
            maps.setdefault(each.arrives_from, []).append(name)
    if not maps:
        return
    needs = {name: tuple(_needs(each)) for name, each in workers.items()}
    for emitter, names in maps.items():
        for name in names:
            _check_circle(plan, name, emitter, needs)
    turns = _Turns(workers, maps)
    waits = {emitter: turns.waits(_reached(needs, names)) for emitter, names in maps.items()}
    for emitter, found in waits.items():
        for other, name in found.items():
            if emitter in _reached(waits, (other,)):
                raise PlanError(f"plan {plan!r}, {_told(workers, name, emitter, other)}")


def _needs(worker: Worker) -> Iterator[str]:
    """Yield what must have ended before a task can begin to take items."""
    return (name for name in worker.waits_for if name != worker.arrives_from)


def _check_circle(plan: str, name: str, emitter: str, needs: _Waits) -> None:
    for waited_for in needs[name]:
        if emitter in _reached(needs, (waited_for,)):
            raise PlanError(
                f"plan {plan!r}, task {name!r}: it begins when {waited_for!r} has ended, and so"
                f" after the end of {emitter!r}, which waits for room to hand out more items: let"
                f" {name!r} begin before that, or put the work into a task behind it"
            )


class _Turns:
    """Who may stand behind whom at an agent. `maps`: over whose items, by the task's name."""

    def __init__(self, workers: Mapping[str, Worker], maps: Mapping[str, Collection[str]]) -> None:
        self._workers = workers
        self._maps = maps
        self._before = {
            name: each.waits_for if each.all_of_them else () for name, each in workers.items()
        }
        self._behind: dict[str, list[str]] = {name: [] for name in workers}
        for name, names in self._before.items():
            for waited_for in names:
                if waited_for != workers[name].arrives_from:
                    self._behind[waited_for].append(name)
        self._held: dict[tuple[str, str | None], dict[str, set[str]]] = {}
        for emitter in maps:
            if workers[emitter].order_key is not None:
                held = self._held.setdefault(_place(workers[emitter]), {})
                held[emitter] = self._apart(emitter)

    def waits(self, needed: Collection[str]) -> dict[str, str]:
        """Return the tasks that hand out and may hold up what is `needed`: by name, what first."""
        found: dict[str, str] = {}
        for name, each in self._workers.items():  # in the plan's order: always the same refusal
            if name not in needed:
                continue
            if name in self._maps:
                found.setdefault(name, name)
            for emitter, apart in self._held.get(_place(each), {}).items():
                if name != emitter and name not in apart:
                    found.setdefault(emitter, name)
        return found

    def _apart(self, emitter: str) -> set[str]:
        """Return who, at its place, has ended before it begins, or begins when it has ended."""
        found = _reached(self._before, (emitter,)) | _reached(self._behind, (emitter,))
        for each in self._maps[emitter]:  # they end after it has
            found |= _reached(self._behind, (each,)) - {each}
        place = _place(self._workers[emitter])
        return {name for name in found if _place(self._workers[name]) == place}


def _place(worker: Worker) -> tuple[str, str | None]:
    return worker.agent, worker.order_key


def _told(workers: Mapping[str, Worker], name: str, emitter: str, other: str) -> str:
    """Say that `name`, which the maps over what `emitter` hands out need, waits for `other`."""
    direct = workers[name].arrives_from == other
    what = "its items would wait" if direct else "it may wait"
    said = f"task {name!r}: {what} for {other!r}, which waits for room to hand out more"
    if other != emitter:
        said += f"; for that it may have to wait for {emitter!r}, which waits for {name!r}"
    if name == other:
        return f"{said}: let one of the maps over them begin without it"
    way = "" if direct else f", or let {other!r} wait for it"
    return (
        f"{said}: both are worked by agent {workers[name].agent!r} under one order key; give one"
        f" of them an order_key of its own{way}"
    )


def _reached(edges: Mapping[str, Iterable[str]], starts: Iterable[str]) -> set[str]:
    """Return `starts` and all that is reached from them."""
    found = set(starts)
    left = list(found)
    while left:
        for name in edges[left.pop()]:
            if name not in found:
                found.add(name)
                left.append(name)
    return found
