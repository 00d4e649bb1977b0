"""Which build of an agent's code is at work: its id, as journals, results and manifests tell it.

    1.4+holdfast-0.1.0            as HOLDFAST_BUILD or `Agent(..., version=...)` says
    src-3f2a91bc04d1+holdfast-…   else: a hash over the source of the modules of its handlers

The hash covers those modules only, not what they import: say a version where that matters. A git
revision was not taken: it tells nothing of a changed working tree, and images have no repository.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from importlib.metadata import version
from pathlib import Path

from holdfast.agents.agent import Agent
from holdfast.agents.errors import DefinitionError

__all__ = ["build_id_of", "code_of"]

_SUFFIX = "+holdfast-"
_HASH_CHARS = 12
BUILD_CHARS_MAX = 128
"""The longest build id that can be given: it stands in each journaled step."""


def build_id_of(agent: Agent, given: str | None = None) -> str:
    """Return the build id of `agent`; `given` stands over its `version`.

    Raises `DefinitionError` for one that cannot be used.
    """
    code = given or agent.version or _source_hash(agent)
    if len(code) > BUILD_CHARS_MAX or not code.isprintable() or _SUFFIX in code:
        raise DefinitionError(
            f"build id {code[:BUILD_CHARS_MAX]!r} of agent {agent.name!r} cannot be used: at most "
            f"{BUILD_CHARS_MAX} printable characters, without {_SUFFIX!r}"
        )
    return f"{code}{_SUFFIX}{version('holdfast')}"


def code_of(build_id: str) -> str:
    """Return the part of a build id that tells of the agent's own code."""
    return build_id.partition(_SUFFIX)[0]


def _source_hash(agent: Agent) -> str:
    """Return a hash that changes with the source of any module that a handler stands in."""
    handlers = [task.handler for task in agent.tasks.values()]
    handlers += [kept.handler for kept in agent.kept.values()]
    names = {getattr(inspect.unwrap(handler), "__module__", "") for handler in handlers}
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(f"{name}\x00".encode() + _source(name))
    return f"src-{digest.hexdigest()[:_HASH_CHARS]}"


def _source(module: str) -> bytes:
    """Return a module's source; b"" where it has none (typed in, or compiled)."""
    path = getattr(sys.modules.get(module), "__file__", None)
    try:
        return Path(path).read_bytes() if path is not None else b""
    except OSError:
        return b""
