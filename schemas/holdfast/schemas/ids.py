"""Schema ids: our own are fixed and below 1,000, users' begin at 1,000.

An id stands in front of every value on the wire (magic byte 0, 4-byte big-endian id, Avro). An id
never changes its meaning: a record format that changes takes a new one, and the schema that it had
stays in `older/<name>.<id>.avsc`, by which what was written under the old id is read for ever.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import IntEnum
from functools import cache
from importlib.resources import files
from typing import Any

from holdfast.schemas.errors import UnknownSchema

__all__ = ["FIRST_USER_ID", "OLDER", "OwnSchema", "own_schema"]

FIRST_USER_ID = 1_000
"""The first id that the registry gives to a user's schema."""


class OwnSchema(IntEnum):
    """Holdfast's own schemas; the name is that of the `.avsc` file beside this module."""

    SlotOffset = 1
    TaskEnvelope = 102
    ControlEnvelope = 103
    CoordinatorEnvelope = 104
    Event = 105
    AgentJournal = 106
    CoordinatorJournal = 107
    DeadLetter = 108
    Manifest = 109
    SchemaEntry = 10
    RunEnded = 14
    SourceJournal = 15
    Json = 20
    """An Avro string that holds a JSON document: data that no schema describes."""


OLDER: Mapping[int, OwnSchema] = {
    2: OwnSchema.TaskEnvelope,
    3: OwnSchema.ControlEnvelope,
    4: OwnSchema.CoordinatorEnvelope,
    5: OwnSchema.Event,
    6: OwnSchema.AgentJournal,
    7: OwnSchema.CoordinatorJournal,
    8: OwnSchema.DeadLetter,
    9: OwnSchema.Manifest,
}
"""Ids under which older versions wrote, and what their records are now: read, never written."""


@cache
def own_schema(schema_id: int) -> Any:
    """Return the Avro schema (parsed JSON; not to be changed) of one of our own ids, old or new.

    Raises `UnknownSchema` for an id that is not ours.
    """
    older = OLDER.get(schema_id)
    try:
        name = OwnSchema(schema_id).name if older is None else f"older/{older.name}.{schema_id}"
    except ValueError:
        raise UnknownSchema(f"schema id {schema_id} is none of Holdfast's own") from None
    return json.loads(files("holdfast.schemas").joinpath(f"{name}.avsc").read_text("utf-8"))
