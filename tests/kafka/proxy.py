"""A TCP proxy on loopback that can do to a Kafka connection what networks do.

It forwards whole frames and knows what each request is, so one request, or its answer, can be
lost, delayed, trickled, held back for later, or be the last thing that a connection carries
(`Fault`). `cut` closes everything and refuses new connections until `restore`.

Clients must be led to it, for brokers name their own addresses in their metadata and a client would
go round the proxy. Either `redirect` does that inside this process, or the broker advertises the
proxy's address on a listener of its own (`advertise`), which holds for every process.
"""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any, NamedTuple

import aiokafka.client

_LENGTH = struct.Struct(">i")
_HEADER = struct.Struct(">hhi")
_STRING = struct.Struct(">h")
MAX_FRAME_BYTES = 256 * 1024 * 1024
FOLLOWERS_S = 0.02
"""How long a cut-off connection is still listened to: what the client had sent before it knew."""
TRICKLE_BYTES_AT_ONCE = 200
"""So many bytes of a trickled frame come one by one; the rest follows whole."""

_redirects: dict[tuple[str, int], tuple[str, int]] = {}
_create_conn = aiokafka.client.create_conn


class ApiKey(IntEnum):
    """The kinds of request that clients of a bus send (the protocol's `api_key`)."""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    LEAVE_GROUP = 13
    SYNC_GROUP = 14
    DESCRIBE_GROUPS = 15
    LIST_GROUPS = 16
    API_VERSIONS = 18
    CREATE_TOPICS = 19
    DELETE_RECORDS = 21
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS_TO_TXN = 24
    ADD_OFFSETS_TO_TXN = 25
    END_TXN = 26
    WRITE_TXN_MARKERS = 27
    TXN_OFFSET_COMMIT = 28
    DESCRIBE_CONFIGS = 32
    DESCRIBE_PRODUCERS = 61
    DESCRIBE_TRANSACTIONS = 65


END_TXN = ApiKey.END_TXN
TRANSACTIONAL = frozenset(
    {
        ApiKey.PRODUCE,
        ApiKey.INIT_PRODUCER_ID,
        ApiKey.ADD_PARTITIONS_TO_TXN,
        ApiKey.ADD_OFFSETS_TO_TXN,
        ApiKey.END_TXN,
        ApiKey.TXN_OFFSET_COMMIT,
    }
)
"""Requests that begin with the transactional id, in the versions that aiokafka speaks."""


class Fault(Enum):
    """What happens to one request."""

    CUT_BEFORE = "cut-before"
    """The connection breaks; the broker never gets it."""
    CUT_SENT = "cut-sent"
    """The broker gets it, and the connection breaks before its answer."""
    CUT_ANSWERED = "cut-answered"
    """The broker has done it; the connection breaks instead of its answer."""
    LOSE_REQUEST = "lose-request"
    """Half-open: from it on nothing passes, and the connection stays."""
    LOSE_ANSWER = "lose-answer"
    """Half-open from its answer on: the broker did it, the client never hears."""
    DELAY = "delay"
    """It and what follows on its connection come `delay_s` late."""
    TRICKLE = "trickle"
    """It and its answer come byte by byte."""
    HOLD_CUT = "hold-cut"
    """Held back for `HeldFrame.deliver`; the client's side breaks at once."""
    HOLD_SILENT = "hold-silent"
    """Held back for `HeldFrame.deliver`; the client hears nothing until it gives up."""
    GATE = "gate"
    """It waits until `Injection.open_gate` is called."""


class Frame(NamedTuple):
    """One request as it stands on the wire. `data` is all of it, with its length."""

    api_key: int
    version: int
    correlation: int
    data: bytes

    @property
    def transactional_id(self) -> str | None:
        """Whose transaction it belongs to, if to any."""
        if self.api_key not in TRANSACTIONAL:
            return None
        at = _LENGTH.size + _HEADER.size
        (client_id_bytes,) = _STRING.unpack_from(self.data, at)
        at += _STRING.size + max(0, client_id_bytes)
        (length,) = _STRING.unpack_from(self.data, at)
        at += _STRING.size
        return self.data[at : at + length].decode() if length >= 0 else None


