"""Schema ids: our own are fixed and below 1,000, users' begin at 1,000.

An id stands in front of every value on the wire (magic byte 0, 4-byte big-endian id, Avro). An id
never changes its meaning: a record format that changes takes a new one.
"""

from __future__ import annotations

import json
from enum import IntEnum
from functools import cache
from importlib.resources import files
from typing import Any

from holdfast.schemas.errors import UnknownSchema

__all__ = ["FIRST_USER_ID", "OwnSchema", "own_schema"]

FIRST_USER_ID = 1_000
"""The first id that the registry gives to a user's schema."""


class OwnSchema(IntEnum):
    """Holdfast's own schemas; the name is that of the `.avsc` file beside this module."""

    SlotOffset = 1
    TaskEnvelope = 2
    ControlEnvelope = 3
    CoordinatorEnvelope = 4
    Event = 5
    AgentJournal = 6
    CoordinatorJournal = 7
    DeadLetter = 8
    Manifest = 9
    SchemaEntry = 10
    RunEnded = 14
    SourceJournal = 15
    Json = 20
    """An Avro string that holds a JSON document: data that no schema describes."""


@cache
def own_schema(schema_id: int) -> Any:
    """Return the Avro schema (parsed JSON; not to be changed) of one of our own ids.

    Raises `UnknownSchema` for an id that is not ours.
    """
    try:
        name = OwnSchema(schema_id).name
    except ValueError:
        raise UnknownSchema(f"schema id {schema_id} is none of Holdfast's own") from None
    return json.loads(files("holdfast.schemas").joinpath(f"{name}.avsc").read_text("utf-8"))
