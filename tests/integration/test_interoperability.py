"""Agents in other languages: confluent-kafka's own (de)serializers read ours, and we theirs.

Its registry client talks to a registry that is served here, over HTTP, from our schemas.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated, Any
from uuid import UUID

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from pydantic import BaseModel, Field

from holdfast.schemas import DocumentCodec, decode, encode, own_schema, record_schema_id
from holdfast.schemas.ids import OwnSchema
from holdfast.schemas.payloads import PayloadCodec
from holdfast.schemas.records import TaskEnvelope
from tests.unit.schemas.samples import SAMPLES, TASK, sample_id

CONTEXT = SerializationContext("demo.tasks.a", MessageField.VALUE)


class Line(BaseModel):
    text: str
    price: Annotated[Decimal, Field(max_digits=10, decimal_places=2)]


class Order(BaseModel):
    number: int
    lines: list[Line]
    at: datetime
    customer: UUID
    note: str | None = None
    discounts: dict[str, float] = {}


ORDERS = PayloadCodec(Order)
ORDER = Order(
    number=7,
    lines=[Line(text="ünicode", price=Decimal("12.50"))],
    at=datetime(2026, 11, 21, 12, 0, 0, 5, tzinfo=UTC),
    customer=UUID(int=3),
    discounts={"early": 0.5},
)
SCHEMAS: dict[int, Any] = {int(own): own_schema(own) for own in OwnSchema}
SCHEMAS[1_000] = ORDERS.schema


class _Registry(BaseHTTPRequestHandler):
    """As much of a Confluent-compatible registry as its clients ask for: ids and schemas."""

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        found = SCHEMAS.get(int(parts[-1])) if parts[:2] == ["schemas", "ids"] else None
        if found is None:
            self._answer(404, {"error_code": 40_403, "message": "Schema not found"})
        else:
            self._answer(200, {"schema": json.dumps(found)})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        schema = json.loads(asked["schema"])
        for schema_id, known in SCHEMAS.items():
            if known == schema:
                self._answer(200, {"id": schema_id, "version": 1, "subject": "s", **asked})
                return
        self._answer(404, {"error_code": 40_403, "message": "Schema not found"})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


@pytest.fixture(scope="module")
def client() -> Iterator[SchemaRegistryClient]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Registry)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield SchemaRegistryClient({"url": f"http://127.0.0.1:{server.server_port}"})
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


def serializer(client: SchemaRegistryClient, schema: Any) -> AvroSerializer:
    return AvroSerializer(
        client, Schema(json.dumps(schema), "AVRO"), conf={"auto.register.schemas": False}
    )


@pytest.mark.parametrize("record", SAMPLES, ids=sample_id)
def test_their_deserializer_reads_our_records(client: SchemaRegistryClient, record: Any) -> None:
    found = AvroDeserializer(client)(encode(record), CONTEXT)
    names = {field["name"] for field in own_schema(record_schema_id(type(record)))["fields"]}
    assert set(found) == names
    plain = {name: getattr(record, name) for name in names}
    for name, value in plain.items():
        if isinstance(value, str | int | float | bool):
            assert found[name] == value, name


@pytest.mark.parametrize("record", SAMPLES, ids=sample_id)
def test_what_their_serializer_writes_is_accepted(
    client: SchemaRegistryClient, record: Any
) -> None:
    """Read by theirs, written by theirs again: byte for byte what we wrote."""
    data = encode(record)
    read = AvroDeserializer(client, return_record_name=True)(data, CONTEXT)
    schema = own_schema(record_schema_id(type(record)))
    written = serializer(client, schema)(read, CONTEXT)
    assert decode(type(record), written) == record


def test_a_record_from_scratch_by_theirs(client: SchemaRegistryClient) -> None:
    """What a foreign agent or client would send: plain dictionaries."""
    fields = {name: getattr(TASK, name) for name in TASK.__dataclass_fields__}
    written = serializer(client, own_schema(OwnSchema.TaskEnvelope))(fields, CONTEXT)
    assert decode(TaskEnvelope, written) == TASK
    assert written == encode(TASK)


def test_users_payloads_go_both_ways(client: SchemaRegistryClient) -> None:
    data = ORDERS.encode(ORDER, 1_000)
    read = AvroDeserializer(client)(data, CONTEXT)
    assert read["lines"] == [{"text": "ünicode", "price": Decimal("12.50")}]
    assert read["at"] == ORDER.at
    written = serializer(client, ORDERS.schema)(read, CONTEXT)
    assert ORDERS.decode(written, SCHEMAS.get) == ORDER
    assert DocumentCodec(SCHEMAS.get).decode(written)["number"] == 7
