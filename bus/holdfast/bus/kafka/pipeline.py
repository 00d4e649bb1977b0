"""A sender that asks the transaction coordinator for partitions and offsets at once.

aiokafka adds the partitions to the transaction, waits, then adds the consumer group, waits: one
round trip more in every commit than the protocol needs. Both requests go over one connection, and
the broker keeps their order.
"""
# ruff: noqa: SLF001 - the insides of aiokafka that are used are held by tests/unit/kafka

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka.producer.sender import Sender

__all__ = ["pipelined"]


class PipelinedSender(Sender):  # type: ignore[misc]
    """Adds what a transaction touches in one round trip."""

    def _maybe_do_transactional_request(self) -> Any:
        manager = self._txn_manager
        partitions, group = manager.partitions_to_add(), manager.consumer_group_to_add()
        if partitions and group is not None:
            return asyncio.ensure_future(self._add_both(partitions, group))
        return super()._maybe_do_transactional_request()

    async def _add_both(self, partitions: Any, group: str) -> None:
        # The set is the manager's own and shrinks as partitions are added.
        answers = await asyncio.gather(
            self._do_add_partitions_to_txn(set(partitions)),
            self._do_add_offsets_to_txn(group),
            return_exceptions=True,
        )
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer


def pipelined(producer: Any) -> Any:
    """Return `producer` (transactional, not started) with this sender in it."""
    old = producer._sender
    producer._sender = PipelinedSender(
        old.client,
        acks=old._acks,
        txn_manager=old._txn_manager,
        message_accumulator=old._message_accumulator,
        retry_backoff_ms=old._retry_backoff * 1000,
        request_timeout_ms=old._request_timeout_ms,
    )
    return producer
