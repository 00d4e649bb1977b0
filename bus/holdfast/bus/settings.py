"""Where the bus is and how to reach it, from one URL: `sqlite:///path` or `kafka://host:port,…?…`.

Secrets never stand in the URL: they come by environment variables, and are kept out of every repr,
message and traceback of ours. `BusSettings` is what `holdfast.bus.connect.open_bus` takes.

Uses: the standard library. Must never: open a connection, or print a secret.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from holdfast.schemas.errors import ConfigurationError

__all__ = ["BusSettings", "KafkaSettings", "SqliteSettings", "parse_bus_url"]

DEFAULT_PORT = 9092
USERNAME_VARIABLE = "HOLDFAST_KAFKA_USERNAME"
PASSWORD_VARIABLE = "HOLDFAST_KAFKA_PASSWORD"  # noqa: S105 - the name of a variable
MIN_COMMIT_TIMEOUT_S = 60.0
"""Producers outlive a broker's restart by themselves (17 s, seen); giving up sooner only fences."""
MIN_REQUEST_MARGIN_S = 10.0
"""A member never joins when its requests time out before the group's rebalance does."""

Mechanism: TypeAlias = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
Compression: TypeAlias = Literal["none", "lz4", "zstd"]


@dataclass(frozen=True, slots=True)
class SqliteSettings:
    """The embedded bus: one file, any number of processes of one machine."""

    path: Path

    @property
    def url(self) -> str:
        """The URL again."""
        return f"sqlite:///{self.path}"


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """A Kafka cluster and how this process is its client. Times in seconds, sizes in bytes."""

    bootstrap: tuple[str, ...]
    client_id: str = "holdfast"
    tls: bool = False
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_key_password: str | None = field(default=None, repr=False)
    tls_check_hostname: bool = True
    sasl_mechanism: Mechanism | None = None
    sasl_username: str | None = field(default=None, repr=False)
    sasl_password: str | None = field(default=None, repr=False)
    connect_timeout_s: float = 30.0
    operation_timeout_s: float = 60.0
    commit_timeout_s: float = MIN_COMMIT_TIMEOUT_S
    transaction_timeout_s: float = 5.0
    session_timeout_s: float = 6.0
    heartbeat_s: float = 0.5
    rebalance_timeout_s: float = 10.0
    max_poll_interval_s: float = 300.0
    request_timeout_s: float = 20.0
    metadata_max_age_s: float = 300.0
    connections_max_idle_s: float = 540.0
    fetch_max_wait_s: float = 0.1
    fetch_max_bytes: int = 50 * 1024 * 1024
    fetch_partition_bytes: int = 1024 * 1024
    client_rack: str | None = None
    replication_factor: int = -1
    """Of topics that are created; -1: the broker's default."""
    compression: Compression = "zstd"
    compress_from_bytes: int = 16 * 1024
    """Batches below this are sent as they are: compressing them costs more than it saves."""

    @property
    def url(self) -> str:
        """Where it is, without options and secrets."""
        return f"kafka://{','.join(self.bootstrap)}"


BusSettings: TypeAlias = SqliteSettings | KafkaSettings


def parse_bus_url(url: str, environ: Mapping[str, str] | None = None) -> BusSettings:
    """Return the settings that `url` and the variables it names say.

    Raises:
        ConfigurationError: what is wrong, where, and what would be right; never with a secret.
    """
    environ = os.environ if environ is None else environ
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigurationError(f"the bus URL cannot be read: {_reason(error)}") from None
    if parts.scheme == "sqlite":
        return _sqlite(parts)
    if parts.scheme == "kafka":
        return _kafka(parts, environ)
    raise ConfigurationError(
        f"unknown bus {parts.scheme or url!r}: "
        "HOLDFAST_BUS is sqlite:///path or kafka://host:port,host:port"
    )


def _reason(error: ValueError) -> str:
    return str(error).split(":", 1)[0]


def _sqlite(parts: SplitResult) -> SqliteSettings:
    if parts.netloc:
        raise ConfigurationError(
            f"sqlite://{parts.netloc.rpartition('@')[2]}{parts.path} names a host: write sqlite:///path"
            " (three slashes for a relative path, four for an absolute one)"
        )
    if parts.query:
        name = parts.query.partition("=")[0]
        raise ConfigurationError(f"sqlite:///… takes no options, but {name!r} was given")
    path = unquote(parts.path)[1:]
    if not path:
        raise ConfigurationError("sqlite:/// names no file: write sqlite:///path/to/bus.db")
    return SqliteSettings(Path(path))


