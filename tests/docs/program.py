"""The Python of a page as one program: its blocks, in order, in one namespace.

Blocks that define things are a module, which is imported. Those that `await` at their top level
talk to a running system: while they run, `holdfast dev` serves that module, as a reader would.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from tests.docs.pages import Block, blocks
from tests.waiting import until_sync

__all__ = ["awaits", "compiled", "holdfast_command", "load", "python_blocks", "run", "served"]

READY_S = 60.0


def python_blocks(page: Path) -> list[Block]:
    """Return the blocks of Python that are to be run."""
    return [b for b in blocks(page) if b.language == "python" and b.not_run is None]


def compiled(block: Block) -> CodeType:
    """Compile a block as its page numbers its lines; raises `SyntaxError`."""
    tree = ast.parse(block.text, block.place)
    ast.increment_lineno(tree, block.line - 1)
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = compile(tree, block.place, "exec", flags=flags, dont_inherit=True)
    assert isinstance(code, CodeType)
    return code


def awaits(block: Block) -> bool:
    """Tell whether a block awaits something outside of any function."""
    return bool(compiled(block).co_flags & inspect.CO_COROUTINE)


def load(page: Path, folder: Path) -> ModuleType:
    """Write the defining blocks of `page` as a module into `folder`, and import it."""
    name = page.stem.lower().replace("-", "_") + "_page"
    path = folder / f"{name}.py"
    defining = [block.text for block in python_blocks(page) if not awaits(block)]
    path.write_text("\n\n\n".join(defining) + "\n", encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


async def run(block: Block, namespace: dict[str, Any]) -> None:
    """Run an awaiting block."""
    result = eval(compiled(block), namespace)
    if inspect.isawaitable(result):
        await result


def holdfast_command(*arguments: str) -> list[str]:
    """Return the command line that is `holdfast ARGUMENTS` of this very environment."""
    return [sys.executable, "-m", "holdfast.cli", *arguments]


@contextmanager
def served(path: Path, variables: Mapping[str, str]) -> Iterator[None]:
    """Have `holdfast dev` serve a module while the block runs; ends it as Ctrl-C would."""
    log = path.with_suffix(".log")
    with log.open("wb") as out:
        process = subprocess.Popen(
            holdfast_command("dev", path.name),
            cwd=path.parent,
            env={**os.environ, **variables},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def ready() -> bool:
        text = log.read_text(errors="replace")
        assert process.poll() is None, f"holdfast dev ended with {process.returncode}:\n{text}"
        services = re.findall(r"process \d+ +log (\S+)", text)
        logs = [path.parent / service for service in services]
        return bool(logs) and all(log.exists() and " is ready" in log.read_text() for log in logs)

    try:
        until_sync(ready, f"holdfast dev is not ready: {log}", READY_S)
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
