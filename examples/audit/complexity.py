"""Measures one file with lizard: lines of code and cyclomatic complexity."""

from __future__ import annotations

from typing import Any

from .models import Metrics, SourceFile
from .reading import Refused, load_unchanged

__all__ = ["measure"]

MAX_NAME_CHARS = 120
#: No person writes such a line; a bundle's figures would only hide those of the code around it.
MAX_LINE_CHARS = 5_000


def measure(source: SourceFile, digest: str) -> Metrics:
    """Measure a file of any language that lizard knows; others count as no code."""
    try:
        text = load_unchanged(source, digest).text
    except Refused as refused:
        return Metrics(problem=str(refused))
    # Imported here: only the process that measures pays for it.
    from lizard_languages import get_reader_for

    reader_class = get_reader_for(source.path)
    if reader_class is None:
        return Metrics(code_lines=sum(1 for line in text.splitlines() if line.strip()))
    language = str(reader_class.language_names[0])
    longest = max(map(len, text.splitlines()), default=0)
    if longest > MAX_LINE_CHARS:
        return Metrics(language=language, problem=f"generated: a line of {longest:,} characters")
    try:
        about = _analyze(source.path, text, reader_class)
    except Exception as error:  # noqa: BLE001 - hand-written parsers, on anybody's files
        return Metrics(language=language, problem=f"lizard: {type(error).__name__}")
    worst = max(
        about.function_list,
        key=lambda function: (function.cyclomatic_complexity, -function.start_line),
        default=None,
    )
    return Metrics(
        language=language,
        code_lines=int(about.nloc),
        functions=len(about.function_list),
        complexity=max(1, int(about.CCN)),
        worst=str(worst.name)[:MAX_NAME_CHARS] if worst else "",
        worst_complexity=int(worst.cyclomatic_complexity) if worst else 0,
    )


def _analyze(path: str, text: str, reader_class: Any) -> Any:
    """What ``lizard.analyze_file.analyze_source_code`` does, but for one thing: that swallows a
    parser that ran too deep, tells of it on stderr, and returns half the figures.
    """
    import lizard

    context = lizard.FileInfoBuilder(path)
    reader = reader_class(context)
    tokens = reader.generate_tokens(text)
    for extension in lizard.get_extensions([]):
        tokens = extension(tokens, reader)
    for _ in reader(tokens, reader):
        pass
    return context.fileinfo
