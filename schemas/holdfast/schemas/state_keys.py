"""Where an agent's keyed state stands: names that its journal, its clients and the events share.

    /state/<name>/<order key>       StateEntry
    /deletion/<number>              StateDeletion, while a task of its order key is at work

No run id is empty, so no key of a task begins with a slash; names hold none, order keys may.
"""

from __future__ import annotations

import re

from holdfast.schemas.errors import ConfigurationError

__all__ = [
    "ORDER_KEY_CHARS_MAX",
    "STATE_NAMES_MAX",
    "STATE_PREFIX",
    "STATE_VALUE_BYTES_MAX",
    "check_state_name",
    "deletion_key",
    "deletion_number",
    "order_record_key",
    "parse_state_key",
    "state_entity",
    "state_key",
    "state_subject",
]

STATE_NAMES_MAX = 64
"""Names under one order key."""
STATE_VALUE_BYTES_MAX = 256 * 1024
"""Of one value, as Avro. It stands in a record, and in the memory of the slot."""
ORDER_KEY_CHARS_MAX = 65_536

STATE_PREFIX = "/state/"
_DELETION_PREFIX = "/deletion/"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def check_state_name(name: object) -> str:
    """Return `name`; raises `ConfigurationError` if nothing can be kept under it."""
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise ConfigurationError(
            f"state name {name!r} cannot be used: 1 to 64 letters, digits, '_' and '-'"
        )
    return name


def state_key(order_key: str, name: str) -> str:
    """Return the journal key of what is kept under an order key and a name."""
    return f"{STATE_PREFIX}{name}/{order_key}"


def parse_state_key(key: str) -> tuple[str, str] | None:
    """Return (order key, name) of a `state_key`; None for any other key of a journal."""
    if not key.startswith(STATE_PREFIX):
        return None
    name, slash, order_key = key[len(STATE_PREFIX) :].partition("/")
    return (order_key, name) if slash else None


def deletion_key(number: int) -> str:
    """Return the journal key of a deletion that waits; `number`: its offset in `control`."""
    return f"{_DELETION_PREFIX}{number}"


def deletion_number(key: str) -> int | None:
    """Return the number of a `deletion_key`; None for any other key of a journal."""
    number = key.removeprefix(_DELETION_PREFIX)
    return int(number) if number != key and number.isdecimal() else None


def order_record_key(order_key: str) -> bytes:
    """Return the record key of everything that is about an order key: it chooses the slot."""
    return f"o:{order_key}".encode()


def state_entity(agent: str) -> str:
    """Return what stands for a run id in events about the state of an agent."""
    return f"state/{agent}"


def state_subject(agent: str, name: str) -> str:
    """Return the subject under which the schemas of a name's values are registered."""
    return f"{agent}.state.{name}.value"