@dataclass(eq=False)
class HeldFrame:
    """A request, and what its client sent after it, on a connection that the client has given up.

    The connection to the broker stays open: this is what a stalled network path is.
    """

    frame: Frame
    data: bytearray
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def deliver(self, within_s: float = 10.0) -> bytes | None:
        """Let the broker have it; return its answer to the request, None if there was none."""
        self.writer.write(bytes(self.data))
        try:
            async with asyncio.timeout(within_s):
                await self.writer.drain()
                while True:
                    answer = await _read_answer(self.reader)
                    if _LENGTH.unpack_from(answer, 4)[0] == self.frame.correlation:
                        return answer
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            return None
        finally:
            self.drop()

    def drop(self) -> None:
        """Lose it."""
        self.writer.transport.abort()


@dataclass(eq=False)
class Injection:
    """One fault that waits for its request: the next of kind `api_key` that `chooses` accepts."""

    fault: Fault
    api_key: int
    delay_s: float = 0.5
    chooses: Callable[[Frame], bool] = lambda _frame: True
    struck: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it has happened."""
    held: HeldFrame | None = None
    """With `HOLD_CUT` and `HOLD_SILENT`, once it has struck."""
    frame: Frame | None = None
    _opened: asyncio.Event = field(default_factory=asyncio.Event)

    def open_gate(self) -> None:
        """Let go what `GATE` keeps."""
        self._opened.set()

    async def gate(self) -> None:
        """Wait for `open_gate`."""
        await self._opened.wait()


async def _redirected(host: str, port: int, **options: Any) -> Any:
    return await _create_conn(*_redirects.get((host, port), (host, port)), **options)


def redirect(real: tuple[str, int], proxy: tuple[str, int] | None) -> None:
    """Lead this process's Kafka clients that are about to connect to `real` to `proxy` instead."""
    aiokafka.client.create_conn = _redirected
    if proxy is None:
        _redirects.pop(real, None)
    else:
        _redirects[real] = proxy


def advertise(listener_port: int, proxy_port: int) -> dict[str, str]:
    """Return the properties with which a `LocalBroker` sends its clients to a proxy.

    Its own port goes on as it was; who comes by `listener_port`, where the proxy's target must be,
    is told `proxy_port` wherever the protocol names this broker.
    """
    own = "PLAINTEXT://127.0.0.1:{port}"
    controller = "CONTROLLER://127.0.0.1:{controller_port}"
    names = "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT"
    return {
        "listeners": f"{own},PROXIED://127.0.0.1:{listener_port},{controller}",
        "advertised.listeners": f"{own},PROXIED://127.0.0.1:{proxy_port},{controller}",
        "listener.security.protocol.map": names,
    }


class FaultProxy:
    """One port of loopback in front of one broker. `port` 0 picks a free one, which then stays."""

    def __init__(self, target: tuple[str, int], port: int = 0) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._port = port
        self._connections: set[_Connection] = set()
        self._injections: list[Injection] = []
        self.seen: Counter[int] = Counter()
        """How many requests of each kind have come."""

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
        await self.reset()

    async def reset(self) -> None:
        """Break every connection; new ones are welcome."""
        tasks = [connection.end() for connection in self._connections]
        await asyncio.gather(*tasks, return_exceptions=True)

    def inject(self, injection: Injection) -> Injection:
        """Have it strike its request. Of several that wait for one, the first is taken."""
        self._injections.append(injection)
        return injection

    def withdraw(self, injection: Injection) -> None:
        """Forget one that has not struck."""
        with suppress(ValueError):
            self._injections.remove(injection)

    def swallow(self, api_key: int, *, answer: bool) -> Injection:
        """Lose the next request of this kind; with `answer` the broker gets it, but its answer is
        lost. Nothing passes on that connection afterwards."""
        fault = Fault.LOSE_ANSWER if answer else Fault.LOSE_REQUEST
        return self.inject(Injection(fault, api_key))

    def taken_by(self, frame: Frame) -> Injection | None:
        """Count a request, and return what strikes it. For the connections."""
        self.seen[frame.api_key] += 1
        for injection in self._injections:
            if injection.api_key == frame.api_key and injection.chooses(frame):
                self._injections.remove(injection)
                injection.frame = frame
                return injection
        return None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connection = _Connection(self, task, reader, writer)
        self._connections.add(connection)
        try:
            await connection.run(self._target)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(connection)
            writer.transport.abort()


class _Broken(Exception):
    """This connection ends here."""