def _kafka(parts: SplitResult, environ: Mapping[str, str]) -> KafkaSettings:
    if "@" in parts.netloc:
        raise ConfigurationError(
            "the bus URL holds a user or password: take it out, "
            f"and set {USERNAME_VARIABLE} and {PASSWORD_VARIABLE} instead"
        )
    if parts.path.strip("/") or parts.fragment:
        raise ConfigurationError(f"kafka://{parts.netloc} takes no path: options follow a '?'")
    values: dict[str, Any] = {"bootstrap": _bootstrap(parts.netloc)}
    variables = {
        "sasl_username_env": USERNAME_VARIABLE,
        "sasl_password_env": PASSWORD_VARIABLE,
        "tls_key_password_env": "",
    }
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name in variables:
            variables[name] = text
        else:
            values[name] = _option(name, text)
    for option, variable in variables.items():
        if variable:
            values[option.removesuffix("_env")] = environ.get(variable)
    return _checked(KafkaSettings(**values), variables, environ)


def _bootstrap(netloc: str) -> tuple[str, ...]:
    servers = []
    for server in netloc.split(","):
        host, colon, port = server.rpartition(":")
        if not colon or server.endswith("]"):
            host, port = server, str(DEFAULT_PORT)
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ConfigurationError(
                f"{server!r} is no broker address: write kafka://host:port,host:port"
            )
        servers.append(f"{host}:{port}")
    return tuple(servers)


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "1", "yes"):
        return True
    if text.lower() in ("false", "0", "no"):
        return False
    raise ValueError("true or false")


def _choice(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return text

    return parse


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ValueError("a positive number")
    return value


def _bytes(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise ValueError("a number of bytes")
    return int(text)


def _at_least(minimum: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if (value := _positive(text)) < minimum:
            raise ValueError(f"at least {minimum:g}")
        return value

    return parse


def _replicas(text: str) -> int:
    if text != "-1" and (not text.isdigit() or int(text) == 0):
        raise ValueError("-1 (the broker's default) or a number of replicas")
    return int(text)


_OPTIONS: dict[str, Callable[[str], Any]] = {
    "client_id": str,
    "client_rack": str,
    "tls": _boolean,
    "tls_ca": Path,
    "tls_cert": Path,
    "tls_key": Path,
    "tls_check_hostname": _boolean,
    "sasl_mechanism": _choice("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"),
    "connect_timeout_s": _positive,
    "operation_timeout_s": _positive,
    "commit_timeout_s": _at_least(MIN_COMMIT_TIMEOUT_S),
    "transaction_timeout_s": _positive,
    "session_timeout_s": _positive,
    "heartbeat_s": _positive,
    "rebalance_timeout_s": _positive,
    "max_poll_interval_s": _positive,
    "request_timeout_s": _positive,
    "metadata_max_age_s": _positive,
    "connections_max_idle_s": _positive,
    "fetch_max_wait_s": _positive,
    "fetch_max_bytes": _bytes,
    "fetch_partition_bytes": _bytes,
    "replication_factor": _replicas,
    "compression": _choice("none", "lz4", "zstd"),
    "compress_from_bytes": _bytes,
}
_VARIABLE_OPTIONS = ("sasl_username_env", "sasl_password_env", "tls_key_password_env")


def _option(name: str, text: str) -> Any:
    if name in ("sasl_username", "sasl_password", "tls_key_password"):
        raise ConfigurationError(
            f"{name!r} must not stand in the bus URL: name a variable with it, {name}_env=NAME"
        )
    if name not in _OPTIONS:
        known = sorted([*_OPTIONS, *_VARIABLE_OPTIONS])
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigurationError(
            f"unknown option {name!r} of kafka://: {hint}Known are {', '.join(known)}"
        )
    try:
        return _OPTIONS[name](text)
    except ValueError as error:
        raise ConfigurationError(f"option {name}={text!r} of kafka:// must be {error}") from None


def _checked(
    settings: KafkaSettings, variables: Mapping[str, str], environ: Mapping[str, str]
) -> KafkaSettings:
    if settings.sasl_mechanism is not None:
        for option in ("sasl_username_env", "sasl_password_env"):
            if not environ.get(variables[option]):
                raise ConfigurationError(
                    f"sasl_mechanism={settings.sasl_mechanism} needs the variable "
                    f"{variables[option]}, which is not set"
                )
    if settings.request_timeout_s < settings.rebalance_timeout_s + MIN_REQUEST_MARGIN_S:
        raise ConfigurationError(
            f"request_timeout_s={settings.request_timeout_s:g} must be at least "
            f"{MIN_REQUEST_MARGIN_S:g} more than rebalance_timeout_s="
            f"{settings.rebalance_timeout_s:g}: a member would never join its group"
        )
    if settings.heartbeat_s * 3 > settings.session_timeout_s:
        raise ConfigurationError(
            f"heartbeat_s={settings.heartbeat_s:g} must be at most a third of "
            f"session_timeout_s={settings.session_timeout_s:g}"
        )
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise ConfigurationError("tls_cert and tls_key of kafka:// go together: give both or none")
    tls_options = (settings.tls_ca, settings.tls_cert)
    if any(tls_options) and not settings.tls:
        raise ConfigurationError("tls_ca and tls_cert of kafka:// need tls=true")
    for path in (*tls_options, settings.tls_key):
        if path is not None and not path.is_file():
            raise ConfigurationError(f"no file {path}, which the bus URL names")
    return settings
