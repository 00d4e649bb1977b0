"""Effects against a ledger server outside, which honours idempotency keys."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from holdfast.client import Client
from tests.acceptance.deployment import Deployment, witnessed

RUNS = 30
PARTS = 5


@contextmanager
def ledger_server() -> Iterator[tuple[str, Counter[str], Counter[str]]]:
    """Yield its URL, how often each key was asked for, and how often it was applied."""
    asked: Counter[str] = Counter()
    applied: Counter[str] = Counter()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                asked[body["key"]] += 1
                if asked[body["key"]] == 1:
                    applied[body["key"]] += 1
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"transferred")

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", asked, applied
    finally:
        server.shutdown()
        thread.join()


async def test_effects_are_applied_once_each_although_agents_are_killed(place: Deployment) -> None:
    with ledger_server() as (url, asked, applied):
        (place.folder / "ledger-url").write_text(url)
        place.coordinator("c1")
        place.agent("payer")
        await asyncio.to_thread(place.wait_ready)
        async with Client(url=place.bus, namespace=place.namespace) as client:
            runs = [
                await client.submit("payer.pay", {"text": str(n)}, run_id=f"run-{n}")
                for n in range(RUNS)
            ]
            for _ in range(3):
                before = sum(asked.values())
                while sum(asked.values()) < min(before + 20, RUNS * PARTS):
                    await asyncio.sleep(0.005)
                place.kill("payer-1")
                place.again("payer-1")
            await asyncio.wait_for(asyncio.gather(*(run.result() for run in runs)), 90)
    assert len(applied) == RUNS * PARTS
    assert set(applied.values()) == {1}
    called = Counter(line[0] for line in witnessed(place.folder / "effects.witness"))
    assert called.keys() == applied.keys()
    assert sum(called.values()) >= RUNS * PARTS
