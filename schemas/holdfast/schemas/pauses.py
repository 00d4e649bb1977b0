"""Where pauses of agents stand: names that coordinators, agents and clients share.

    agent/<agent>                   the entity, and the key of its records on `coordinator`
    /paused, /paused/<order key>    in an agent's journal

No run id is empty, so no key of a task begins with a slash; order keys may hold some.
"""

from __future__ import annotations

import hashlib

__all__ = [
    "AGENT_PREFIX",
    "agent_entity",
    "parse_paused_key",
    "pause_name",
    "paused_key",
]

AGENT_PREFIX = "agent/"
"""What the keys of agents as entities begin with: no run id can be one, for it holds no slash."""
_PAUSED = "/paused"


def agent_entity(agent: str) -> str:
    """Return what stands for a run id in commands and events about an agent."""
    return f"{AGENT_PREFIX}{agent}"


def pause_name(order_key: str | None) -> str:
    """Return the name of a pause among the records of its agent; order keys may be long."""
    if order_key is None:
        return "all"
    return f"key/{hashlib.sha256(order_key.encode()).hexdigest()[:32]}"


def paused_key(order_key: str | None) -> str:
    """Return the key of a pause in the journal of its agent; None: of the whole agent."""
    return _PAUSED if order_key is None else f"{_PAUSED}/{order_key}"


def parse_paused_key(key: str) -> tuple[str | None] | None:
    """Return the order key of a `paused_key`, alone in a tuple; None for any other key."""
    if key == _PAUSED:
        return (None,)
    prefix, order_key = key[: len(_PAUSED) + 1], key[len(_PAUSED) + 1 :]
    return (order_key,) if prefix == f"{_PAUSED}/" else None
