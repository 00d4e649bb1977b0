"""`/metrics` and `/livez`, asked as Prometheus and Kubernetes ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from holdfast.cli.failures import BadInput
from holdfast.cli.metrics_server import MetricsServer, parse_address


class Served:
    def __init__(self) -> None:
        self.problem: str | None = None
        self.port = 0

    async def ask(self, request: str) -> tuple[int, str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request.encode())
        answer = (await asyncio.wait_for(reader.read(), 5)).decode()
        writer.close()
        if not answer:
            return 0, ""
        return int(answer.split()[1]), answer.partition("\r\n\r\n")[2]

    async def get(self, path: str) -> tuple[int, str]:
        return await self.ask(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    served = Served()
    server = MetricsServer(lambda: served.problem)
    served.port = await server.start("127.0.0.1", 0)
    yield served
    await server.close()


async def test_metrics(served: Served) -> None:
    status, body = await served.get("/metrics?x=1")
    assert status == 200
    assert "# TYPE" in body


async def test_liveness_follows_progress(served: Served) -> None:
    assert await served.get("/livez") == (200, "ok\n")
    served.problem = "the poll loop has not come round for 20 s"
    assert await served.get("/livez") == (503, "the poll loop has not come round for 20 s\n")


async def test_other_requests(served: Served) -> None:
    assert (await served.get("/"))[0] == 404
    assert (await served.ask("POST /metrics HTTP/1.1\r\n\r\n"))[0] == 405
    assert (await served.ask("x" * 40_000))[0] == 0
    assert (await served.get("/livez"))[0] == 200  # it still serves


async def test_a_port_in_use_is_named(served: Served) -> None:
    with pytest.raises(BadInput, match=f"port {served.port} on 127.0.0.1 is in use"):
        await MetricsServer(lambda: None).start("127.0.0.1", served.port)


@pytest.mark.parametrize(
    ("text", "address"),
    [("9000", ("0.0.0.0", 9000)), ("127.0.0.1:1", ("127.0.0.1", 1)), ("[::1]:2", ("::1", 2))],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "x", "70000", ":1", "host:"])
def test_bad_addresses(text: str) -> None:
    with pytest.raises(BadInput, match="write PORT or HOST:PORT"):
        parse_address(text)
