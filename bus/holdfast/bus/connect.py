"""From a URL to a bus: which adapter it is, is decided here and nowhere else.

Each adapter is imported only when it is asked for: a process on SQLite needs no Kafka client.
"""

from __future__ import annotations

from holdfast.bus.port import Bus
from holdfast.bus.settings import BusSettings, KafkaSettings, parse_bus_url

__all__ = ["open_bus"]


def open_bus(bus: str | BusSettings) -> Bus:
    """Return the bus, not started; raises `ConfigurationError` where it cannot be used."""
    settings = parse_bus_url(bus) if isinstance(bus, str) else bus
    if isinstance(settings, KafkaSettings):
        from holdfast.bus.kafka import KafkaBus

        return KafkaBus(settings)
    from holdfast.bus.embedded import EmbeddedBus, EmbeddedSettings

    return EmbeddedBus(EmbeddedSettings(settings.path))
