"""The source of the acceptance tests: a run of one task for each order."""

from __future__ import annotations

import os

from pydantic import BaseModel

from holdfast.schemas import Plan
from holdfast.sources import Source, Topic
from tests.acceptance.agents import first


class Order(BaseModel):
    number: int
    text: str


plan = Plan("fulfil")
plan.task("begin", "first.begin", text=plan.input("text"), n=plan.input("number"))

orders = Source(
    "orders",
    topic=Topic(os.environ.get("HOLDFAST_TEST_TOPIC", "orders"), Order),
    plan=plan,
    max_open=40,
)
agent = first
