"""What `--input` may be: `name=value` (any number), a JSON object, or `@file` (JSON or YAML).

The value of `name=value` is JSON where it reads as JSON (numbers, true, false, null, lists,
objects, quoted text), else text: `name=Ada count=3 tags=["a"] zip='"12345"'`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from holdfast.cli.failures import BadInput

__all__ = ["parse_input", "parse_payload"]

FILE_BYTES_MAX = 64 * 1024 * 1024


def parse_input(given: list[str]) -> Any:
    """Return the run's input; raises `BadInput` naming what cannot be read."""
    if len(given) == 1 and not _is_pair(given[0]):
        return _document(given[0])
    found: dict[str, Any] = {}
    for pair in given:
        if not _is_pair(pair):
            raise BadInput(
                f"--input {pair!r} cannot be used: write name=value, one JSON object, or @file"
            )
        name, _, text = pair.partition("=")
        if name in found:
            raise BadInput(f"--input names {name!r} twice")
        found[name] = _value(text)
    return found


def parse_payload(given: str | None, pairs: list[str]) -> Any:
    """Return a signal's payload: JSON or @file, or what `--input` says; None without either.

    Raises `BadInput` naming what cannot be read.
    """
    if given is None:
        return parse_input(pairs) if pairs else None
    if pairs:
        raise BadInput("give the payload as an argument, or by --input; not both")
    if given.startswith("@"):
        return _file(given[1:])
    try:
        return json.loads(given, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BadInput(
            f"the payload {given[:60]!r} is not JSON ({error}): write text as '\"text\"', fields "
            "as --input name=value, a file as @file"
        ) from None


def _is_pair(text: str) -> bool:
    name, equals, _ = text.partition("=")
    return bool(equals) and name.replace("_", "a").replace("-", "a").isalnum()


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(name: str) -> Any:
    raise ValueError(name)


def _document(text: str) -> Any:
    if text.startswith("@"):
        return _file(text[1:])
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BadInput(
            f"--input {text[:60]!r} is neither name=value nor JSON ({error}); a file is given by @"
        ) from None


def _file(name: str) -> Any:
    try:
        if name == "-":
            text = sys.stdin.read()
        else:
            path = Path(name)
            if path.stat().st_size > FILE_BYTES_MAX:
                raise BadInput(f"input file {name!r} is larger than {FILE_BYTES_MAX >> 20} MiB")
            text = path.read_text("utf-8")
    except OSError as error:
        raise BadInput(f"input file {name!r} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise BadInput(f"input file {name!r} is not UTF-8 text") from None
    return _parse(name, text)


def _parse(name: str, text: str) -> Any:
    if Path(name).suffix.lower() in (".yaml", ".yml"):
        return _yaml(name, text)
    try:
        return json.loads(text, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        raise BadInput(f"{name}:{error.lineno}:{error.colno}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{name}: {error}") from None


def _yaml(name: str, text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise BadInput(f"{name}{place}: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadInput(f"{name}: {str(error).splitlines()[0]}") from None
