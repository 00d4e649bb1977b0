"""The root of every error that Holdfast raises, and those that concern schemas and records.

    HoldfastError
    ├── SchemaError                 a schema cannot be used
    │   ├── UnsupportedType         a Python type has no Avro counterpart (names the field)
    │   ├── IncompatibleSchema      a schema would break its readers (names reader and field)
    │   └── UnknownSchema           a schema id that the registry does not hold
    ├── Undecodable                 bytes that are not what they claim to be
    ├── Unencodable                 a value that does not fit its schema (names the field)
    ├── DoesNotFit                  a decoded value that its model refuses (names the field)
    ├── PlanError                   a plan that cannot be run (names the task and the remedy)
    ├── ScheduleError               a schedule that cannot be kept (names the field and the remedy)
    ├── ConfigurationError          a setting that cannot be used (names it and the remedy)
    └── BusError                    see holdfast.bus.errors

Messages are for people: they name the thing, the place and the remedy, in one or two lines.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "ConfigurationError",
    "DoesNotFit",
    "HoldfastError",
    "IncompatibleSchema",
    "PlanError",
    "ScheduleError",
    "SchemaError",
    "Undecodable",
    "Unencodable",
    "UnknownSchema",
    "UnsupportedType",
    "did_you_mean",
]


class HoldfastError(Exception):
    """Anything that Holdfast raises on purpose."""


class ConfigurationError(HoldfastError):
    """A setting cannot be used."""


class ScheduleError(HoldfastError):
    """A schedule that cannot be kept; the message names the field and the remedy."""


class SchemaError(HoldfastError):
    """A schema cannot be used."""


class UnsupportedType(SchemaError):
    """A Python type has no counterpart in the documented table of types."""


class IncompatibleSchema(SchemaError):
    """A schema would break those who read what is written with it."""


class UnknownSchema(SchemaError):
    """A schema id that the registry does not hold (yet)."""


class Undecodable(HoldfastError):
    """Bytes that are not what they claim to be: truncated, flipped, or of another schema."""


class Unencodable(HoldfastError):
    """A value does not fit the schema it should be written with."""


class DoesNotFit(HoldfastError):
    """A value was decoded, but the model that it is meant for refuses it (names the field)."""


class PlanError(HoldfastError):
    """A plan cannot be run as it stands."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown `name`: what was meant, or what there is."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    if not names:
        return "; there are none"
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"; there is {', '.join(names[:8])}{more}"
