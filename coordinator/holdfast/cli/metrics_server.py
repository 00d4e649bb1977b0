"""`/metrics` for Prometheus and `/livez` for whoever restarts processes: a small HTTP server.

The standard library's asyncio is enough for two paths; it runs on the service's own loop, so that a
loop that stands still does not answer at all.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from http import HTTPStatus

from holdfast.cli.failures import BadInput

__all__ = ["MetricsServer", "parse_address"]

REQUEST_BYTES_MAX = 16_384
REQUEST_TIMEOUT_S = 5.0
TEXT = "text/plain; charset=utf-8"

Liveness = Callable[[], str | None]
"""Returns why the service makes no progress, or None."""


def parse_address(text: str) -> tuple[str, int]:
    """Return (host, port) of `PORT` or `HOST:PORT`; raises `BadInput`."""
    host, colon, port = text.rpartition(":")
    if not port.isdigit() or not 0 <= int(port) < 65_536 or (colon and not host):
        raise BadInput(f"--metrics-port {text!r} cannot be used: write PORT or HOST:PORT")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - scraped from other machines


class MetricsServer:
    """Serves until `close`."""

    def __init__(self, liveness: Liveness) -> None:
        self._liveness = liveness
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; return the port (0 asks for a free one). Raises `BadInput` if it is in use."""
        try:
            self._server = await asyncio.start_server(
                self._serve, host, port, limit=REQUEST_BYTES_MAX
            )
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise BadInput(
                    f"--metrics-port: port {port} on {host} is in use by another process: "
                    "stop that, or choose another port"
                ) from None
            raise BadInput(
                f"--metrics-port: cannot listen on {host}:{port}: {error.strerror or error}"
            ) from None
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(request))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # who asks like this gets no answer
        finally:
            writer.close()

    def _answer(self, request: bytes) -> bytes:
        method, _, rest = request.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method not in ("GET", "HEAD"):
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, TEXT, b"only GET\n")
        if path == "/metrics":
            from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

            return _response(HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest())
        if path == "/livez":
            problem = self._liveness()
            if problem is None:
                return _response(HTTPStatus.OK, TEXT, b"ok\n")
            return _response(HTTPStatus.SERVICE_UNAVAILABLE, TEXT, f"{problem}\n".encode())
        return _response(HTTPStatus.NOT_FOUND, TEXT, b"there is /metrics and /livez\n")


def _response(status: HTTPStatus, kind: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
