"""The plans of the workload, each small, together using what plans have."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from holdfast.schemas import Plan

__all__ = ["Work", "draw"]

ORDER_KEYS = 6


@dataclass(frozen=True, slots=True)
class Work:
    """A run to be made."""

    plan: Plan
    input: dict[str, Any]
    order_key: str | None = None


def chain() -> Plan:
    """Return a chain over three agents; the last one pays."""
    plan = Plan("chain")
    begun = plan.task("begin", "alpha.begin", text=plan.input("text"), n=plan.input("n"))
    gone = plan.task("go-on", "beta.go_on", text=begun["text"], n=begun["n"])
    plan.task("end", "gamma.end", text=gone["text"], n=gone["n"])
    return plan


def quick() -> Plan:
    """Return a chain of tasks without steps."""
    plan = Plan("quick")
    one = plan.task("one", "alpha.quick", text=plan.input("text"), n=plan.input("n"))
    two = plan.task("two", "beta.quick", text=one["text"], n=one["n"])
    plan.task("three", "gamma.quick", text=two["text"], n=two["n"])
    return plan


def spread() -> Plan:
    """Return a map over a list that a task makes."""
    plan = Plan("spread")
    listed = plan.task("list", "alpha.spread", text=plan.input("text"), n=plan.input("n"))
    words = plan.map("work", "beta.work", over=listed["items"], n=plan.item, text=listed["text"])
    plan.task("gather", "gamma.gather", words=words)
    return plan


def retry() -> Plan:
    """Return a chain whose middle fails up to two times."""
    plan = Plan("retry")
    begun = plan.task("begin", "alpha.begin", text=plan.input("text"), n=plan.input("n"))
    gone = plan.task("stumble", "beta.stumble", text=begun["text"], n=begun["n"])
    plan.task("end", "gamma.end", text=gone["text"], n=gone["n"])
    return plan


def diamond() -> Plan:
    """Return two branches that meet."""
    plan = Plan("diamond")
    begun = plan.task("begin", "alpha.begin", text=plan.input("text"), n=plan.input("n"))
    left = plan.task("left", "beta.go_on", text=begun["text"], n=begun["n"])
    right = plan.task("right", "beta.stumble", text=begun["text"], n=begun["n"])
    plan.task("end", "gamma.end", text=left["text"], n=right["n"])
    return plan


def ordered() -> Plan:
    """Return a chain whose runs keep their order, per key, at every agent."""
    plan = Plan("ordered")
    plan.order_key = plan.input("text")
    one = plan.task("one", "alpha.ordered", text=plan.input("text"), n=plan.input("n"))
    two = plan.task("two", "beta.ordered", text=one["text"], n=one["n"])
    plan.task("three", "gamma.ordered", text=two["text"], n=two["n"])
    return plan


KINDS = (chain, quick, spread, retry, diamond, ordered)
WEIGHTS = (3, 4, 2, 2, 1, 2)


def draw(chance: random.Random, number: int) -> Work:
    """Draw the plan of run `number`."""
    kind = chance.choices(KINDS, WEIGHTS)[0]
    if kind is ordered:
        key = f"key-{number % ORDER_KEYS}"
        return Work(ordered(), {"text": key, "n": number}, key)
    return Work(kind(), {"text": f"t{number}", "n": number})
