"""Kafka over TLS: the broker's certificate is checked; a client that does not trust it is told."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest

from deploy.kafka.broker import free_port
from holdfast.bus.errors import BusUnavailable
from holdfast.bus.kafka import KafkaBus
from holdfast.bus.port import Record, TopicSpec
from holdfast.bus.settings import KafkaSettings, parse_bus_url
from tests.broker import local_broker, refuse
from tests.contract.kit import read_all, values

pytestmark = pytest.mark.kafka


def certify(folder: Path) -> None:
    """Make an authority (`ca.pem`), and a broker's key and certificate (`broker.pem`)."""
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=test-ca -days 2",
        "req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=127.0.0.1",
        "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -out cert.pem"
        " -days 2 -extfile san",
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    whole = (folder / "key.pem").read_text() + (folder / "cert.pem").read_text()
    (folder / "broker.pem").write_text(whole)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Any:
    if shutil.which("openssl") is None:
        refuse("no openssl to make certificates with (Debian: apt-get install openssl)")
    folder = tmp_path_factory.mktemp("tls")
    certify(folder)
    port = free_port()
    listeners = (
        f"PLAINTEXT://127.0.0.1:{{port}},TLS://127.0.0.1:{port},"
        "CONTROLLER://127.0.0.1:{controller_port}"
    )
    properties = {
        "listeners": listeners,
        "advertised.listeners": listeners,
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,TLS:SSL",
        "listener.name.tls.ssl.keystore.type": "PEM",
        "listener.name.tls.ssl.keystore.location": str(folder / "broker.pem"),
    }
    with local_broker(properties=properties):
        yield f"kafka://127.0.0.1:{port}?tls=true&connect_timeout_s=10", folder / "ca.pem"


def settings(url: str) -> KafkaSettings:
    made = parse_bus_url(url, {})
    assert isinstance(made, KafkaSettings)
    return made


async def test_tls(tls: tuple[str, Path]) -> None:
    url, authority = tls
    bus = KafkaBus(settings(f"{url}&tls_ca={authority}"))
    await bus.start()
    topic = f"t{uuid.uuid4().hex[:10]}"
    await bus.create_topics([TopicSpec(topic, 1)])
    await bus.publish([Record(topic, b"k", b"v")])
    assert values(await read_all(bus, topic)) == [b"v"]
    await bus.close()


async def test_an_authority_that_is_not_trusted_is_told_at_once(tls: tuple[str, Path]) -> None:
    bus = KafkaBus(settings(tls[0]))
    with pytest.raises(BusUnavailable, match=r"TLS failed.*check tls, tls_ca"):
        await bus.start()
    await bus.close()
