"""A TCP proxy on loopback that can do to a Kafka connection what networks do.

It forwards whole frames, so it can swallow one request or one answer; `cut` closes everything and
refuses new connections until `restore`. Clients are led to it by `redirect`: brokers name their own
address in their metadata, and a client would go round the proxy.
"""

from __future__ import annotations

import asyncio
import struct
from contextlib import suppress
from typing import Any

import aiokafka.client

END_TXN = 26
_LENGTH = struct.Struct(">i")
_API_KEY = struct.Struct(">h")

_redirects: dict[tuple[str, int], tuple[str, int]] = {}
_create_conn = aiokafka.client.create_conn


async def _redirected(host: str, port: int, **options: Any) -> Any:
    return await _create_conn(*_redirects.get((host, port), (host, port)), **options)


def redirect(real: tuple[str, int], proxy: tuple[str, int] | None) -> None:
    """Lead this process's Kafka clients that are about to connect to `real` to `proxy` instead."""
    aiokafka.client.create_conn = _redirected
    if proxy is None:
        _redirects.pop(real, None)
    else:
        _redirects[real] = proxy


class FaultProxy:
    """One port of loopback in front of one broker."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._swallow: tuple[int, bool] | None = None
        self.swallowed = asyncio.Event()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return ("127.0.0.1", self._port)

    async def restore(self) -> None:
        """Listen (on the same port as before) and forward."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
            self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Break every connection and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def swallow(self, api_key: int, *, answer: bool) -> None:
        """Lose the next request of this kind; with `answer` the broker gets it, but its answer is
        lost. Nothing passes on that connection afterwards."""
        self._swallow = (api_key, answer)
        self.swallowed.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        task.add_done_callback(self._tasks.discard)
        try:
            await self._forward(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        broker_reader, broker_writer = await asyncio.open_connection(*self._target)
        self._writers.add(broker_writer)
        silent = asyncio.Event()
        answers = asyncio.ensure_future(_pump(broker_reader, writer, silent))
        requests = asyncio.ensure_future(self._requests(reader, broker_writer, silent))
        try:
            await asyncio.wait({answers, requests}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (answers, requests):
                task.cancel()
                with suppress(BaseException):
                    await task
            self._writers.discard(broker_writer)
            broker_writer.transport.abort()

    async def _requests(
        self, reader: asyncio.StreamReader, broker: asyncio.StreamWriter, silent: asyncio.Event
    ) -> None:
        while True:
            length = await reader.readexactly(4)
            frame = await reader.readexactly(_LENGTH.unpack(length)[0])
            if self._swallow is not None and _API_KEY.unpack_from(frame)[0] == self._swallow[0]:
                answer, self._swallow = self._swallow[1], None
                silent.set()
                if answer:
                    broker.write(length + frame)
                    await broker.drain()
                self.swallowed.set()
                await asyncio.Event().wait()
            broker.write(length + frame)
            await broker.drain()


async def _pump(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, silent: asyncio.Event
) -> None:
    while data := await source.read(65536):
        if not silent.is_set():
            sink.write(data)
            await sink.drain()
