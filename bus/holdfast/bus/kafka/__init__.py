"""The Kafka adapter of the bus, on aiokafka.

Holds: `KafkaBus`. May use: aiokafka, `holdfast.bus.port`, errors, settings. Must never: let a
transaction, an exception or a type of aiokafka out; be imported where Kafka is not asked for.
"""

from holdfast.bus.kafka.bus import KafkaBus

__all__ = ["KafkaBus"]
