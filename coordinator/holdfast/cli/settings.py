"""What every command knows: the client's settings, and how much to make and to say.

Read from flags, `HOLDFAST_*` variables, `[tool.holdfast]` and defaults, as the client's are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from holdfast.bus.settings import SqliteSettings, parse_bus_url
from holdfast.client.settings import ClientSettings, load

__all__ = ["HOME", "PARTITIONS_MAX", "Settings", "load_settings"]

HOME = Path(".holdfast")
"""The folder, in the current one, that holds the embedded bus and the logs of `dev`."""
SQLITE_PARTITIONS = 4
KAFKA_PARTITIONS = 12
PARTITIONS_MAX = 1_000

LogLevel = Literal["debug", "info", "warning", "error"]


class Settings(ClientSettings):
    """The settings of one process; immutable. An unknown name in `[tool.holdfast]` is refused."""

    model_config = SettingsConfigDict(extra="forbid")

    partitions: int | None = Field(default=None, ge=1, le=PARTITIONS_MAX)
    """Partitions of topics that are created; unset: 4 on SQLite, 12 on Kafka."""
    keep_events: bool = False
    """Events are kept for ever, instead of 90 days or 50 GB; decided when the topic is created."""
    log_level: LogLevel = "info"
    build: str | None = None
    """What the build of the agents' code is called; unset: by their version, or their source."""

    @property
    def bus_file(self) -> Path | None:
        """The embedded bus's file; None on Kafka."""
        parsed = parse_bus_url(self.bus)
        return parsed.path if isinstance(parsed, SqliteSettings) else None

    @property
    def topic_partitions(self) -> int:
        """How many partitions a topic gets when it is created."""
        if self.partitions is not None:
            return self.partitions
        return KAFKA_PARTITIONS if self.bus_file is None else SQLITE_PARTITIONS

    def environment(self) -> dict[str, str]:
        """Return the variables that give a child process these settings."""
        found = {
            "HOLDFAST_BUS": self.bus,
            "HOLDFAST_NAMESPACE": self.namespace,
            "HOLDFAST_LOG_LEVEL": self.log_level,
        }
        if self.build is not None:
            found["HOLDFAST_BUILD"] = self.build
        if self.keep_events:
            found["HOLDFAST_KEEP_EVENTS"] = "true"
        if self.partitions is not None:
            found["HOLDFAST_PARTITIONS"] = str(self.partitions)
        if self.blobs is not None:
            found["HOLDFAST_BLOBS"] = self.blobs
        return found


def load_settings(**flags: Any) -> Settings:
    """Return the settings; flags that are None count as not given.

    Raises:
        ConfigurationError: naming the setting, where it was set, and what would be right.
    """
    return load(Settings, flags)
