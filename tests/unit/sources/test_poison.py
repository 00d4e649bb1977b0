"""One record that nothing can be made of is a dead letter, whatever it makes a function raise."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, field_serializer, field_validator

from holdfast.schemas.records import FailureKind
from holdfast.sources import Source, Submit, Topic, TopicRecord
from tests.unit.sources.fake_slot import TOPICS
from tests.unit.sources.test_machine import fulfil, slot_of

KNOWN = {"1": "one"}


class Validated(BaseModel):
    number: str

    @field_validator("number")
    @classmethod
    def known(cls, value: str) -> str:
        return KNOWN[value]


class Serialized(BaseModel):
    number: str

    @field_serializer("number")
    def known(self, value: str) -> str:
        if value not in KNOWN:
            raise KeyError(value)
        return value


def _submitting(**settings: Any) -> Source[Any]:
    def convert(record: TopicRecord[Any]) -> Submit:
        made = {name: record.value[key] for name, key in settings.items()}
        work = made.pop("work", fulfil())
        given = made.pop("input", {"number": "1"})
        return Submit(work, given, **made)

    return Source.of("orders", Topic(TOPICS.topic), convert)


def _serializing() -> Source[Any]:
    def convert(record: TopicRecord[Any]) -> Submit:
        return Submit(fulfil(), Serialized.model_construct(number=record.value["number"]))

    return Source.of("orders", Topic(TOPICS.topic), convert)


@pytest.mark.parametrize(
    ("made", "data", "told"),
    [
        (
            Source("orders", topic=Topic(TOPICS.topic, Validated), plan=fulfil()),
            b'{"number": "zz"}',
            "its value does not fit: KeyError: 'zz'",
        ),
        (_submitting(order_key="key"), b'{"key": 7}', "order_key=7 must be text"),
        (_submitting(deadline_s="s"), b'{"s": "5"}', "deadline_s='5' must be a positive number"),
        (_submitting(deadline_s="s"), b'{"s": true}', "deadline_s=True must be a positive number"),
        (_submitting(work="plan"), b'{"plan": null}', "a NoneType cannot be started"),
        (_submitting(work="plan"), b'{"plan": {"tasks": {}}}', "a dict cannot be started"),
        (_serializing(), b'{"number": "zz"}', "no run can be started with it"),
    ],
)
async def test_a_record_that_breaks_what_the_user_wrote(
    made: Source[Any], data: bytes, told: str
) -> None:
    slot = slot_of(made)
    slot.publish(data)
    slot.publish(None)
    await slot.work()
    assert not slot.died
    (letter,) = slot.letters
    assert letter.failure is not None
    assert told in letter.failure.message
    assert letter.failure.kind is FailureKind.SCHEMA
    assert slot.offsets[TOPICS.topic] == 2, "its neighbour passes"
    slot.machine.lost()