class _Connection:
    """A client's connection, and the one to the broker that stands for it."""

    def __init__(
        self,
        proxy: FaultProxy,
        task: asyncio.Task[Any],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._proxy = proxy
        self._task = task
        self._client_reader, self._client_writer = reader, writer
        self._silent = False
        self._kept = False
        self._answers: dict[int, Injection] = {}

    async def end(self) -> None:
        """Break it now."""
        self._client_writer.transport.abort()
        self._task.cancel()
        await asyncio.wait({self._task})

    async def run(self, target: tuple[str, int]) -> None:
        """Forward until one side ends."""
        self._broker_reader, self._broker_writer = await asyncio.open_connection(*target)
        requests = asyncio.ensure_future(self._requests())
        self._answering = responses = asyncio.ensure_future(self._responses())
        try:
            await asyncio.wait({requests, responses}, return_when=asyncio.FIRST_COMPLETED)
            if self._kept and not requests.done():  # held: only the client ends it now
                await asyncio.wait({requests})
        finally:
            for pump in (requests, responses):
                pump.cancel()
                with suppress(BaseException):
                    await pump
            if not self._kept:
                self._broker_writer.transport.abort()

    async def _requests(self) -> None:
        while True:
            frame = await _read_request(self._client_reader)
            injection = self._proxy.taken_by(frame)
            if injection is None:
                await self._forward(frame)
            else:
                await self._strike(injection, frame)

    async def _responses(self) -> None:
        while True:
            answer = await _read_answer(self._broker_reader)
            injection = self._answers.pop(_LENGTH.unpack_from(answer, 4)[0], None)
            if injection is not None and injection.fault is Fault.TRICKLE:
                await _trickle(self._client_writer, answer)
                injection.struck.set()
                continue
            if injection is not None:
                self._silent = True
                injection.struck.set()
                if injection.fault is Fault.CUT_ANSWERED:
                    raise _Broken
            if not self._silent:
                self._client_writer.write(answer)
                await self._client_writer.drain()

    async def _forward(self, frame: Frame) -> None:
        self._broker_writer.write(frame.data)
        await self._broker_writer.drain()

    async def _strike(self, injection: Injection, frame: Frame) -> None:
        match injection.fault:
            case Fault.CUT_BEFORE:
                injection.struck.set()
                raise _Broken
            case Fault.CUT_SENT:
                await self._forward(frame)
                self._kept = self._silent = True
                self._broker_writer.close()  # a reset would take the request back
                injection.struck.set()
                raise _Broken
            case Fault.CUT_ANSWERED | Fault.LOSE_ANSWER:
                self._answers[frame.correlation] = injection
                await self._forward(frame)
            case Fault.LOSE_REQUEST:
                self._silent = True
                injection.struck.set()
                await self._listen_only()
            case Fault.DELAY:
                injection.struck.set()
                await asyncio.sleep(injection.delay_s)
                await self._forward(frame)
            case Fault.TRICKLE:
                self._answers[frame.correlation] = injection
                await _trickle(self._broker_writer, frame.data)
            case Fault.GATE:
                injection.struck.set()
                await injection.gate()
                await self._forward(frame)
            case Fault.HOLD_CUT | Fault.HOLD_SILENT:
                await self._hold(injection, frame)

    async def _listen_only(self) -> None:
        while await self._client_reader.read(65536):
            pass

    async def _hold(self, injection: Injection, frame: Frame) -> None:
        self._kept = self._silent = True
        self._answering.cancel()  # what the broker still says, `deliver` reads
        held = HeldFrame(frame, bytearray(frame.data), self._broker_reader, self._broker_writer)
        injection.held = held
        injection.struck.set()
        with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            if injection.fault is Fault.HOLD_CUT:
                async with asyncio.timeout(FOLLOWERS_S):
                    await self._gather(held)
            else:
                await self._gather(held)
        raise _Broken

    async def _gather(self, held: HeldFrame) -> None:
        while True:
            held.data += (await _read_request(self._client_reader)).data


async def _read_request(reader: asyncio.StreamReader) -> Frame:
    data = await _read_answer(reader)
    api_key, version, correlation = _HEADER.unpack_from(data, _LENGTH.size)
    return Frame(api_key, version, correlation, data)


async def _read_answer(reader: asyncio.StreamReader) -> bytes:
    length = await reader.readexactly(_LENGTH.size)
    (size,) = _LENGTH.unpack(length)
    if not 0 <= size <= MAX_FRAME_BYTES:
        raise OSError(f"a frame of {size} bytes: this is not Kafka's protocol")
    return length + await reader.readexactly(size)


async def _trickle(writer: asyncio.StreamWriter, data: bytes) -> None:
    for at in range(min(len(data), TRICKLE_BYTES_AT_ONCE)):
        writer.write(data[at : at + 1])
        await writer.drain()
        await asyncio.sleep(0)
    writer.write(data[TRICKLE_BYTES_AT_ONCE:])
    await writer.drain()
