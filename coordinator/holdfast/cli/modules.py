"""Users' modules: imported by path or by name, and the agents and sources in them."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import holdfast
from holdfast.cli.failures import BadInput
from holdfast.schemas.errors import did_you_mean

if TYPE_CHECKING:
    from holdfast.agents import Agent
    from holdfast.sources import Source

__all__ = ["agents_in", "find_agent", "find_source", "load_module", "services_in", "sources_in"]

# A mistake in a user's module is told by the user's own line, not by ours that found it.
_OURS = tuple(holdfast.__path__)


def load_module(name: str) -> ModuleType:
    """Import a module given as a file (`folder/hello.py`) or by its name (`package.hello`).

    The current folder is importable, and for a file its folder too. Raises `BadInput`.
    """
    _make_importable(Path.cwd())
    if name.endswith(".py") or os.sep in name:
        return _load_file(name)
    try:
        if importlib.util.find_spec(name) is None:
            hint = f"; did you mean {name}.py?" if Path(f"{name}.py").exists() else ""
            raise BadInput(f"no module {name!r} in {Path.cwd()} or installed{hint}")
    except BadInput:
        raise
    except (ModuleNotFoundError, ValueError) as error:
        raise BadInput(f"no module {name!r} in {Path.cwd()} or installed: {error}") from None
    except Exception as error:
        raise _import_failure(name, error) from error
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise _import_failure(name, error) from error


def agents_in(module_name: str) -> dict[str, Agent]:
    """Return the agents that stand in a module, by their names; raises `BadInput` if none does."""
    from holdfast.agents import Agent

    found = _named(module_name, Agent, "agents")
    if not found:
        raise BadInput(
            f'module {module_name} has no agent: expected `name = Agent("name")` at its top level'
        )
    return found


def sources_in(module_name: str) -> dict[str, Source[Any]]:
    """Return the sources that stand in a module, by their names; raises `BadInput` if none does."""
    from holdfast.sources import Source

    found: dict[str, Source[Any]] = _named(module_name, Source, "sources")
    if not found:
        raise BadInput(
            f"module {module_name} has no source: expected "
            '`name = Source("name", topic=..., plan=...)` at its top level'
        )
    return found


def services_in(module_name: str) -> tuple[dict[str, Agent], dict[str, Source[Any]]]:
    """Return agents and sources of a module; raises `BadInput` if it has none of either."""
    from holdfast.agents import Agent
    from holdfast.sources import Source

    agents = _named(module_name, Agent, "agents")
    sources: dict[str, Source[Any]] = _named(module_name, Source, "sources")
    if not agents and not sources:
        agents_in(module_name)
    return agents, sources


def find_agent(target: str) -> Agent:
    """Return the agent `MODULE:NAME`; NAME is the agent's, or its variable's, or left out if there
    is one only. Raises `BadInput`."""
    from holdfast.agents import Agent

    return _find(target, agents_in(target.partition(":")[0]), Agent, "agent")


def find_source(target: str) -> Source[Any]:
    """Return the source `MODULE:NAME`, as `find_agent` does. Raises `BadInput`."""
    from holdfast.sources import Source

    found: Source[Any] = _find(target, sources_in(target.partition(":")[0]), Source, "source")
    return found


class _Named(Protocol):
    """What has a name of its own beside that of its variable."""

    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=_Named)


def _named(module_name: str, kind: type[N], what: str) -> dict[str, N]:
    found: dict[str, N] = {}
    for value in vars(load_module(module_name)).values():
        if not isinstance(value, kind):
            continue
        other = found.setdefault(value.name, value)
        if other is not value:
            raise BadInput(f"module {module_name} has two {what} with the name {value.name!r}")
    return found


def _find(target: str, found: dict[str, N], kind: type[N], what: str) -> N:
    module_name, _, name = target.partition(":")
    if not name:
        if len(found) > 1:
            raise BadInput(
                f"module {module_name} has several {what}s: say which, {module_name}:"
                f"{'|'.join(found)}"
            )
        return next(iter(found.values()))
    if name in found:
        return found[name]
    variable = getattr(load_module(module_name), name, None)
    if isinstance(variable, kind):
        return variable
    raise BadInput(f"module {module_name} has no {what} {name!r}{did_you_mean(name, found)}")


def _load_file(name: str) -> ModuleType:
    path = Path(name)
    if not path.is_file():
        raise BadInput(f"no file {name!r}: name a Python file, or a module that can be imported")
    if not path.stem.isidentifier():
        raise BadInput(f"{name!r} cannot be imported: {path.stem!r} is no name for a module")
    absolute = path.resolve()
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(absolute):
        return known
    if known is not None or path.stem in sys.stdlib_module_names:
        raise BadInput(f"{name!r} has the name of another module, {path.stem!r}: rename the file")
    _make_importable(absolute.parent)
    spec = importlib.util.spec_from_file_location(path.stem, absolute)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Before it is run: pydantic looks up the annotations of a class by its module's name.
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[path.stem]
        raise _import_failure(name, error) from error
    return module


def _make_importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _import_failure(name: str, error: Exception) -> BadInput:
    if isinstance(error, SyntaxError):
        place = f"{error.filename or name}:{error.lineno}:{error.offset}"
        return BadInput(f"{name} cannot be imported: {place}: {error.msg}")
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "importlib" not in frame.filename and not frame.filename.startswith(_OURS)
    ]
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return BadInput(f"{name} cannot be imported: {type(error).__name__}: {error}{place}")
