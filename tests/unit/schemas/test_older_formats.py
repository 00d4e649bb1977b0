"""Records of older versions: their schemas are kept, can be resolved, and are never changed."""

from __future__ import annotations

import gzip
import hashlib
import json
from base64 import b64decode
from pathlib import Path

import pytest

from holdfast.schemas import OwnSchema, compile_schema, decode, own_schema
from holdfast.schemas import records as record_types
from holdfast.schemas.guard import compile_guard
from holdfast.schemas.ids import OLDER
from holdfast.schemas.wire import canonical

FOLDER = Path(__file__).parents[3] / "schemas/holdfast/schemas/older"
LOG = Path(__file__).parents[2] / "frozen/0.1.0-pre/log.gz"
DIGESTS = {
    2: "58c5064193813008",
    3: "3087e105146f4220",
    4: "94f4c5285a90d6b3",
    5: "d30543ffedd412de",
    6: "022aa9ef9e4856ea",
    7: "f25a93a8419d8d7f",
    8: "675ffd99800354eb",
    9: "61fe3bd67f779c3c",
}


def test_each_older_id_has_its_schema_and_each_schema_its_id() -> None:
    names = {f"{own.name}.{schema_id}.avsc" for schema_id, own in OLDER.items()}
    assert {path.name for path in FOLDER.iterdir()} == names
    assert not set(OLDER) & {int(own) for own in OwnSchema}


@pytest.mark.parametrize("schema_id", sorted(OLDER))
def test_an_older_schema_is_what_it_was(schema_id: int) -> None:
    text = canonical(own_schema(schema_id))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == DIGESTS[schema_id]
    assert compile_guard(compile_schema(own_schema(schema_id)).parsed) is None


def test_every_record_of_an_older_log_is_read() -> None:
    lines = gzip.decompress(LOG.read_bytes()).decode().splitlines()[1:]
    read = set()
    for line in lines:
        topic, _, _, _, key, value, _ = json.loads(line)
        if value is None:
            continue
        data = b64decode(value)
        schema_id = int.from_bytes(data[1:5])
        own = OLDER.get(schema_id) or OwnSchema(schema_id)
        record = decode(getattr(record_types, own.name), data)
        assert type(record).__name__ == own.name, (topic, key)
        read.add(schema_id)
    assert read >= {1, 2, 4, 5, 6, 7, 8, 9, 10}
