"""Agents that need something outside: a server that the test starts, and stops."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from holdfast.agents import Agent, Breaker, Context, Retry
from tests.acceptance.agents import Word, witness

crm = Breaker("crm", failures=3, open_s=0.5, max_open_s=1)
caller = Agent("caller", concurrency=4)
booker = Agent(
    "booker", concurrency=4, breaker=Breaker("books", failures=3, open_s=0.5, max_open_s=1)
)


async def ask(text: str) -> str:
    """One line to the server, and one back."""
    witness("asked", text)
    port = int((Path(os.environ["HOLDFAST_TEST_FOLDER"]) / "port").read_text())
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(text.encode() + b"\n")
        await writer.drain()
        answer = await reader.readline()
    finally:
        writer.close()
    if not answer:
        raise ConnectionResetError("the server hung up")
    return answer.decode().strip()


@caller.task(retry=Retry(attempts=1), timeout_s=10)
async def look_up(ctx: Context, word: Word) -> Word:
    return Word(text=await ctx.step("ask", ask, word.text, breaker=crm), n=word.n)


@booker.task(retry=Retry(attempts=1))
async def book(ctx: Context, word: Word) -> Word:
    return Word(text=await ask(word.text), n=word.n)
