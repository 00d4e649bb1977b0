"""The report as Markdown, for a terminal or a pull request."""

from __future__ import annotations

from collections.abc import Iterable

from .models import Audit
from .names import shown

__all__ = ["TOP_ROWS", "to_markdown"]

#: Rows of the ranking in both reports.
TOP_ROWS = 25


def to_markdown(audit: Audit, plot_name: str) -> str:
    """The whole report; ``plot_name`` is the file beside it that holds the plot."""
    blocks = [
        f"# Audit of {_code(audit.name)}",
        _summary(audit),
        *(f"> {_plain(note)}" for note in audit.notes),
        "## Hot spots",
        "Score = commits × cyclomatic complexity: complex code that changes often is where the"
        " next defect is most likely.",
        _hot_spots(audit),
        f"![Files by number of changes and by complexity]({plot_name})",
        f"## Weaknesses ({audit.high:,} high, {audit.medium:,} medium, {audit.low:,} low)",
        _weaknesses(audit),
        f"## Secrets ({audit.secrets:,})",
        _secrets(audit),
        f"## Left out, wholly or in part ({audit.left_out:,})",
        _left_out(audit),
    ]
    return "\n\n".join(blocks) + "\n"


def _summary(audit: Audit) -> str:
    return (
        f"{audit.files:,} files inspected, {audit.code_files:,} of them code with"
        f" {audit.code_lines:,} lines · {audit.commits:,} commits ·"
        f" {audit.high + audit.medium:,} weaknesses of high or medium severity ·"
        f" {audit.secrets:,} possible secrets"
    )


def _hot_spots(audit: Audit) -> str:
    if not audit.hot_spots:
        return "No code was found."
    head = ["#", "File", "Score", "Commits", "Authors", "Complexity", "Lines", "Worst function"]
    rows = [
        [
            str(place),
            _code(spot.path),
            f"{spot.score:,}",
            f"{spot.commits:,}",
            f"{spot.authors:,}",
            f"{spot.complexity:,}",
            f"{spot.code_lines:,}",
            f"{_code(spot.worst)} ({spot.worst_complexity:,})" if spot.worst else "",
        ]
        for place, spot in enumerate(audit.hot_spots[:TOP_ROWS], start=1)
    ]
    return _table(head, ["--:", "---", *["--:"] * 5, "---"], rows) + _more(
        audit.code_files, len(rows)
    )


def _weaknesses(audit: Audit) -> str:
    rows = [
        [
            placed.finding.severity,
            _code(f"{placed.path}:{placed.finding.line}"),
            placed.finding.rule,
            _plain(placed.finding.text),
        ]
        for placed in audit.findings
    ]
    if not rows:
        return "None of high or medium severity."
    head = ["Severity", "Place", "Rule", "What"]
    return _table(head, ["---"] * 4, rows) + _more(audit.high + audit.medium, len(rows))


def _secrets(audit: Audit) -> str:
    rows = [
        [
            _code(f"{placed.path}:{placed.secret.line}"),
            _plain(placed.secret.kind),
            _code(placed.secret.fingerprint),
        ]
        for placed in audit.secrets_listed
    ]
    if not rows:
        return "None found."
    return _table(["Place", "Kind", "Fingerprint"], ["---"] * 3, rows) + _more(
        audit.secrets, len(rows)
    )


def _left_out(audit: Audit) -> str:
    rows = [[_code(entry.path), _plain(entry.reason)] for entry in audit.left_out_listed]
    if not rows:
        return "Nothing."
    return _table(["File", "Why"], ["---", "---"], rows) + _more(audit.left_out, len(rows))


def _more(total: int, listed: int) -> str:
    return f"\n\n… and {total - listed:,} more." if total > listed else ""


def _table(head: list[str], rule: list[str], rows: Iterable[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])


def _code(text: str) -> str:
    """A code span that holds any text, also in a table: a bar would end the cell even here."""
    text = shown(text).replace("|", "\\|")
    fence = "`"
    while fence in text:
        fence += "`"
    pad = " " if text.startswith(("`", " ")) or text.endswith(("`", " ")) else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _plain(text: str) -> str:
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>|#" else c for c in shown(text))
