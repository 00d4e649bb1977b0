"""A scene of a test's own, crashed at every moment: for what begins with no submission.

def scene(simulation: Simulation) -> None:
    simulation.publish("orders.v1", {"number": "7"})
    assert simulation.run("orders-0-0").result() == ...

for crash in crashes_in(scene, agents=[packer], sources=[orders]):
    crash.run()
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from holdfast.agents import Agent
from holdfast.sources import Source
from holdfast.testing.crashing import CrashPoint
from holdfast.testing.kit import Simulation, SimulationError

__all__ = ["SceneCrash", "crashes_in"]

# ruff: noqa: SLF001 a crash is a simulation's own

T = TypeVar("T")


@dataclass(frozen=True)
class SceneCrash(Generic[T]):
    """One moment at which a process dies. Yielded by `crashes_in`; print it to see where."""

    point: CrashPoint
    _scene: Callable[[Simulation], T] = field(repr=False)
    _agents: tuple[Agent, ...] = field(repr=False)
    _sources: tuple[Source[Any], ...] = field(repr=False)
    _seed: int = field(repr=False)

    def __str__(self) -> str:
        return str(self.point)

    def run(self, *, check_invariants: bool = True) -> T:
        """Play the scene with this crash in it; return what it returns, raise what it raises.

        Raises `SimulationError` if the moment never came, `AssertionError` if an invariant of
        Holdfast does not hold afterwards.
        """
        with Simulation(self._agents, seed=self._seed, sources=self._sources) as simulation:
            simulation._settle()
            deaths = simulation._deployment.deaths
            deaths.armed = self.point
            answer = self._scene(simulation)
            if deaths.met is None:
                raise SimulationError(
                    f"it never came to this in the second run: {self}. The scene does not do the "
                    "same each time"
                )
            if check_invariants and (found := simulation.violations()):
                raise AssertionError(f"{self}:\n" + "\n".join(map(str, found)))
        return answer


def crashes_in(
    scene: Callable[[Simulation], T],
    *,
    agents: Sequence[Agent],
    sources: Sequence[Source[Any]] = (),
    of: Sequence[str] | None = None,
    seed: int = 1,
) -> Iterator[SceneCrash[T]]:
    """Yield one crash for each moment at which a process can die while a scene is played.

    It is played once without any crash to find them; see `Simulation.crashes`. `of`: only processes
    of these names; that of a source is `source-<name>`. Raises what the scene raises.
    """
    with Simulation(agents, seed=seed, sources=sources) as simulation:
        simulation._settle()
        deaths = simulation._deployment.deaths
        for name in of or ():
            simulation._deployment.process(name)
        deaths.recording = True
        scene(simulation)
        deaths.recording = False
        points = list(deaths.points)
    for point in points:
        if of is None or point.process in of:
            yield SceneCrash(point, scene, tuple(agents), tuple(sources), seed)
