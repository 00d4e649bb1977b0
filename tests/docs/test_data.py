"""YAML, JSON and TOML in the pages is what the project reads: plans, and its own settings."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from holdfast.cli.settings import Settings
from holdfast.schemas.plan import PlanDocument
from tests.docs.pages import Block, blocks, page_id, pages


@pytest.mark.parametrize("page", pages(), ids=page_id)
def test_data_in_blocks_is_valid(page: Path) -> None:
    for block in blocks(page):
        if block.not_run is None:
            check(block)


def check(block: Block) -> None:
    for document in documents(block):
        if isinstance(document, dict) and "tasks" in document:
            PlanDocument.model_validate(document)
        if isinstance(document, dict) and "tool" in document:
            Settings.model_validate(document["tool"]["holdfast"])


def documents(block: Block) -> Iterator[Any]:
    if block.language in ("yaml", "yml"):
        yield from yaml.safe_load_all(block.text)
    elif block.language == "json":
        yield json.loads(block.text)
    elif block.language == "toml":
        yield tomllib.loads(block.text)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("yaml", "name: x\ntasks: {list: {task: scout.list, inputs: {}}}"),
        ("json", '{"name": "x", "tasks": {}}'),
        ("toml", "[tool.holdfast]\nbuss = 'sqlite:///x'"),
        ("yaml", "name: ["),
    ],
)
def test_wrong_data_is_found(language: str, text: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, yaml.YAMLError)):
        check(Block(tmp_path / "page.md", 1, language, text, None))
