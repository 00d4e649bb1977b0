"""What an error in a commit means to the slot: `Fenced`, `Rejected` or `OutcomeUnknown`.

The one certainty used: without an EndTxn(commit) that reached a broker, nothing can be committed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiokafka import errors as kafka_errors
from aiokafka.client import ConnectionGroup
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    TxnOffsetCommitRequest,
)

from holdfast.bus.errors import BusError, Fenced, OutcomeUnknown, Rejected
from holdfast.bus.kafka.clients import describe_error
from holdfast.bus.port import Record, Slot

__all__ = ["BatchFailed", "EndTap", "verdict"]

PRODUCER_FENCED = 90
HIGHEST_KNOWN_CODE = 79
"""aiokafka turns all codes above into `UnknownError`, without the code."""

_FENCED = (kafka_errors.ProducerFenced, kafka_errors.InvalidProducerEpoch)
_RECORDS_FAULT = (
    kafka_errors.MessageSizeTooLargeError,
    kafka_errors.RecordListTooLargeError,
    kafka_errors.InvalidMessageError,
    kafka_errors.CorruptRecordException,
    kafka_errors.InvalidTopicError,
    kafka_errors.TopicAuthorizationFailedError,
    kafka_errors.PolicyViolationError,
    kafka_errors.UnsupportedForMessageFormatError,
    kafka_errors.InvalidTimestampError,
)


_OF_A_TRANSACTION = (
    AddPartitionsToTxnRequest,
    AddOffsetsToTxnRequest,
    ProduceRequest,
    TxnOffsetCommitRequest,
    EndTxnRequest,
)


class BatchFailed(Exception):
    """A batch was not taken; its cause says why."""

    def __init__(self, records: Sequence[Record]) -> None:
        super().__init__()
        self.records = records


class EndTap:
    """Listens on a producer's client: was EndTxn sent, was its answer lost, which codes came.

    And whether a request of the transaction was lost and may still be on its way (a stray), even
    if the client's retry of it went through.
    """

    def __init__(self) -> None:
        self.ends_sent = 0
        self.ends_lost = 0
        self.strays = 0
        self.unknown_code: int | None = None

    def reset(self) -> None:
        """Forget what was heard: another commit begins."""
        self.__init__()  # type: ignore[misc]

    def put_on(self, client: Any) -> None:
        """Listen to what `client` sends from now on."""
        send = client.send

        async def tapped(
            node_id: int, request: Any, *, group: ConnectionGroup = ConnectionGroup.DEFAULT
        ) -> Any:
            ends = isinstance(request, EndTxnRequest)
            ours = isinstance(request, _OF_A_TRANSACTION)
            self.ends_sent += ends
            self.ends_lost += ends  # until it is answered
            self.strays += ours
            try:
                response = await send(node_id, request, group=group)
            except kafka_errors.NodeNotReadyError:
                self.strays -= ours  # there was no connection: it was never sent
                raise
            self.ends_lost -= ends
            self.strays -= ours
            code = getattr(response, "error_code", 0)
            if type(code) is int and code > HIGHEST_KNOWN_CODE:
                self.unknown_code = code
            return response

        client.send = tapped


def verdict(error: BaseException, slot: Slot, tap: EndTap) -> BusError:
    """Return the error of the port for what a commit of `slot` ended with."""
    records: Sequence[Record] = ()
    if isinstance(error, BatchFailed) and error.__cause__ is not None:
        records, error = error.records, error.__cause__
    code = tap.unknown_code
    if tap.ends_lost:
        return OutcomeUnknown(
            f"the answer to a commit of {_name(slot)} was lost ({_describe(error, code)})"
        )
    if isinstance(error, _FENCED) or code == PRODUCER_FENCED:
        return Fenced(f"{_name(slot)} has a newer writer, or its transaction timed out")
    if tap.ends_sent == 0 and records and isinstance(error, _RECORDS_FAULT):
        largest = max(records, key=lambda record: len(record.value or b""))
        return Rejected(largest, f"the broker says {_describe(error, code)}")
    return OutcomeUnknown(
        f"a commit of {_name(slot)} failed "
        f"({'before' if tap.ends_sent == 0 else 'after'} it was decided: {_describe(error, code)})"
    )


def _name(slot: Slot) -> str:
    return f"slot {slot.partition} of {slot.group!r}"


def _describe(error: BaseException, code: int | None) -> str:
    if isinstance(error, kafka_errors.UnknownError) and code is not None:
        return f"error code {code}"
    return describe_error(error)
