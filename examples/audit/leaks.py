"""Searches one file for secrets with detect-secrets, in this process, asking nobody outside.

It uses the plugins and filters of detect-secrets, not its file scanner: that one calls every
plugin by introspection on every line (150 µs a line, three times what the plugins take), opens the
file by itself, and passes over what is not UTF-8.
"""

from __future__ import annotations

import functools
import hashlib
import io
import re
from collections.abc import Iterator
from typing import Any

from .models import Secret, Secrets, SourceFile
from .reading import Loaded, Refused, load_unchanged

__all__ = ["search"]

MAX_LISTED = 50
FINGERPRINT_CHARS = 8
#: Some patterns take time by the cube of a line's length: 12 s for 10,000 characters.
WINDOW_CHARS = 500
OVERLAP_CHARS = 150
#: The parser writes out what an alias stands for, and aliases of aliases have no end: such a file
#: is searched line by line instead.
_YAML_ALIAS = re.compile(r"(?:^|[\s\[{,:-])\*\w", re.MULTILINE)


def _named(text: str, name: str) -> Any:
    """A text that knows its file's name, as the transformers want it."""
    stream: Any = io.StringIO(text)
    stream.name = name
    return stream


def search(source: SourceFile, digest: str) -> Secrets:
    """Search a file for secrets. Their values stay here: see ``Secret``."""
    try:
        loaded = load_unchanged(source, digest)
    except Refused as refused:
        return Secrets(problem=str(refused))
    try:
        found = sorted(set(_secrets(loaded)))
    except Exception as error:  # noqa: BLE001 - parsers of others, on anybody's files
        return Secrets(problem=f"detect-secrets: {type(error).__name__}")
    listed = [
        Secret(line=line, kind=kind, fingerprint=fingerprint)
        for line, kind, fingerprint in found[:MAX_LISTED]
    ]
    return Secrets(count=len(found), listed=listed)


def _secrets(loaded: Loaded) -> Iterator[tuple[int, str, str]]:
    """Line, kind and fingerprint. A configuration file is searched as its parser sees it; what no
    parser claims and holds nothing is tried as one without a section header: so does the original.
    """
    plugins, filters = _tools()
    name = str(loaded.full_path)
    if _is_passed_over(filters, filename=name):
        return
    lines = _parsed(loaded.text, name) or loaded.text.splitlines()
    found = list(_in_lines(plugins, filters, name, lines))
    if not found:
        lines = _parsed(loaded.text, name, use_eager_transformers=True)
        found = list(_in_lines(plugins, filters, name, lines))
    yield from found


def _parsed(text: str, name: str, *, use_eager_transformers: bool = False) -> list[str]:
    """The lines as the parser of a configuration file gives them; none where no parser fits."""
    from detect_secrets.transformers import get_transformed_file

    if name.endswith((".yaml", ".yml")) and _YAML_ALIAS.search(text):
        return []
    try:
        lines = get_transformed_file(
            _named(text, name), use_eager_transformers=use_eager_transformers
        )
    except Exception:  # noqa: BLE001 - too deep, or not what its name says: then line by line
        return []
    return list(lines or [])


def _in_lines(
    plugins: list[Any], filters: list[Any], name: str, lines: list[str]
) -> Iterator[tuple[int, str, str]]:
    seen: set[str] = set()
    for number, line in enumerate(map(str.rstrip, lines), start=1):
        for window in _windows(line):
            if window in seen:
                continue
            seen.add(window)
            for plugin in plugins:
                for secret in plugin.analyze_line(filename=name, line=window, line_number=number):
                    about = _about(name, lines, number, secret.secret_value, plugin)
                    if not _is_passed_over(filters, line=window, **about):
                        yield number, str(secret.type), _fingerprint(secret.secret_value)


def _windows(line: str) -> Iterator[str]:
    """A line in pieces short enough for the plugins' patterns; each laps over the one before."""
    yield line[:WINDOW_CHARS]
    for start in range(WINDOW_CHARS - OVERLAP_CHARS, len(line) - OVERLAP_CHARS, WINDOW_CHARS):
        yield line[start : start + WINDOW_CHARS + OVERLAP_CHARS]


def _about(name: str, lines: list[str], number: int, secret: str, plugin: Any) -> dict[str, Any]:
    from detect_secrets.util.code_snippet import get_code_snippet

    return {
        "filename": name,
        "context": get_code_snippet(lines=lines, line_number=number),
        "secret": secret,
        "plugin": plugin,
    }


def _is_passed_over(filters: list[Any], **about: Any) -> bool:
    """Whether a filter calls it no secret: every filter that needs no more than is known."""
    from detect_secrets.util.inject import call_function_with_arguments

    return any(
        call_function_with_arguments(each, **about)
        for each in filters
        if set(each.injectable_variables) <= about.keys()
    )


def _fingerprint(value: str) -> str:
    return hashlib.sha256(value.encode("utf-8", "replace")).hexdigest()[:FINGERPRINT_CHARS]


@functools.cache
def _tools() -> tuple[list[Any], list[Any]]:
    """The plugins and filters of detect-secrets' defaults, without those that ask a network."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.settings import get_filters, get_plugins, transient_settings

    classes: Any = get_mapping_from_secret_type_to_class().values()
    names = sorted(each.__name__ for each in classes)
    with transient_settings({"plugins_used": [{"name": name} for name in names]}):
        return list(get_plugins()), list(get_filters())
