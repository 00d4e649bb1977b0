"""From a URL to settings: what is taken, what is refused how, and no secret anywhere."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

import pytest

from holdfast.bus.kafka import KafkaBus
from holdfast.bus.kafka.clients import client_options
from holdfast.bus.settings import KafkaSettings, SqliteSettings, parse_bus_url
from holdfast.schemas.errors import ConfigurationError

SECRET = "hunter2-s3cret"
USER = "top-user"
BOTH = {"HOLDFAST_KAFKA_USERNAME": USER, "HOLDFAST_KAFKA_PASSWORD": SECRET}


def kafka(url: str, environ: dict[str, str] | None = None) -> KafkaSettings:
    settings = parse_bus_url(url, environ or {})
    assert isinstance(settings, KafkaSettings)
    return settings


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///bus.db", "bus.db"),
        ("sqlite:///.holdfast/bus.db", ".holdfast/bus.db"),
        ("sqlite:////var/lib/bus.db", "/var/lib/bus.db"),
        ("sqlite:///with%20space.db", "with space.db"),
    ],
)
def test_sqlite(url: str, path: str) -> None:
    assert parse_bus_url(url, {}) == SqliteSettings(Path(path))


def test_brokers_and_their_default_port() -> None:
    assert kafka("kafka://a:1,b:2,c").bootstrap == ("a:1", "b:2", "c:9092")
    assert kafka("kafka://[::1]:9093,[::2]").bootstrap == ("[::1]:9093", "[::2]:9092")


def test_options() -> None:
    made = kafka(
        "kafka://a:1?session_timeout_s=8&replication_factor=3&compression=lz4&client_id=me"
    )
    assert made.session_timeout_s == 8
    assert made.replication_factor == 3
    assert made.compression == "lz4"
    assert client_options(made)["client_id"] == "me"
    assert made.url == "kafka://a:1"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://x", r"unknown bus 'redis'.*sqlite:///path or kafka://host:port"),
        ("bus.db", r"unknown bus 'bus\.db'"),
        ("sqlite:///", "names no file"),
        ("sqlite://bus.db", "three slashes"),
        ("sqlite:///a?x=1", "takes no options, but 'x'"),
        ("kafka://", "no broker address"),
        ("kafka://a:port", "'a:port' is no broker address"),
        ("kafka://a:99999", "no broker address"),
        ("kafka://a:1/path", "takes no path"),
        ("kafka://a:1?sesion_timeout_s=8", r"'sesion_timeout_s'.*did you mean 'session_timeout_s'"),
        ("kafka://a:1?zzz=8", r"unknown option 'zzz' of kafka://: Known are .*tls_ca"),
        ("kafka://a:1?session_timeout_s=soon", "session_timeout_s='soon'.*a positive number"),
        ("kafka://a:1?commit_timeout_s=30", "at least 60"),
        ("kafka://a:1?request_timeout_s=12", "request_timeout_s=12 must be at least 10 more than"),
        ("kafka://a:1?heartbeat_s=3", "at most a third"),
        ("kafka://a:1?compression=gzip", "one of none, lz4, zstd"),
        ("kafka://a:1?tls=maybe", "true or false"),
        ("kafka://a:1?tls=true&tls_ca=/no/such/ca.pem", "no file /no/such/ca.pem"),
        ("kafka://a:1?tls_ca=/etc/hosts", "need tls=true"),
        ("kafka://a:1?tls=true&tls_cert=/etc/hosts", "go together"),
        ("kafka://a:1?sasl_mechanism=PLAIN", "needs the variable HOLDFAST_KAFKA_USERNAME"),
        ("kafka://a:1?sasl_mechanism=GSSAPI", "one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512"),
        ("kafka://a:1?fetch_max_bytes=-1", "a number of bytes"),
        ("kafka://a:1?replication_factor=0", "or a number of replicas"),
    ],
)
def test_what_is_refused(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        parse_bus_url(url, {})


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_secrets_come_by_variable(mechanism: str) -> None:
    options = client_options(kafka(f"kafka://a:1?sasl_mechanism={mechanism}", BOTH))
    assert options["security_protocol"] == "SASL_PLAINTEXT"
    assert options["sasl_mechanism"] == mechanism
    assert options["sasl_plain_username"] == USER
    assert options["sasl_plain_password"] == SECRET


def test_the_variables_can_be_named() -> None:
    url = "kafka://a:1?sasl_mechanism=PLAIN&sasl_username_env=U&sasl_password_env=P&tls=true"
    made = kafka(url, {"U": "me", "P": SECRET})
    assert (made.sasl_username, made.sasl_password) == ("me", SECRET)
    assert client_options(made)["security_protocol"] == "SASL_SSL"


def test_secrets_are_never_printed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    made = kafka("kafka://a:1?sasl_mechanism=PLAIN", BOTH)
    bus = KafkaBus(made)
    logging.getLogger().warning("%s %r %s %r %s", made, made, bus, bus, bus.url)
    printed = f"{made!r}{made}{made.url}{bus!r}{bus}{caplog.text}"
    assert SECRET not in printed
    assert USER not in printed


@pytest.mark.parametrize(
    "url",
    [
        f"kafka://{USER}:{SECRET}@a:1",
        f"kafka://a:1?sasl_password={SECRET}",
        f"kafka://a:1?sasl_username=x&sasl_password={SECRET}",
        f"kafka://a:1?tls_key_password={SECRET}",
        f"sqlite://{USER}:{SECRET}@host/path",
        f"kafka://{USER}:{SECRET}@[broken",
    ],
)
def test_a_secret_in_the_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse_bus_url(url, {})
    told = "".join(traceback.format_exception(refused.value))
    assert SECRET not in str(refused.value)
    assert SECRET not in told.replace(url, "")


def test_a_key_that_cannot_be_read_does_not_tell_its_password(tmp_path: Path) -> None:
    pem = tmp_path / "x.pem"
    pem.write_text("nonsense")
    url = f"kafka://a:1?tls=true&tls_cert={pem}&tls_key={pem}&tls_key_password_env=K"
    with pytest.raises(ConfigurationError, match=r"x\.pem") as refused:
        client_options(kafka(url, {"K": SECRET}))
    told = "".join(traceback.TracebackException.from_exception(refused.value).format())
    assert SECRET not in told
